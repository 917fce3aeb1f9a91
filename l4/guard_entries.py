"""From a snapshot's guard to what the guard's maps are fed with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from l4.guard import RateLimit, VipLimits
from l4.guard_lists import Listing, Network
from orchestrator.contract import guard as contract
from orchestrator.contract.vip import Vip


@dataclass(frozen=True, slots=True)
class GuardEntries:
    """Lists and limits, of all VIPs and of some by their ids."""

    listed: Mapping[Network, Listing]
    limits: VipLimits
    limits_of_vip: Mapping[int, VipLimits]
    families: frozenset[int]
    """Of the listed prefixes: 4, 6."""


def guard_entries(guard: contract.Guard, vips: Iterable[Vip]) -> GuardEntries:
    """What is on both lists is allowed."""
    limits = guard.limits
    source, vip, node = map(_limit, (limits.source, limits.vip, limits.new_flows))
    listed: dict[Network, Listing] = {
        **dict.fromkeys(guard.lists.block, Listing.BLOCKED),
        **dict.fromkeys(guard.lists.allow, Listing.ALLOWED),
    }
    return GuardEntries(
        listed=listed,
        limits=VipLimits(source, vip, node),
        limits_of_vip={
            one.id: VipLimits(source, _limit(limits.vips[one.name]), node) for one in vips if one.name in limits.vips
        },
        families=frozenset(network.version for network in listed),
    )


def _limit(limit: contract.RateLimit | None) -> RateLimit | None:
    return None if limit is None else RateLimit(limit.per_second, limit.burst)
