"""VIPs on `lo`: single addresses, and blocks as an address with its prefix length.

On an L4 node BIRD announces what it finds there; on a member's host the kernel accepts packets to it. Every address
that is set here bears our mark in its `IFA_PROTO` (Linux 5.18), so that a later process, which knows nothing of an
earlier one, takes away what is ours and nothing else.

Of a block, the kernel accepts what its routes call local. In IPv4 an address on `lo` makes its whole block so, but for
the last address, which it takes for a broadcast: that route is taken away. In IPv6 it makes the address alone local, so
that the block is given a route of its own.
"""

import contextlib
import errno
import logging
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from l4.interface_addresses import Network, addresses_of

log = logging.getLogger(__name__)

#: Our mark, of addresses and of routes. 0 to 3 are the kernel's addresses (`IFAPROT_*` in `linux/if_addr.h`), up to 4
#: its routes (`RTPROT_*`), the rest is for user space.
OUR_PROTOCOL = 0xEF

LOOPBACK_INDEX = 1

#: An address on loopback is nobody else's: duplicate address detection would only delay it (`IFA_F_NODAD`). An IPv6
#: block has a route of ours, and needs none of the kernel's, which would not make it local (`IFA_F_NOPREFIXROUTE`).
_NO_DAD = 0x02
_NO_PREFIX_ROUTE = 0x200

_LOCAL_TABLE = 255
_SCOPE_LINK = 253
_PROTOCOL_KERNEL = 2
#: IPv4 blocks this long or longer have no broadcast address (RFC 3021).
_NO_BROADCAST_LENGTH = 31


class VipError(Exception):
    """The kernel refused to set or remove an address."""


@dataclass(frozen=True, slots=True)
class Loopback:
    """What is on `lo`, told apart by our mark. A single address is a network of one."""

    ours: frozenset[Network]
    foreign: frozenset[Network]

    @property
    def all(self) -> frozenset[Network]:
        return self.ours | self.foreign


def vips_on_loopback() -> Loopback:
    """Reads the addresses of `lo`. Raises OSError."""
    return _read()


def reconcile(wanted: Collection[Network]) -> Loopback:
    """Puts `wanted` on `lo` and takes off whatever else is ours. What someone else put there stays theirs.

    Idempotent; what is there already is not touched, not even for a moment. Brings `lo` up if it is down.
    Returns what is there now. Raises VipError.
    """
    present = _read()
    with IPRoute() as netlink:
        try:
            if netlink.get_links(LOOPBACK_INDEX)[0].get("state") != "up":
                netlink.link("set", index=LOOPBACK_INDEX, state="up")
            for network in sorted(present.ours.difference(wanted), key=_order):
                _remove(netlink, network)
                log.info("VIP %s taken off lo", _text(network))
            for network in sorted(set(wanted) - present.all, key=_order):
                _add(netlink, network)
                log.info("VIP %s put on lo", _text(network))
        except NetlinkError as error:
            raise VipError(
                f"lo: the kernel refused a change of VIPs: {error}; the agent needs CAP_NET_ADMIN"
            ) from error
    return _read() if present.ours != frozenset(wanted) else present


def _add(netlink: IPRoute, network: Network) -> None:
    if network.version == 6 and not _is_single(network):
        with _unless(errno.EEXIST):
            netlink.route("add", **_local_route(network))
    with _unless(errno.EEXIST):  # somebody else was faster
        netlink.addr("add", **_address(network))
    if isinstance(network, IPv4Network) and network.prefixlen < _NO_BROADCAST_LENGTH:
        with _unless(errno.ESRCH):
            netlink.route("del", **_broadcast_route(network))


def _remove(netlink: IPRoute, network: Network) -> None:
    with _unless(errno.EADDRNOTAVAIL):  # as above
        netlink.addr("del", **_address(network))
    if network.version == 6 and not _is_single(network):
        with _unless(errno.ESRCH):
            netlink.route("del", **_local_route(network))


def _address(network: Network) -> dict[str, Any]:
    """A block's address is its last in IPv6, where an address can be on `lo` but once: its first may be that of a
    narrower block, or a VIP of its own."""
    is_ipv4 = network.version == 4
    return {
        "index": LOOPBACK_INDEX,
        "address": str(network.network_address if is_ipv4 else network.broadcast_address),
        "family": _family(network),
        "prefixlen": network.prefixlen,
        "flags": _NO_DAD if is_ipv4 else _NO_DAD | _NO_PREFIX_ROUTE,
        "proto": OUR_PROTOCOL,
    }


def _local_route(network: Network) -> dict[str, Any]:
    return {"type": "local", **_local_table(network), "dst": str(network), "proto": OUR_PROTOCOL}


def _broadcast_route(network: IPv4Network) -> dict[str, Any]:
    """As the kernel has made it."""
    made = {"type": "broadcast", "scope": _SCOPE_LINK, "proto": _PROTOCOL_KERNEL}
    return {**made, **_local_table(network), "dst": f"{network.broadcast_address}/32"}


def _local_table(network: Network) -> dict[str, Any]:
    return {"family": _family(network), "oif": LOOPBACK_INDEX, "table": _LOCAL_TABLE}


@contextlib.contextmanager
def _unless(tolerated: int) -> Iterator[None]:
    """The kernel may answer this error."""
    try:
        yield
    except NetlinkError as error:
        if error.code != tolerated:
            raise


def _read() -> Loopback:
    found = dict(addresses_of(LOOPBACK_INDEX))
    return Loopback(
        ours=frozenset(network for network, mark in found.items() if mark == OUR_PROTOCOL),
        foreign=frozenset(network for network, mark in found.items() if mark != OUR_PROTOCOL),
    )


def _is_single(network: Network) -> bool:
    return network.prefixlen == network.max_prefixlen


def _text(network: Network) -> str:
    return str(network.network_address) if _is_single(network) else str(network)


def _family(network: Network) -> int:
    return socket.AF_INET if network.version == 4 else socket.AF_INET6


def _order(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen
