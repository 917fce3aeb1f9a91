"""Drains: who may begin one, what it waits for, and that it goes on where it was after a restart."""

from collections.abc import Callable

import pytest

from orchestrator.contract.node import AgentRole
from orchestrator.contract.pool import MAX_LIVE_GENERATIONS
from orchestrator.contract.snapshot import ProxySnapshot
from orchestrator.fleet import drain
from orchestrator.fleet.document import FleetRefused
from orchestrator.fleet.ledger import Present
from orchestrator.fleet.membership import configure
from orchestrator.fleet.progress import drain_obstacles, joining_obstacles
from orchestrator.fleet.snapshots import compile_snapshot
from orchestrator.fleet.views import drain_view
from tests.orchestrator.fleets import PLATFORM, Playbook, agent, configuration


@pytest.fixture
def play() -> Playbook:
    return Playbook()


def start(play: Playbook, name: str, deadline_s: float | None = None, force: bool = False) -> None:
    play.save(
        drain.start(
            play.fleet,
            play.config,
            name,
            now=play.now,
            deadline_s=deadline_s,
            force=force,
            flows_open=play.board.flows_open(name),
        )
    )


def obstacles(play: Playbook, name: str) -> str:
    member = play.fleet.member(name)
    assert member is not None
    return "; ".join(drain_obstacles(play.fleet, play.config, play.board, member, play.now))


def goodbye(play: Playbook, name: str) -> object:
    snapshot = compile_snapshot(play.fleet, play.config, agent(name, AgentRole.PROXY))
    assert isinstance(snapshot, ProxySnapshot)
    return snapshot.goodbye


def test_a_drain_ends_when_balancers_proxy_and_census_agree(play: Playbook) -> None:
    play.report_all(proxy_1=5)
    before = play.fleet.revision
    start(play, "proxy-1")
    assert play.state("proxy-1") == "draining"
    assert goodbye(play, "proxy-1") is not None
    assert goodbye(play, "proxy-2") is None
    newest = play.fleet.pools[0].newest.generation.members
    assert [member.id for member in newest] == [2, 3], "it is given no new flow"

    play.report_balancers(version=before)
    assert "the balancer of l4-1 has not applied revision" in obstacles(play, "proxy-1")
    play.report_balancers()
    play.report_proxy("proxy-1", 5)
    play.report_census("proxy-1", 5)
    assert (
        obstacles(play, "proxy-1") == "5 flows of pool edge on proxy-1; 5 open http/1.1 flows in the proxy of proxy-1"
    )
    play.report_proxy("proxy-1", 0)
    assert obstacles(play, "proxy-1") == "5 flows of pool edge on proxy-1", "the kernel still holds them"
    play.report_census("proxy-1", 0)
    assert obstacles(play, "proxy-1") == ""
    play.advance()
    assert play.state("proxy-1") == "draining", "one look is not believed"
    play.advance(1.0)
    assert play.state("proxy-1") == "drained"


def test_a_flow_that_appears_during_the_hold_starts_it_anew(play: Playbook) -> None:
    start(play, "proxy-1")
    play.report_all()
    play.advance()
    play.report_all(proxy_1=1)
    play.advance(0.5)
    play.report_all()
    play.advance(0.5)
    play.advance(0.5)
    assert play.state("proxy-1") == "draining"
    play.advance(0.5)
    assert play.state("proxy-1") == "drained"


def test_a_census_from_before_the_drain_counts_for_nothing(play: Playbook) -> None:
    play.report_all()
    generation = play.newest
    start(play, "proxy-1")
    play.report_all()
    play.report_census("proxy-1", 0, newest=generation)
    assert "is older than generation" in obstacles(play, "proxy-1")


def test_a_silent_proxy_is_not_drained(play: Playbook) -> None:
    start(play, "proxy-1")
    play.report_all()
    play.now += 60
    play.report_balancers()
    assert "the proxy of proxy-1 has not reported for 60 s" in obstacles(play, "proxy-1")
    assert "the redirector of proxy-1 has not reported for 60 s" in obstacles(play, "proxy-1")


def pass_a_second(play: Playbook, *, new_flows: int) -> None:
    """Only l4-1, and the proxy that drains, go on reporting."""
    play.now += 1
    play.report_balancers("l4-1")
    play.report_proxy("proxy-1")
    play.report_census("proxy-1", new_flows=new_flows)
    play.advance()


def test_a_dead_l4_node_does_not_hold_up_a_drain(play: Playbook) -> None:
    """BGP has taken its routes: the proxy sees no new flow. One that is only slow is waited for."""
    play.report_all()
    start(play, "proxy-1")
    for _ in range(4):
        pass_a_second(play, new_flows=7)
    assert play.state("proxy-1") == "draining"
    for _ in range(10):
        pass_a_second(play, new_flows=7)
    assert play.state("proxy-1") == "drained"


def test_an_l4_node_without_its_agent_that_still_forwards_holds_up_a_drain(play: Playbook) -> None:
    """Its program and its BIRD outlive the agent, so that it sends new flows by its old table."""
    play.report_all()
    start(play, "proxy-1")
    for second in range(60):
        pass_a_second(play, new_flows=second)
    assert play.state("proxy-1") == "draining"
    assert "the balancer of l4-2 has not reported for 60 s, and may still send new flows" in obstacles(play, "proxy-1")


def test_the_guard_refuses_and_says_both_numbers(play: Playbook) -> None:
    start(play, "proxy-1")
    before = play.fleet
    with pytest.raises(FleetRefused) as refusal:
        start(play, "proxy-2", force=True)
    assert refusal.value.code == "capacity_guard"
    assert "has 2 active members" in str(refusal.value)
    assert "it would have 1, and its guard (min_active) is 2" in str(refusal.value)
    assert "proxy-1 draining" in refusal.value.hint
    assert play.fleet == before


