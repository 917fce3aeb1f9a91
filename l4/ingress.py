"""Which L4 node brought a flow here, and when: a read-only view of the redirector's pinned `ingress` map.

The proxy asks once for each flow, at accept: one system call. The redirector notes each SYN that arrives through the
tunnel; the map keeps the newest ones only (least recently used go first), so ask at accept and not later.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Self

from l4.bpf_call import READ_ONLY
from l4.bpf_map import Map
from l4.pins import pin_path

_PROTOCOL_TCP = 6
_MAPPED = bytes(10) + b"\xff\xff"

# `struct flow` and `struct ingress` of l4/bpf/.
_FLOW = struct.Struct("!16s16sHBxHxx")
_RECORD = struct.Struct("=Q4xH2x")


class IngressUnavailable(Exception):
    """No redirector has run on this host since boot, or its maps are of another version."""


@dataclass(frozen=True, slots=True)
class Ingress:
    """How a flow came in."""

    node_id: int
    """The L4 node, by the id that it writes into GUE; 0 if it is not known, as behind IP in IP."""
    arrived_ns: int
    """When its first SYN arrived at this host, in nanoseconds of CLOCK_MONOTONIC (`time.monotonic_ns`).

    If a flood pushed the SYN's record out: when the packet arrived that ended the handshake."""


class IngressMap:
    """The open map. Not to be used by two threads at once."""

    __slots__ = ("_map",)

    def __init__(self, opened: Map) -> None:
        self._map = opened

    @classmethod
    def open(cls, bpffs: Path) -> Self:
        """Opens the map that the redirector pinned in `bpffs`. Raises IngressUnavailable."""
        path = pin_path(bpffs, "redirector", "ingress")
        try:
            opened = Map.pinned(path, READ_ONLY)
        except OSError as error:
            raise IngressUnavailable(f"{path}: {error.strerror}; is a redirector running on this host?") from error
        if (opened.shape.key_size, opened.shape.value_size) != (_FLOW.size, _RECORD.size):
            raise IngressUnavailable(f"{path} has another layout: {opened.shape}; redirector and proxy versions differ")
        return cls(opened)

    def lookup(
        self,
        client: IPv4Address | IPv6Address | str | bytes,
        client_port: int,
        vip: IPv4Address | IPv6Address | str | bytes,
        vip_port: int,
    ) -> Ingress | None:
        """How the flow between these ends came in; None if it is not known (any more).

        Octets (4 or 16, network order) are the cheapest form of an address. IPv4 addresses mapped into IPv6 count as
        the IPv4 addresses that they stand for.
        """
        key = _FLOW.pack(_octets(client), _octets(vip), vip_port, _PROTOCOL_TCP, client_port)
        value = self._map.lookup(key)
        if value is None:
            return None
        arrived_ns, node_id = _RECORD.unpack(value)
        return Ingress(node_id, arrived_ns)

    def close(self) -> None:
        """Closes the descriptor."""
        self._map.close()


def _octets(address: IPv4Address | IPv6Address | str | bytes) -> bytes:
    if isinstance(address, str):
        address = ip_address(address)
    packed = address if isinstance(address, bytes) else address.packed
    return _MAPPED + packed if len(packed) == 4 else packed
