"""Who is given new flows as L4 nodes see the members: by quorum, damped, in few generations, and never by panic."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract.node import AgentRole
from orchestrator.contract.pool import MAX_WEIGHT, GenerationMember
from orchestrator.contract.report import MemberProbe, ProbeVerdict, Report
from orchestrator.contract.snapshot import BalancerSnapshot
from orchestrator.fleet import drain
from orchestrator.fleet.document import FleetMember, FleetRefused, MemberHealth
from orchestrator.fleet.health import HOLDS_S, QUIET_S, losses_that_count
from orchestrator.fleet.ledger import Present
from orchestrator.fleet.serving import weighted
from orchestrator.fleet.snapshots import compile_snapshot
from orchestrator.fleet.views import drain_view, pool_views, status_view
from tests.orchestrator.fleets import PLATFORM, Playbook, agent, balancer_status, configuration

HEALTHY, UNHEALTHY, UNREACHABLE = ProbeVerdict.HEALTHY, ProbeVerdict.UNHEALTHY, ProbeVerdict.UNREACHABLE

EQUAL = PLATFORM.replace("weight: 2", "weight: 1").replace("min_active: 2", "min_active: 1")
L4_NODES = ("l4-1", "l4-2", "l4-3")
THREE_L4 = EQUAL.replace(
    "  - {name: proxy-1,", "  - {name: l4-3, kind: l4, address: 198.18.1.13}\n  - {name: proxy-1,", 1
)


class Lookout(Playbook):
    """A fleet whose L4 nodes see what the test says, since when they were first told so."""

    def __init__(self, platform: str = THREE_L4) -> None:
        super().__init__(configuration(platform))
        self.seen: dict[str, dict[int, tuple[ProbeVerdict, float]]] = {name: {} for name in L4_NODES}
        self.silent: set[str] = set()
        self.see({1: HEALTHY, 2: HEALTHY, 3: HEALTHY})
        self.look(20)

    def see(self, verdicts: Mapping[int, ProbeVerdict], *nodes: str) -> None:
        for node in nodes or L4_NODES:
            for member, verdict in verdicts.items():
                before = self.seen[node].get(member)
                if before is None or before[0] is not verdict:
                    self.seen[node][member] = verdict, self.now

    def look(self, seconds: float = 0.0) -> None:
        """Time passes in steps as the orchestrator looks; everybody reports."""
        for _ in range(max(1, round(seconds / 0.5))):
            self.now += 0.5 if seconds else 0.0
            self.report_all()
            for node in L4_NODES:
                if node not in self.silent:
                    self.board.take(
                        agent(node, AgentRole.BALANCER),
                        Report(applied_version=self.fleet.revision, nack=None, status=self._status(node)),
                    )
            self.advance()

    def report_balancers(self, *names: str, version: int | None = None) -> None:
        """They report by `look`."""

    def _status(self, node: str):  # type: ignore[no-untyped-def]
        probes = {
            member: MemberProbe(verdict=verdict, detail=f"seen {verdict}", since_s=self.now - since)
            for member, (verdict, since) in self.seen[node].items()
        }
        return balancer_status().model_copy(update={"probes": probes})

    @property
    def weights(self) -> dict[int, int]:
        return {member.id: member.weight for member in self.fleet.pools[0].newest.generation.members}

    def member(self, number: int) -> FleetMember:
        return self.fleet.members[number - 1]

    @property
    def warnings(self) -> str:
        return "\n".join(status_view(Present(self.fleet, self.config, 1), self.board, self.now).warnings)


def test_a_member_that_most_nodes_see_unhealthy_is_given_no_new_flows_and_stays_in_the_chains() -> None:
    play = Lookout()
    play.see({2: UNHEALTHY}, "l4-1", "l4-2")
    play.look()
    assert play.weights == {1: 1, 3: 1}
    assert play.live == [2, 1], "its old flows still find it"
    snapshot = compile_snapshot(play.fleet, play.config, agent("l4-1", AgentRole.BALANCER))
    assert isinstance(snapshot, BalancerSnapshot)
    assert [member.reachable for member in snapshot.pools[0].members] == [True, True, True]
    assert "proxy-2 is not healthy: seen unhealthy by l4-1, l4-2 (seen unhealthy)" in play.warnings


def test_one_node_of_three_decides_nothing_and_is_named() -> None:
    play = Lookout()
    play.see({2: UNREACHABLE}, "l4-3")
    play.look(10)
    assert play.weights == {1: 1, 2: 1, 3: 1}
    assert "proxy-2 is seen unreachable by l4-3 (seen unreachable), and the other L4 nodes see it healthy" in (
        play.warnings
    )


def test_silent_nodes_have_no_vote() -> None:
    play = Lookout()
    play.see({2: UNREACHABLE}, "l4-3")
    play.silent = {"l4-1", "l4-2"}
    play.look(4)
    assert play.member(2).reachable, "the reports of the two still count"
    play.look(4)
    assert not play.member(2).reachable
    play.silent.add("l4-3")
    play.look(60)
    assert not play.member(2).reachable, "without a vote nothing changes"


def test_two_nodes_that_disagree_change_nothing_either_way() -> None:
    play = Lookout()
    play.silent = {"l4-3"}
    play.look(6)
    play.see({2: UNHEALTHY}, "l4-1")
    play.look(10)
    assert play.member(2).health.healthy
    play.see({2: UNHEALTHY}, "l4-2")
    play.look()
    assert not play.member(2).health.healthy
    play.see({2: HEALTHY}, "l4-1")
    play.look(100)
    assert not play.member(2).health.healthy


def test_an_unreachable_member_leaves_the_chains_too_and_its_flows_are_not_waited_for() -> None:
    play = Lookout()
    play.see({2: UNREACHABLE})
    play.look()
    snapshot = compile_snapshot(play.fleet, play.config, agent("l4-1", AgentRole.BALANCER))
    assert isinstance(snapshot, BalancerSnapshot)
    assert [member.reachable for member in snapshot.pools[0].members] == [True, False, True]
    play.see({2: HEALTHY})
    play.look()
    assert not play.member(2).reachable, "it must answer for a second"
    play.look(1.5)
    assert play.member(2).reachable


def test_panic_when_fewer_than_half_would_be_left() -> None:
    play = Lookout()
    play.see({2: UNREACHABLE, 3: UNREACHABLE})
    play.look()
    assert play.weights == {1: 1, 2: 1, 3: 1}
    assert play.newest == 1
    snapshot = compile_snapshot(play.fleet, play.config, agent("l4-1", AgentRole.BALANCER))
    assert isinstance(snapshot, BalancerSnapshot)
    assert all(member.reachable for member in snapshot.pools[0].members)
    assert "pool edge panics: 2 of 3 members are not healthy (proxy-2, proxy-3), fewer than 50% would be left" in (
        play.warnings
    )
    assert pool_views(Present(play.fleet, play.config, 1), play.board, play.now)[0].panics
    play.see({3: HEALTHY})
    play.look(2)
    assert play.weights.keys() == {1, 3}
    assert "panics" not in play.warnings


def test_half_of_the_members_is_no_panic() -> None:
    play = Lookout(THREE_L4.replace(", {node: proxy-3}", ""))
    play.see({2: UNREACHABLE})
    play.look()
    assert play.weights == {1: 1}


def test_who_comes_back_is_given_a_quarter_then_half_then_all_of_its_weight() -> None:
    play = Lookout()
    play.see({2: UNHEALTHY})
    play.look()
    play.see({2: HEALTHY})
    seen: list[dict[int, int]] = []
    for _ in range(60):
        play.look(0.5)
        if not seen or seen[-1] != play.weights:
            seen.append(play.weights)
    assert seen == [{1: 1, 3: 1}, {1: 4, 2: 1, 3: 4}, {1: 4, 2: 2, 3: 4}, {1: 1, 2: 1, 3: 1}]
    assert play.newest == 5, "one generation to go, three to come back"


def test_no_slow_start_if_the_pool_wants_none() -> None:
    play = Lookout(THREE_L4.replace("    min_active: 1\n", "    min_active: 1\n    slow_start_s: 0\n"))
    play.see({2: UNHEALTHY})
    play.look()
    play.see({2: HEALTHY})
    play.look(4)
    assert play.weights == {1: 1, 2: 1, 3: 1}
    assert play.newest == 3


@pytest.mark.parametrize("phase", [0.0, 0.1, 0.3, 0.45])
@pytest.mark.parametrize(("up_s", "down_s"), [(1.0, 1.0), (1.2, 0.8), (0.5, 0.5), (1.5, 0.7)])
def test_a_member_that_flaps_every_second_for_a_minute_makes_three_generations_at_most(
    phase: float, up_s: float, down_s: float
) -> None:
    play = Lookout()
    before, began = play.newest, play.now
    flips = began + phase
    is_up = True
    while play.now < began + 60:
        play.now += 0.05
        if play.now >= flips:
            is_up = not is_up
            play.see({2: HEALTHY if is_up else UNREACHABLE})
            flips += up_s if is_up else down_s
        if round((play.now - began) * 20) % 10 == 0:
            play.look()
    assert play.newest - before <= 3
    assert play.newest - before >= 1


def test_the_hold_grows_with_each_loss_and_is_halved_by_quiet() -> None:
    play = Lookout()
    for hold in HOLDS_S:
        play.see({2: UNHEALTHY})
        play.look()
        play.see({2: HEALTHY})
        play.look(hold - 0.5)
        assert not play.member(2).health.healthy
        if hold > 5:
            assert "proxy-2 is healthy again, and held for" in play.warnings
        play.look(0.5)
        assert play.member(2).health.healthy
        play.look(2)
    health = play.member(2).health
    assert health.lost_at is not None
    assert [losses_that_count(health, health.lost_at + n * QUIET_S) for n in range(4)] == [4, 2, 1, 0]


def test_who_is_held_is_brought_back_by_undrain_once_it_is_healthy() -> None:
    """An operator who has mended the cause need not wait for the hold."""
    play = Lookout()
    for _ in range(3):
        play.see({2: UNHEALTHY})
        play.look()
        play.see({2: HEALTHY})
        play.look(HOLDS_S[1])
    play.see({2: UNHEALTHY})
    play.look()
    with pytest.raises(FleetRefused, match="active already"):
        drain.undrain(play.fleet, play.config, "proxy-1")
    play.save(drain.undrain(play.fleet, play.config, "proxy-2"))
    play.look(2)
    assert not play.member(2).health.healthy, "it is forgiven, and still as ill as it is"
    with pytest.raises(FleetRefused, match="not drained, but not healthy"):
        drain.undrain(play.fleet, play.config, "proxy-2")
    play.see({2: HEALTHY})
    play.look(0.5)
    assert play.member(2).health.healthy
    play.see({2: UNHEALTHY})
    play.look()
    assert losses_that_count(play.member(2).health, play.now) == 1, "it begins anew"


def test_holds_and_slow_starts_outlive_the_orchestrator() -> None:
    play = Lookout()
    for _ in range(2):
        play.see({2: UNHEALTHY})
        play.look()
        play.see({2: HEALTHY})
        play.look(5)
    assert not play.member(2).health.healthy
    play.restart()
    play.look(4)
    assert not play.member(2).health.healthy, "the nodes still tell since when it is healthy"
    play.look(1.5)
    assert play.member(2).health.healthy


def test_who_was_never_seen_healthy_keeps_its_flows_and_who_joins_waits() -> None:
    play = Playbook(configuration(THREE_L4))
    look = Lookout.__new__(Lookout)
    look.__dict__.update(play.__dict__)
    look.seen = {name: {} for name in L4_NODES}
    look.silent = set()
    look.see({1: HEALTHY, 2: UNREACHABLE, 3: HEALTHY})
    look.look(5)
    assert look.weights == {1: 1, 2: 1, 3: 1}
    assert "proxy-2 has never passed its probes (unreachable by l4-1, l4-2, l4-3 (seen unreachable))" in look.warnings


def test_a_drained_member_may_be_stopped_and_started_and_is_given_its_whole_weight() -> None:
    play = Lookout()
    play.save(drain.start(play.fleet, play.config, "proxy-2", now=play.now))
    play.look(3)
    for _ in range(3):
        play.see({2: UNREACHABLE})
        play.look(1)
        play.see({2: HEALTHY})
        play.look(1)
    play.save(drain.undrain(play.fleet, play.config, "proxy-2"))
    play.look(3)
    assert play.weights == {1: 1, 2: 1, 3: 1}


def test_no_drain_takes_the_last_healthy_member() -> None:
    play = Lookout(THREE_L4.replace(", {node: proxy-3}", ""))
    play.see({2: UNHEALTHY})
    play.look()
    with pytest.raises(FleetRefused, match="pool edge has 1 active members") as refusal:
        drain.start(play.fleet, play.config, "proxy-1", now=0)
    assert "proxy-2 unhealthy" in refusal.value.hint
    assert drain.start(play.fleet, play.config, "proxy-2", now=0).members[1].state == "draining"


def test_members_of_a_pool_that_is_probed_no_more_are_healthy() -> None:
    play = Lookout()
    play.see({2: UNREACHABLE})
    play.look()
    play.config = configuration(THREE_L4.replace("    min_active: 1\n", "    min_active: 1\n    probe: none\n"))
    for node in L4_NODES:
        play.seen[node].clear()
    play.look(3)
    assert play.member(2).reachable
    assert play.weights == {1: 1, 2: 1, 3: 1}


def test_all_that_changes_at_once_is_one_generation() -> None:
    members = ", ".join(f"{{node: proxy-{n}}}" for n in range(1, 9))
    nodes = "".join(f"  - {{name: proxy-{n}, kind: proxy, address: 198.18.2.{10 + n}}}\n" for n in range(4, 9))
    platform = THREE_L4.replace("[{node: proxy-1}, {node: proxy-2, weight: 1}, {node: proxy-3}]", f"[{members}]")
    play = Lookout(platform.replace("pools:\n", nodes + "pools:\n"))
    play.see(dict.fromkeys(range(4, 9), HEALTHY))
    play.look(1)
    before = play.newest
    play.see({2: UNREACHABLE, 3: UNHEALTHY, 5: UNREACHABLE})
    play.look()
    assert play.newest == before + 1


@given(
    st.dictionaries(
        st.integers(1, 3),
        st.tuples(st.integers(1, MAX_WEIGHT), st.sampled_from([25, 50, 100])),
        min_size=1,
    )
)
@settings(deadline=None)
def test_weights_of_slow_starters_are_legal_and_those_of_others_keep_their_ratio(
    given_weights: dict[int, tuple[int, int]],
) -> None:
    listed = ", ".join(f"{{node: proxy-{n}, weight: {weight}}}" for n, (weight, _) in given_weights.items())
    pool = configuration(
        THREE_L4.replace("[{node: proxy-1}, {node: proxy-2, weight: 1}, {node: proxy-3}]", f"[{listed}]")
    ).pools[0]
    members = [
        FleetMember(id=n, name=f"proxy-{n}", address=f"198.18.2.{n}", health=MemberHealth(share=share))
        for n, (_, share) in sorted(given_weights.items())
    ]
    rows: dict[int, GenerationMember] = {row.id: row for row in weighted(members, pool)}
    assert rows.keys() == given_weights.keys()
    scales = {rows[n].weight / weight for n, (weight, share) in given_weights.items() if share == 100}
    assert len(scales) <= 1
    for n, (weight, share) in given_weights.items():
        assert 1 <= rows[n].weight <= MAX_WEIGHT
        if scales:
            assert rows[n].weight / weight <= max(scales)
            assert rows[n].weight >= weight * max(scales) * share / 100


def test_who_is_undrained_and_not_healthy_joins_and_says_why() -> None:
    play = Lookout()
    play.save(drain.start(play.fleet, play.config, "proxy-2", now=play.now))
    play.look(3)
    play.see({2: UNHEALTHY})
    play.look()
    play.save(drain.undrain(play.fleet, play.config, "proxy-2"))
    play.look(3)
    view = drain_view(Present(play.fleet, play.config, 1), play.board, play.now, play.member(2))
    assert view.state == "joining"
    assert view.blocked_by[0].startswith("proxy-2 is not healthy: seen unhealthy by l4-1, l4-2, l4-3")
    play.see({2: HEALTHY})
    play.look(3)
    view = drain_view(Present(play.fleet, play.config, 1), play.board, play.now, play.member(2))
    assert (view.state, view.blocked_by) == ("active", ())
    assert play.weights == {1: 1, 2: 1, 3: 1}
