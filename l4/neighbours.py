"""Ethernet addresses of those to whom an L4 node sends frames itself: members behind an L2 rewrite, and next hops.

XDP cannot ask for an address, and the kernel, which sends none of these packets, does not know that it should. So the
agent hands it neighbour entries to manage (`NTF_EXT_MANAGED`, Linux 5.16): the kernel resolves them, keeps them fresh,
and `bpf_fib_lookup` finds them. Older kernels are asked to look (`NTF_USE`) as often as the agent does.
"""

import errno
import logging
import socket
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from l4.entries import MemberEntry
from orchestrator.contract.pool import Encapsulation
from orchestrator.contract.snapshot import BalancerSnapshot

log = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address

#: Seconds that a new snapshot waits for answers: a probe a second is what neighbour discovery sends (RFC 4861 section
#: 10, RETRANS_TIMER), and hosts that are up answer the first within milliseconds.
PATIENCE_S = 1.0

_POLL_S = 0.02
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
#: include/uapi/linux/neighbour.h
_NTF_USE = 1 << 0
_NTF_EXT_MANAGED = 1 << 0
_NUD_NONE = 0
_NUD_PERMANENT = 0x80
_NUD_FAILED = 0x20
_MAC_OCTETS = 6


@dataclass(frozen=True, slots=True)
class NextHop:
    """Who gets the frames for an address."""

    interface: int
    """Its index."""
    address: Address
    is_target: bool
    """Whether this is the address itself: a neighbour in the same segment."""


def addresses_to_resolve(snapshot: BalancerSnapshot) -> frozenset[Address]:
    """Members whose frames this node addresses itself."""
    return frozenset(
        member.address
        for pool in snapshot.pools
        if snapshot.fib or pool.encapsulation is Encapsulation.L2
        for member in pool.members
    )


def with_macs(members: Iterable[MemberEntry], neighbours: "Neighbours") -> list[MemberEntry]:
    """The same members with the Ethernet addresses of those that are neighbours."""
    return [replace(member, mac=neighbours.mac(member.address) or member.mac) for member in members]


class Neighbours:
    """Neighbour entries that the kernel keeps for this agent, and what they said last. For one thread at a time."""

    def __init__(self) -> None:
        self._hops: dict[Address, NextHop] = {}
        self._macs: dict[NextHop, bytes] = {}
        self._static: set[NextHop] = set()
        self._kernel_manages = True
        self._strangers: frozenset[Address] = frozenset()

    def __repr__(self) -> str:
        return f"<Neighbours {len(self._macs)} known of {len(set(self._hops.values()))} next hops>"

    def mac(self, address: Address) -> bytes | None:
        """Six octets; None if the address is no neighbour, or has not answered yet."""
        hop = self._hops.get(address)
        return self._macs.get(hop) if hop is not None and hop.is_target else None

    def keep(self, addresses: Collection[Address], patience_s: float = 0.0) -> None:
        """Sees to it that the next hops to these addresses, and no others, are kept resolved; reads what is known.

        Waits up to `patience_s` for those that are not known yet. An address that was known stays known while it does
        not answer: the host may only be slow. Raises OSError.
        """
        if not addresses and not self._hops:
            return
        deadline = time.monotonic() + patience_s
        with IPRoute() as netlink:
            before = set(self._hops.values())
            self._hops = {address: hop for address in addresses if (hop := _next_hop(netlink, address)) is not None}
            wanted = set(self._hops.values())
            self._tell_of_strangers(addresses)
            for hop in before - wanted:
                self._let_go(netlink, hop)
            self._read(netlink, wanted)
            for hop in wanted - self._static:
                if hop not in before or not self._kernel_manages:
                    self._ask(netlink, hop)
            while wanted - self._macs.keys() and time.monotonic() < deadline:
                time.sleep(_POLL_S)
                self._read(netlink, wanted)

    def _tell_of_strangers(self, addresses: Collection[Address]) -> None:
        strangers = frozenset(addresses) - self._hops.keys()
        for address in sorted(strangers - self._strangers, key=str):
            log.warning("no route to %s: nothing can be sent there", address)
        self._strangers = strangers

    def _ask(self, netlink: IPRoute, hop: NextHop) -> None:
        entry: dict[str, Any] = {
            "dst": str(hop.address),
            "ifindex": hop.interface,
            "family": _FAMILIES[hop.address.version],
            "state": _NUD_NONE,
        }
        try:
            if self._kernel_manages:
                netlink.neigh("replace", **entry, flags_ext=_NTF_EXT_MANAGED)
                return
        except NetlinkError as error:
            if error.code not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise OSError(error.code, f"neighbour {hop.address}: {error}") from error
            log.info("this kernel manages no neighbour entries: it is asked to look every second")
            self._kernel_manages = False
        try:
            netlink.neigh("replace", **entry, flags=_NTF_USE)
        except NetlinkError as error:
            raise OSError(error.code, f"neighbour {hop.address}: {error}") from error

    def _let_go(self, netlink: IPRoute, hop: NextHop) -> None:
        self._macs.pop(hop, None)
        if hop in self._static:
            self._static.discard(hop)
            return
        try:
            netlink.neigh("del", dst=str(hop.address), ifindex=hop.interface, family=_FAMILIES[hop.address.version])
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.ENODEV):
                raise OSError(error.code, f"neighbour {hop.address}: {error}") from error

    def _read(self, netlink: IPRoute, wanted: Collection[NextHop]) -> None:
        by_place = {(hop.interface, hop.address): hop for hop in wanted}
        for family in {_FAMILIES[hop.address.version] for hop in wanted}:
            for entry in netlink.get_neighbours(family=family):
                text = entry.get("NDA_DST")
                hop = by_place.get((entry["ifindex"], ip_address(text))) if text else None
                mac = bytes.fromhex((entry.get("NDA_LLADDR") or "").replace(":", ""))
                if hop is None or len(mac) != _MAC_OCTETS or entry["state"] & _NUD_FAILED:
                    continue
                self._macs[hop] = mac
                if entry["state"] & _NUD_PERMANENT:
                    self._static.add(hop)  # an operator's: it needs nobody's care


def _next_hop(netlink: IPRoute, address: Address) -> NextHop | None:
    """By the kernel's routes. None if there is none, or if the address is this host's own."""
    try:
        (route, *_) = netlink.route("get", dst=str(address), family=_FAMILIES[address.version])
    except NetlinkError:
        return None
    interface = route.get("RTA_OIF")
    via = route.get("RTA_VIA")
    gateway = route.get("RTA_GATEWAY") or (via.get("addr") if via else None)
    if interface is None or route["type"] != _UNICAST:
        return None
    return NextHop(interface, ip_address(gateway) if gateway else address, is_target=gateway is None)


_UNICAST = 1  # RTN_UNICAST
