"""Weight 0, pools without redirectors, and flows that nobody can count: UDP, and hosts that run nothing of ours."""

import pytest

from orchestrator.config.configuration import Configuration
from orchestrator.contract.node import AgentRole
from orchestrator.contract.operator import DrainView
from orchestrator.contract.pool import Encapsulation, PoolForwarding
from orchestrator.contract.snapshot import BalancerSnapshot
from orchestrator.fleet import drain
from orchestrator.fleet.document import FleetRefused
from orchestrator.fleet.ledger import Present
from orchestrator.fleet.membership import configure
from orchestrator.fleet.snapshots import compile_snapshot
from orchestrator.fleet.views import drain_view, node_views, pool_views, status_view
from tests.orchestrator.fleets import PLATFORM, Playbook, agent, configuration

WEIGHTLESS = PLATFORM.replace("{node: proxy-3}", "{node: proxy-3, weight: 0}")
UDP = PLATFORM + "  - {name: dns, address: 203.0.113.10, port: 53, protocol: udp, mode: passthrough, pool: edge}\n"
TERMINATED_BY_IPIP = PLATFORM.replace("min_active: 2", "min_active: 2\n    encapsulation: ipip\n    redirectors: false")
BARE = TERMINATED_BY_IPIP.replace("mode: terminate", "mode: passthrough")
"""Hosts that run nothing of ours: decapsulated in their kernels, served by their own processes."""


def forwarding(play: Playbook) -> PoolForwarding:
    snapshot = compile_snapshot(play.fleet, play.config, agent("l4-1", AgentRole.BALANCER))
    assert isinstance(snapshot, BalancerSnapshot)
    return snapshot.pools[0]


def change(play: Playbook, platform: str) -> None:
    before, play.config = play.config, configuration(platform)
    play.save(configure(play.fleet, before, play.config, play.now))


def start(play: Playbook, name: str, deadline_s: float | None = None, force: bool = False) -> None:
    play.save(drain.start(play.fleet, play.config, name, now=play.now, deadline_s=deadline_s, force=force))


def obstacles(play: Playbook, name: str) -> str:
    return "; ".join(view(play, name).blocked_by)


def view(play: Playbook, name: str) -> DrainView:
    member = play.fleet.member(name)
    assert member is not None
    return drain_view(present(play), play.board, play.now, member)


def present(play: Playbook) -> Present:
    return Present(play.fleet, play.config, 1)


def pass_seconds(play: Playbook, seconds: int, *, members: bool = True) -> None:
    """Everybody reports every second, without a flow that could be counted; or the L4 nodes alone do."""
    for _ in range(seconds):
        play.now += 1
        if members:
            play.report_all()
        else:
            play.report_balancers()
        play.advance()


# --- weight 0


def test_a_member_of_weight_0_is_in_no_new_generation_and_keeps_its_old_flows() -> None:
    play = Playbook()
    change(play, WEIGHTLESS)
    assert [member.id for member in play.fleet.pools[0].newest.generation.members] == [1, 2]
    assert play.state("proxy-3") == "active"
    play.report_all()
    play.report_census("proxy-3", 1, needed={1: 1})
    pass_seconds(play, 0)
    for _ in range(10):
        play.report_all()
        play.report_census("proxy-3", 1, needed={1: 1})
        play.advance(1)
    assert play.live == [2, 1], "its flow keeps the generation that brings it there"
    pass_seconds(play, 10)
    assert play.live == [2]
    assert [member.name for member in forwarding(play).members] == ["proxy-1", "proxy-2", "proxy-3"]


def test_weight_0_from_the_first_moment_and_back_to_1() -> None:
    play = Playbook(configuration(WEIGHTLESS))
    assert [member.id for member in play.fleet.pools[0].newest.generation.members] == [1, 2]
    change(play, PLATFORM)
    assert play.fleet.pools[0].joining, "it joins like any other"
    play.admit()
    assert [member.id for member in play.fleet.pools[0].newest.generation.members] == [1, 2, 3]


def test_the_guard_counts_members_that_take_new_flows() -> None:
    play = Playbook(configuration(WEIGHTLESS))
    with pytest.raises(FleetRefused, match="has 2 active members; without proxy-1 it would have 1"):
        start(play, "proxy-1")
    start(play, "proxy-3")
    assert play.state("proxy-3") == "draining", "it is given none: nothing is lost by taking it out"
    pool = pool_views(present(play), play.board, play.now)[0]
    assert (pool.active, [member.weight for member in pool.members]) == (2, [1, 2, 0])


def test_a_configuration_that_takes_the_weight_of_too_many_is_refused() -> None:
    play = Playbook()
    play.save(drain.start(play.fleet, play.config, "proxy-1", now=0))
    with pytest.raises(FleetRefused, match="would have 1 active members"):
        configure(play.fleet, play.config, configuration(WEIGHTLESS), play.now)


# --- pools without redirectors


def test_a_pool_without_redirectors_is_told_apart_in_its_snapshot() -> None:
    pool = forwarding(Playbook(configuration(BARE)))
    assert (pool.encapsulation, pool.redirectors) == (Encapsulation.IPIP, False)
    pool = forwarding(Playbook())
    assert (pool.encapsulation, pool.redirectors) == (Encapsulation.GUE, True)


def test_hosts_without_agents_join_and_retire_generations_without_a_word() -> None:
    smaller = BARE.replace(", {node: proxy-3}", "")
    play = Playbook(configuration(smaller))
    change(play, BARE)
    play.report_balancers()
    play.advance()
    assert [member.id for member in play.fleet.pools[0].newest.generation.members] == [1, 2, 3]
    pass_seconds(play, 5, members=False)
    assert play.live == [2], "L4 nodes remember the flows of old generations"


def test_a_generation_is_kept_until_all_balancers_have_left_it_also_without_redirectors() -> None:
    play = Playbook(configuration(BARE))
    change(play, BARE.replace("weight: 2", "weight: 3"))
    for _ in range(10):
        play.now += 1
        play.report_balancers()
        play.report_balancers("l4-2", version=1)
        play.advance()
    assert play.live == [2, 1]


def test_a_proxy_that_terminates_is_waited_for_also_without_a_redirector() -> None:
    play = Playbook(configuration(TERMINATED_BY_IPIP.replace(", {node: proxy-3}", "")))
    change(play, TERMINATED_BY_IPIP)
    play.report_balancers()
    play.advance()
    assert play.live == [1]
    assert "the proxy of proxy-3 has not reported" in obstacles(play, "proxy-3")
    play.report_proxy("proxy-3")
    play.advance()
    assert play.live == [2, 1]


def test_a_redirector_that_runs_all_the_same_is_waited_for() -> None:
    """It may be what decapsulates IPIP there: before it has the VIP, it would not take a flow."""
    play = Playbook(configuration(BARE.replace(", {node: proxy-3}", "")))
    change(play, BARE)
    play.report_census("proxy-3", version=1)
    play.advance()
    assert "the redirector of proxy-3 has not applied" in obstacles(play, "proxy-3")
    play.report_census("proxy-3")
    play.advance()
    assert play.live == [2, 1]


def test_a_proxy_counts_the_flows_that_it_terminates_and_its_drain_needs_no_deadline() -> None:
    play = Playbook(configuration(TERMINATED_BY_IPIP))
    start(play, "proxy-1")
    play.report_balancers()
    play.report_proxy("proxy-1", 3)
    assert obstacles(play, "proxy-1") == "3 open http/1.1 flows in the proxy of proxy-1"
    assert view(play, "proxy-1").uncounted == ()
    play.report_proxy("proxy-1", 0)
    play.advance()
    play.advance(1)
    assert play.state("proxy-1") == "drained"


def test_agents_that_nobody_expects_are_not_missed() -> None:
    play = Playbook(configuration(BARE))
    play.now += 60
    play.report_balancers()
    nodes = {node.name: [str(each.role) for each in node.agents] for node in node_views(present(play), play.board)}
    assert nodes["proxy-1"] == []
    assert status_view(present(play), play.board, play.now).warnings == ()
    play.report_census("proxy-1")
    nodes = {node.name: [str(each.role) for each in node.agents] for node in node_views(present(play), play.board)}
    assert nodes["proxy-1"] == ["redirector"]


def test_chains_are_not_cut_under_flows_that_need_them() -> None:
    play = Playbook()
    change(play, PLATFORM.replace("weight: 2", "weight: 3"))
    with pytest.raises(FleetRefused, match="reach their members by redirectors only") as refusal:
        change(play, BARE)
    assert (refusal.value.code, refusal.value.path) == ("chains_in_use", "pools.edge.redirectors")
    alone = Playbook()
    change(alone, BARE)
    assert not forwarding(alone).redirectors


# --- flows that nobody counts


#: Platform, whether members report, and the VIPs that nobody counts.
UNCOUNTED = {
    "UDP beside TCP": (UDP, True, ("dns",)),
    "hosts without agents": (BARE, False, ("web-v4", "web-v6")),
}


@pytest.mark.parametrize(("platform", "members", "vips"), UNCOUNTED.values(), ids=UNCOUNTED)
@pytest.mark.parametrize(
    ("deadline_s", "settings", "ends_after", "until"),
    [
        (None, "", 300, "300 s after"),
        (20.0, "", 20, "the deadline"),
        (None, "drain: {uncounted_s: 7}\n", 7, "7 s after"),
    ],
    ids=["usual time", "deadline", "configured time"],
)
def test_flows_that_nobody_counts_have_until_the_deadline(
    platform: str,
    members: bool,
    vips: tuple[str, ...],
    deadline_s: float | None,
    settings: str,
    ends_after: int,
    until: str,
) -> None:
    play = Playbook(configuration(platform + settings))
    pass_seconds(play, 1, members=members)
    start(play, "proxy-1", deadline_s=deadline_s)
    pass_seconds(play, ends_after - 1, members=members)
    assert play.state("proxy-1") == "draining"
    assert view(play, "proxy-1").uncounted == vips
    waiting = obstacles(play, "proxy-1")
    assert waiting.startswith(f"flows of {', '.join(vips)} on proxy-1 cannot be counted: they have until {until}")
    pass_seconds(play, 1, members=members)
    assert play.state("proxy-1") == "draining"
    assert not view(play, "proxy-1").overdue, "nothing stands in its way"
    pass_seconds(play, 1, members=members)
    assert play.state("proxy-1") == "drained"


def test_a_drain_waits_for_what_can_be_counted_beyond_what_cannot() -> None:
    play = Playbook(configuration(UDP))
    start(play, "proxy-1", deadline_s=10)
    play.report_all(proxy_1=2)
    play.advance(20)
    play.report_all(proxy_1=2)
    assert "2 flows of pool edge" in obstacles(play, "proxy-1")
    assert view(play, "proxy-1").overdue


def test_force_leaves_no_time_to_anybody() -> None:
    play = Playbook(configuration(UDP))
    start(play, "proxy-1", force=True)
    pass_seconds(play, 3)
    assert play.state("proxy-1") == "drained"


@pytest.mark.parametrize(("platform", "members", "_vips"), UNCOUNTED.values(), ids=UNCOUNTED)
def test_l4_nodes_know_a_member_while_it_may_hold_flows_that_nobody_counts(
    platform: str, members: bool, _vips: tuple[str, ...]
) -> None:
    """The flow table names a member by its id; who is not in the snapshot cannot be sent anything."""
    play = Playbook(configuration(platform))
    pass_seconds(play, 1, members=members)
    start(play, "proxy-1", deadline_s=60)
    pass_seconds(play, 30, members=members)
    assert play.live == [2]
    assert [member.name for member in forwarding(play).members] == ["proxy-1", "proxy-2", "proxy-3"]


@pytest.mark.parametrize(("platform", "members", "_vips"), UNCOUNTED.values(), ids=UNCOUNTED)
def test_a_member_that_leaves_the_configuration_is_known_until_its_time_is_over(
    platform: str, members: bool, _vips: tuple[str, ...]
) -> None:
    platform += "drain: {uncounted_s: 30}\n"
    play = Playbook(configuration(platform))
    pass_seconds(play, 1, members=members)
    left = platform.replace(", {node: proxy-3}", "").replace(
        "  - {name: proxy-3, kind: proxy, address: 198.18.2.13}\n", ""
    )
    change(play, left)
    pass_seconds(play, 29, members=members)
    assert [member.name for member in forwarding(play).members] == ["proxy-1", "proxy-2", "proxy-3"]
    pass_seconds(play, 12, members=members)
    assert play.live == [2]
    assert [member.name for member in forwarding(play).members] == ["proxy-1", "proxy-2"]
    assert play.fleet.member("proxy-3") is None


def test_a_configuration_from_before_means_the_same() -> None:
    """What an older version put into the store has none of the new fields."""
    text = configuration().model_dump(
        mode="json",
        exclude={
            "uncounted_s": True,
            "pools": {"__all__": {"encapsulation", "redirectors"}},
            "nodes": {"__all__": {"address_v6", "fib"}},
            "vips": {"__all__": {"prefix_length", "protocol", "last_port", "flow_hash", "quic"}},
        },
    )
    assert Configuration.model_validate(text) == configuration()
