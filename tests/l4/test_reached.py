"""What a node reaches itself outweighs what others say, where it keeps flows alive."""

from l4.forwarding import GenerationTables, build_table
from l4.probes.reached import with_reached
from l4.snapshot_entries import member_entries
from orchestrator.contract.snapshot import BalancerSnapshot
from tests.l4.edge import ACTIVE, balancer_snapshot

WHOLE = balancer_snapshot(1, ACTIVE)


def lost(*members: int) -> BalancerSnapshot:
    """The snapshot of an orchestrator that takes these members for unreachable."""
    changed = tuple(each.model_copy(update={"reachable": each.id not in members}) for each in ACTIVE.members)
    return balancer_snapshot(1, ACTIVE.model_copy(update={"members": changed}))


def chains(snapshot: BalancerSnapshot) -> bytes:
    return build_table(snapshot.pools[0], snapshot.forwarding, GenerationTables()).chains


def test_a_member_that_is_reached_from_here_stays_in_the_chains_and_live() -> None:
    assert chains(lost(1)) != chains(WHOLE)
    seen = with_reached(lost(1), {1, 2})
    assert chains(seen) == chains(WHOLE)
    assert all(entry.live for entry in member_entries(seen.pools))


def test_a_member_that_nobody_reaches_leaves_them_whoever_else_is_reached() -> None:
    snapshot = lost(1)
    assert with_reached(snapshot, {2}) is snapshot
    assert with_reached(snapshot, frozenset()) is snapshot


def test_what_is_not_known_here_is_as_the_orchestrator_says() -> None:
    assert with_reached(WHOLE, frozenset()) is WHOLE, "a node that has asked nobody yet believes"
    seen = with_reached(lost(1, 2), {2})
    assert [member.reachable for member in seen.pools[0].members] == [False, True]
