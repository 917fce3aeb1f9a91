"""VIPs on `lo`: single addresses, and blocks as an address with its prefix length.

On an L4 node BIRD announces what it finds there; on a member's host the kernel accepts packets to it. Every address
that is set here bears our mark in its `IFA_PROTO` (Linux 5.18), so that a later process, which knows nothing of an
earlier one, takes away what is ours and nothing else.

Of a block, the kernel accepts what its routes call local. In IPv4 an address on `lo` makes its whole block so, but for
the last address, which it takes for a broadcast: that route is taken away. In IPv6 it makes the address alone local, so
that the block is given a route of its own.

A VIP may be put there for a time, which is then renewed: the kernel takes it away by itself if nobody does, with all
routes, those of ours too (docs/adr/0014-dead-mans-timer.md).

What is there is read (`look_at_loopback`), what is to be done follows from that (`plan_loopback`, which touches
nothing), and is then done (`carry_out`).
"""

import errno
import logging
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from l4.interface_addresses import Network, addresses_of
from l4.loopback_requests import (
    LOOPBACK_INDEX,
    OUR_PROTOCOL,
    address_request,
    block_routes,
    broadcast_route_request,
    broadcast_routes,
    has_broadcast,
    is_up,
    local_route_request,
    up_request,
)
from l4.rtnetlink import Request, Rtnetlink

log = logging.getLogger(__name__)

__all__ = ["LOOPBACK_INDEX", "OUR_PROTOCOL"]


#: Changes that are written to the log one by one, of those that are made together: a screenful.
_MOST_TOLD = 20


class VipError(Exception):
    """The kernel refused to set or remove an address."""


@dataclass(frozen=True, slots=True)
class Loopback:
    """What is on `lo`, told apart by our mark. A single address is a network of one."""

    is_up: bool
    lifetimes: Mapping[Network, int | None]
    """Of ours: seconds left; None: for ever."""
    foreign: frozenset[Network]
    routes: Mapping[Network, float | None]
    """Our local routes of IPv6 blocks, in the same way. One that is out of time may linger, without effect."""
    broadcasts: frozenset[Network]
    """Addresses that the kernel takes for broadcasts."""

    @property
    def ours(self) -> frozenset[Network]:
        return frozenset(self.lifetimes)

    @property
    def all(self) -> frozenset[Network]:
        return self.ours | self.foreign


class _Act(StrEnum):
    """With its words for an operator, from the network's."""

    BRING_UP = "lo: brought up"
    PUT_ON = "VIP {network}: put on lo{time}"
    TAKE_OFF = "VIP {network}: taken off lo"
    RENEW = "VIP {network}: stays on lo{time}"
    ADD_ROUTE = "local route of VIP {network}: added{time}"
    RENEW_ROUTE = "local route of VIP {network}: stays{time}"
    REMOVE_ROUTE = "local route of VIP {network}: removed"
    REMOVE_BROADCAST = "{network} as a broadcast address: removed, it is a VIP's"


@dataclass(frozen=True, slots=True)
class LoopbackChange:
    """One thing to be done on `lo`."""

    act: _Act
    network: Network | None = None
    lifetime_s: int | None = None

    @property
    def is_renewal(self) -> bool:
        """Whether it only prolongs what is there."""
        return self.act in (_Act.RENEW, _Act.RENEW_ROUTE)

    @property
    def words(self) -> str:
        """What it does, as an operator would say it."""
        time = f", for {self.lifetime_s} s unless renewed" if self.lifetime_s is not None else ""
        return self.act.format(network=_text(self.network) if self.network is not None else "", time=time)

    @property
    def request(self) -> Request:
        network, lifetime_s = self.network, self.lifetime_s
        if network is None:
            return up_request()
        match self.act:
            case _Act.PUT_ON:  # EEXIST: somebody else was faster
                return address_request(network, lifetime_s, tolerated=errno.EEXIST)
            case _Act.RENEW:
                return address_request(network, lifetime_s, replaces=True)
            case _Act.TAKE_OFF:
                return address_request(network, removes=True, tolerated=errno.EADDRNOTAVAIL)
            case _Act.ADD_ROUTE | _Act.RENEW_ROUTE:
                return local_route_request(network, lifetime_s)
            case _Act.REMOVE_ROUTE:
                return local_route_request(network, removes=True)
            case _:
                return broadcast_route_request(network)


def vips_on_loopback() -> Loopback:
    """Reads the addresses and local routes of `lo`. Raises OSError."""
    with Rtnetlink() as netlink:
        return look_at_loopback(netlink)