def test_a_deadline_reports_and_resets_nothing(play: Playbook) -> None:
    play.report_all(proxy_1=3)
    start(play, "proxy-1", deadline_s=10)
    play.report_all(proxy_1=2)
    play.advance(20)
    play.report_all(proxy_1=2)
    member = play.fleet.member("proxy-1")
    assert member is not None
    view = drain_view(Present(play.fleet, play.config, 1), play.board, play.now, member)
    assert (view.overdue, view.flows_at_start, view.flows_open) == (True, 3, 2)
    assert view.by_protocol == {"http/1.1": 2}
    assert "'reset': True" not in str(compile_snapshot(play.fleet, play.config, agent("proxy-1", AgentRole.PROXY)))
    assert member.drain is not None
    assert not member.drain.reset


@pytest.mark.parametrize(("deadline_s", "due_after"), [(None, 0.0), (10.0, 10.0)])
def test_force_resets_at_the_deadline_or_at_once(play: Playbook, deadline_s: float | None, due_after: float) -> None:
    start(play, "proxy-1", deadline_s=deadline_s, force=True)
    if due_after:
        play.advance(due_after - 1)
        assert "reset=False" in repr(goodbye(play, "proxy-1"))
        play.advance(1)
    assert "reset=True" in repr(goodbye(play, "proxy-1"))


def test_asking_again_changes_deadline_and_force_only(play: Playbook) -> None:
    start(play, "proxy-1")
    begun = play.fleet.member("proxy-1")
    generations = play.live
    play.now += 5
    start(play, "proxy-1", deadline_s=60, force=True)
    member = play.fleet.member("proxy-1")
    assert begun is not None
    assert begun.drain is not None
    assert member is not None
    assert member.drain is not None
    assert member.drain.started_at == begun.drain.started_at
    assert (member.drain.deadline_at, member.drain.force) == (play.now + 60, True)
    assert play.live == generations


@pytest.mark.parametrize("leave", [drain.cancel, drain.undrain])
def test_cancel_and_undrain_bring_a_draining_member_back(play: Playbook, leave: Callable[..., object]) -> None:
    start(play, "proxy-1")
    play.save((drain.cancel if leave is drain.cancel else drain.undrain)(play.fleet, play.config, "proxy-1"))
    assert play.state("proxy-1") == "active"
    assert goodbye(play, "proxy-1") is None
    assert play.live == [2, 1], "its agents have not withdrawn the goodbye yet"
    play.admit()
    assert play.live == [3, 2, 1], "old flows of all three memberships keep their chains"


def test_undrain_after_drained_and_what_is_refused(play: Playbook) -> None:
    for verb, code in ((drain.cancel, "not_draining"), (drain.undrain, "not_drained")):
        with pytest.raises(FleetRefused) as refusal:
            verb(play.fleet, play.config, "proxy-1")
        assert refusal.value.code == code
    start(play, "proxy-1")
    play.report_all()
    play.advance()
    play.advance(1)
    assert play.state("proxy-1") == "drained"
    with pytest.raises(FleetRefused, match="no drain to cancel"):
        drain.cancel(play.fleet, play.config, "proxy-1")
    before = play.fleet
    start(play, "proxy-1")
    assert play.fleet == before, "draining a drained member changes nothing"
    play.save(drain.undrain(play.fleet, play.config, "proxy-1"))
    assert play.state("proxy-1") == "active"


@pytest.mark.parametrize(
    ("name", "code"), [("l4-1", "not_a_member"), ("proxy-9", "not_found"), ("spare", "not_a_member")]
)
def test_what_cannot_be_drained(name: str, code: str) -> None:
    play = Playbook(
        configuration(PLATFORM.replace("pools:", "  - {name: spare, kind: proxy, address: 198.18.2.99}\npools:"))
    )
    with pytest.raises(FleetRefused) as refusal:
        start(play, name)
    assert refusal.value.code == code
    assert refusal.value.hint


def test_a_drain_survives_the_orchestrator(play: Playbook) -> None:
    start(play, "proxy-1", deadline_s=10)
    play.fleet = type(play.fleet).model_validate_json(play.fleet.model_dump_json())
    play.restart()
    play.advance(1)
    assert play.state("proxy-1") == "draining"
    assert "has not reported since this orchestrator started" in obstacles(play, "proxy-1")
    play.report_all()
    play.advance()
    play.advance(1)
    assert play.state("proxy-1") == "drained"


def test_with_64_generations_live_a_change_is_refused_and_names_the_holders(play: Playbook) -> None:
    for _ in range((MAX_LIVE_GENERATIONS - 1) // 2):
        start(play, "proxy-1")
        play.save(drain.cancel(play.fleet, play.config, "proxy-1"))
        play.admit()
    start(play, "proxy-1")
    assert len(play.live) == MAX_LIVE_GENERATIONS
    heavier = configuration(PLATFORM.replace("weight: 2", "weight: 3"))
    with pytest.raises(FleetRefused, match="waits for the flows of proxy-2") as refusal:
        configure(play.fleet, play.config, heavier, play.now, {"edge": "the flows of proxy-2"})
    assert refusal.value.code == "generations_full"
    play.save(drain.cancel(play.fleet, play.config, "proxy-1"))
    play.admit()
    assert len(play.live) == MAX_LIVE_GENERATIONS
    member = play.fleet.member("proxy-1")
    assert member is not None
    assert joining_obstacles(play.fleet, play.config, play.board, member) == {
        "edge": ("pool edge has 64 live generations",)
    }
