"""A member that this node reaches itself is in its chains, whatever the others see.

The orchestrator takes a member out of all chains that most L4 nodes cannot reach: what is sent there is lost. But a
site that was cut off comes back to a verdict on its own proxies that the others gave meanwhile, and that stands until
new votes have been counted. For its own L4 nodes the proxies were never gone, and they hold flows; a moment later,
routes take some of these flows to the others.
"""

from collections.abc import Set as AbstractSet

from orchestrator.contract.pool import Member, PoolForwarding
from orchestrator.contract.snapshot import BalancerSnapshot


def with_reached(snapshot: BalancerSnapshot, reached: AbstractSet[int]) -> BalancerSnapshot:
    """The snapshot, with these members reachable in it. The same one, if it says so already."""

    def is_wrong(member: Member) -> bool:
        return not member.reachable and member.id in reached

    def seen(pool: PoolForwarding) -> PoolForwarding:
        if not any(map(is_wrong, pool.members)):
            return pool
        members = tuple(
            member.model_copy(update={"reachable": True}) if is_wrong(member) else member for member in pool.members
        )
        return pool.model_copy(update={"members": members})

    pools = tuple(map(seen, snapshot.pools))
    if all(after is before for after, before in zip(pools, snapshot.pools, strict=True)):
        return snapshot
    return snapshot.model_copy(update={"pools": pools})
