"""Who of a pool is given new flows, and with what weight: administration, health and slow start taken together.

Of the members that are meant to serve (active, with a weight), the healthy ones do. **Panic**: when they would be too
few, health is ignored, and reachability too. So many hosts seldom fail at once; it is rather the probes, or what they
share with the hosts, and a few healthy ones would break under what all of them carry.
"""

from collections.abc import Sequence

from orchestrator.config.configuration import ConfiguredPool
from orchestrator.contract.pool import MAX_WEIGHT, GenerationMember, MemberState
from orchestrator.fleet.document import FleetMember, FleetState

#: Health is ignored when less than this part of a pool's members would be left: Envoy's `healthy_panic_threshold`.
PANIC_BELOW = 0.5
#: Whole weights are multiplied by so much while somebody has a part of its own: the smallest part is a quarter.
FINENESS = 4


def meant_to_serve(fleet: FleetState, pool: ConfiguredPool) -> tuple[FleetMember, ...]:
    """Members that configuration and drains let have new flows, sorted by id."""
    weights = pool.weights
    return tuple(
        member for member in fleet.members if weights.get(member.name, 0) > 0 and member.state is MemberState.ACTIVE
    )


def is_panicking(fleet: FleetState, pool: ConfiguredPool) -> bool:
    """Whether too few of the pool's members are healthy for health to count."""
    meant = meant_to_serve(fleet, pool)
    return sum(member.health.healthy for member in meant) < PANIC_BELOW * len(meant)


def serving(fleet: FleetState, pool: ConfiguredPool) -> tuple[FleetMember, ...]:
    """Members that are to be given new flows, sorted by id."""
    meant = meant_to_serve(fleet, pool)
    return meant if is_panicking(fleet, pool) else tuple(member for member in meant if member.health.healthy)


def weighted(members: Sequence[FleetMember], pool: ConfiguredPool) -> tuple[GenerationMember, ...]:
    """Rows for these members of the pool, in their order.

    Weights are relative: as long as somebody has but a part of its own, all others are multiplied by a whole number,
    which changes nothing between them. Weights above a quarter of `MAX_WEIGHT` leave less room for that; a part is then
    rounded up to the next whole weight. Who serves without being healthy (panic) does it with all of its weight.
    """
    weights = {member.id: pool.weights[member.name] for member in members}
    shares = {member.id: member.health.share if member.health.healthy else 100 for member in members}
    if all(share == 100 for share in shares.values()):
        return tuple(GenerationMember(id=member.id, weight=weights[member.id]) for member in members)
    scale = max(1, min(FINENESS, MAX_WEIGHT // max(weights.values())))
    return tuple(
        GenerationMember(id=member.id, weight=-(-weights[member.id] * scale * shares[member.id] // 100))
        for member in members
    )
