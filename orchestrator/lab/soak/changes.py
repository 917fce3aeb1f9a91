"""Random changes, as operators make them: one after another, each possible after the one before. No I/O.

Between two changes the fleet is as a `Wish` says. A change is drawn, tried, and taken over into the wish if the fleet
did not refuse it.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any, Final

from orchestrator.lab.configuration import POOL
from orchestrator.lab.topology import VIP_V4, VIP_V6

#: Members that are given new flows at any time.
LEAST_ACTIVE: Final = 2

#: Weights that a member may have: a new one moves some rows, never all.
WEIGHTS: Final = (1, 2, 3, 4)

#: VIPs beside those that carry the load, and their first port.
EXTRA_VIPS: Final = 8
FIRST_EXTRA_PORT: Final = 20_000

#: Guard entries at any time; of TEST-NET-1 (RFC 5737), where nobody in a lab is.
MOST_BLOCKED: Final = 64
BLOCKED: Final = "192.0.2.{}/32"


class Kind(StrEnum):
    """What is changed."""

    WEIGHT = "weight"
    """Of a member, by configuration."""
    MEMBER_OUT = "member-out"
    """A member leaves the configuration of the pool; its old flows stay with it."""
    MEMBER_IN = "member-in"
    DRAIN = "drain"
    UNDRAIN = "undrain"
    """Of a member that drains, or is drained."""
    VIP_IN = "vip-in"
    """A VIP more in the configuration."""
    VIP_OUT = "vip-out"
    BLOCK = "block"
    """An entry of the guard's block list."""
    UNBLOCK = "unblock"


#: Those that are made by applying a configuration.
CONFIGURED: Final = frozenset({Kind.WEIGHT, Kind.MEMBER_OUT, Kind.MEMBER_IN, Kind.VIP_IN, Kind.VIP_OUT})


@dataclass(slots=True)
class Wish:
    """What the operators want of the fleet."""

    weights: dict[str, int]
    """Members in the configuration."""
    outside: set[str] = field(default_factory=set)
    """Proxies that are not."""
    drained: set[str] = field(default_factory=set)
    """Members that drain, or are drained."""
    vips: set[int] = field(default_factory=set)
    """Ports of the extra VIPs."""
    blocked: set[int] = field(default_factory=set)
    """Last octets of what the guard blocks."""

    @property
    def active(self) -> list[str]:
        """Members that take new flows."""
        return sorted(self.weights.keys() - self.drained)


@dataclass(frozen=True, slots=True)
class Change:
    """One change."""

    kind: Kind
    what: str
    """A proxy's name, a port, or a prefix."""
    wish: Wish
    """The fleet after it."""


def usual(proxies: Sequence[str]) -> Wish:
    """The fleet as the lab comes up."""
    return Wish(dict.fromkeys(proxies, 1))


def draw(random: Random, wish: Wish) -> Change:
    """A change that is possible now; each kind that is has the same chance."""
    kind = random.choice([kind for kind in Kind if _choices(kind, wish)])
    what = random.choice(_choices(kind, wish))
    after = copy.deepcopy(wish)
    match kind:
        case Kind.WEIGHT:
            after.weights[what] = random.choice([weight for weight in WEIGHTS if weight != wish.weights[what]])
        case Kind.MEMBER_OUT:
            del after.weights[what]
            after.outside.add(what)
        case Kind.MEMBER_IN:
            after.outside.remove(what)
            after.weights[what] = 1
        case Kind.DRAIN:
            after.drained.add(what)
        case Kind.UNDRAIN:
            after.drained.remove(what)
        case Kind.VIP_IN:
            after.vips.add(int(what))
        case Kind.VIP_OUT:
            after.vips.remove(int(what))
        case Kind.BLOCK:
            after.blocked.add(int(what))
        case Kind.UNBLOCK:
            after.blocked.remove(int(what))
    return Change(kind, BLOCKED.format(what) if kind in (Kind.BLOCK, Kind.UNBLOCK) else what, after)


def _choices(kind: Kind, wish: Wish) -> list[str]:
    """What a change of this kind may be about."""
    spare = wish.active if len(wish.active) > LEAST_ACTIVE else []
    match kind:
        case Kind.WEIGHT:
            return sorted(wish.weights)
        case Kind.MEMBER_OUT | Kind.DRAIN:
            return spare
        case Kind.MEMBER_IN:
            return sorted(wish.outside)
        case Kind.UNDRAIN:
            return sorted(wish.drained)
        case Kind.VIP_IN:
            ports = range(FIRST_EXTRA_PORT, FIRST_EXTRA_PORT + EXTRA_VIPS)
            return [str(port) for port in ports if port not in wish.vips]
        case Kind.VIP_OUT:
            return [str(port) for port in sorted(wish.vips)]
        case Kind.BLOCK:
            return [str(octet) for octet in range(1, 255) if octet not in wish.blocked][
                : MOST_BLOCKED - len(wish.blocked)
            ]
        case Kind.UNBLOCK:
            return [str(octet) for octet in sorted(wish.blocked)]


def configured(platform: dict[str, Any], wish: Wish) -> dict[str, Any]:
    """`platform.yaml` of a lab with the members and VIPs of a wish."""
    (pool,) = platform["pools"]
    return platform | {
        "pools": [pool | {"members": [{"node": name, "weight": wish.weights[name]} for name in sorted(wish.weights)]}],
        "vips": [*platform["vips"], *(_extra_vip(port) for port in sorted(wish.vips))],
    }


def _extra_vip(port: int) -> dict[str, Any]:
    """Some are TCP, for which proxies listen, and some are UDP; of both families."""
    number = port - FIRST_EXTRA_PORT
    address = VIP_V6 if number // 2 % 2 else VIP_V4
    protocol = {"protocol": "udp", "mode": "passthrough"} if number % 2 else {"mode": "terminate"}
    return {"name": f"extra-{number}", "address": str(address), "port": port, "pool": POOL, **protocol}