def look_at_loopback(netlink: Rtnetlink) -> Loopback:
    """The same by a socket that is open. Raises OSError."""
    held = list(addresses_of(LOOPBACK_INDEX, netlink))
    return Loopback(
        is_up=is_up(),
        lifetimes={address.network: address.valid_s for address in held if address.mark == OUR_PROTOCOL},
        foreign=frozenset(address.network for address in held if address.mark != OUR_PROTOCOL),
        routes=dict(block_routes(netlink)),
        broadcasts=frozenset(broadcast_routes(netlink)),
    )


def plan_loopback(
    wanted: Mapping[Network, int | None], present: Loopback, *, renews: bool = True
) -> list[LoopbackChange]:
    """What is to be done so that `wanted`, and nothing else of ours, is on `lo`: a pure function.

    `wanted` says for how many seconds; None: for ever. A time that is a third over is renewed, unless `renews` is
    false: then only what has the wrong kind of lifetime, or a longer one, is given another. What leaves comes first.
    """
    changes = [] if present.is_up else [LoopbackChange(_Act.BRING_UP)]
    leaving = present.ours.difference(wanted)
    changes += [LoopbackChange(_Act.TAKE_OFF, network) for network in sorted(leaving, key=_order)]
    stale_routes = present.routes.keys() - wanted.keys()
    changes += [LoopbackChange(_Act.REMOVE_ROUTE, network) for network in sorted(stale_routes, key=_order)]
    for network in sorted(wanted, key=_order):
        lifetime_s = wanted[network]
        if network.version == 6 and not _is_single(network):
            if network not in present.routes:
                changes.append(LoopbackChange(_Act.ADD_ROUTE, network, lifetime_s))
            elif _is_due(lifetime_s, present.routes[network], renews=renews):
                changes.append(LoopbackChange(_Act.RENEW_ROUTE, network, lifetime_s))
        if network in present.lifetimes:
            if _is_due(lifetime_s, present.lifetimes[network], renews=renews):
                changes.append(LoopbackChange(_Act.RENEW, network, lifetime_s))
        elif network not in present.foreign:
            changes.append(LoopbackChange(_Act.PUT_ON, network, lifetime_s))
        is_held = network in present.lifetimes  # if not, the kernel is about to make the route
        if (
            network not in present.foreign
            and has_broadcast(network)
            and is_held <= (last(network) in present.broadcasts)
        ):
            changes.append(LoopbackChange(_Act.REMOVE_BROADCAST, last(network)))
    return changes


def carry_out(changes: Iterable[LoopbackChange], netlink: Rtnetlink) -> None:
    """Does what was planned. Raises VipError; what stands behind a change that failed was done nevertheless."""
    changes = list(changes)
    try:
        netlink.change([change.request for change in changes])
    except OSError as error:
        raise VipError(f"lo: the kernel refused a change of VIPs: {error}; the agent needs CAP_NET_ADMIN") from error
    told = [change for change in changes if not change.is_renewal]
    for change in told[:_MOST_TOLD]:
        log.info("%s", change.words)
    if len(told) > _MOST_TOLD:
        log.info("... and %d more", len(told) - _MOST_TOLD)


def reconcile(wanted: Collection[Network]) -> Loopback:
    """Puts `wanted` on `lo`, for ever, and takes off whatever else is ours. What someone else put there stays theirs.

    Idempotent; what is there already is not touched, not even for a moment. Brings `lo` up if it is down.
    Returns what is there now. Raises VipError, OSError.
    """
    with Rtnetlink() as netlink:
        present = look_at_loopback(netlink)
        changes = plan_loopback(dict.fromkeys(wanted), present)
        if not changes:
            return present
        carry_out(changes, netlink)
        return look_at_loopback(netlink)


def withdraw_all_but(networks: Collection[Network]) -> None:
    """Takes those VIPs off `lo` that are not named. Whatever stays is not touched. Raises VipError, OSError."""
    with Rtnetlink() as netlink:
        present = look_at_loopback(netlink)
        leaving = present.ours.difference(networks)
        staying = {network: left for network, left in present.lifetimes.items() if network not in leaving}
        changes = [change for change in plan_loopback(staying, present) if change.act in _DEPARTURES]
        carry_out(changes, netlink)


_DEPARTURES = (_Act.TAKE_OFF, _Act.REMOVE_ROUTE)


def last(network: Network) -> Network:
    """The last address of a block, as a network of one."""
    return type(network)(network.broadcast_address)


def _is_due(lifetime_s: int | None, left_s: float | None, *, renews: bool) -> bool:
    if lifetime_s is None or left_s is None:
        return lifetime_s != left_s
    if left_s > lifetime_s or left_s <= 0:
        return True
    return renews and left_s <= math.ceil(lifetime_s * 2 / 3)


def _is_single(network: Network) -> bool:
    return network.prefixlen == network.max_prefixlen


def _text(network: Network) -> str:
    return str(network.network_address) if _is_single(network) else str(network)


def _order(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen
