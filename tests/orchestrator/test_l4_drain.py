"""Drains of L4 nodes: routers first, then the routes; never the last one; and on where it was after a restart."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.configuration import Configuration
from orchestrator.contract.node import AgentRole, Announcement, L4DrainPhase
from orchestrator.contract.operator import DrainView
from orchestrator.contract.snapshot import BalancerSnapshot
from orchestrator.fleet import l4_drain
from orchestrator.fleet.announcers import advance as name_announcers
from orchestrator.fleet.document import FleetRefused, FleetState, L4Drain
from orchestrator.fleet.holds import Holds
from orchestrator.fleet.l4_drain_view import l4_drain_view
from orchestrator.fleet.ledger import Present
from orchestrator.fleet.progress import retirement_obstacles
from orchestrator.fleet.snapshots import compile_snapshot
from tests.orchestrator.fleets import PLATFORM, Playbook, agent, balancer_status, configuration

NODES = ("l4-1", "l4-2", "l4-3")
VIPS = ("web-v4", "web-v6")


@cache
def platform(*nodes: str) -> Configuration:
    """The usual one, with these L4 nodes, each at a site of its own if its name is `NODE@SITE`."""
    lines = [
        f"  - {{name: {node.partition('@')[0]}, kind: l4, site: {node.partition('@')[2] or 'main'}, "
        f"address: 198.18.1.{20 + number}, bgp: {{asn: {64601 + number}, "
        "neighbors: [{address: 198.18.1.1, asn: 64600}]}}"
        for number, node in enumerate(nodes)
    ]
    others = [line for line in PLATFORM.splitlines() if "kind: l4" not in line]
    return configuration("\n".join([others[0], *lines, *others[1:]]))


@dataclass
class L4Play(Playbook):
    """L4 nodes that do as they are told, at once, unless they are said to be otherwise."""

    config: Configuration = field(default_factory=lambda: platform(*NODES))
    drain_holds: Holds = field(default_factory=Holds)
    announcer_holds: Holds = field(default_factory=Holds)
    forwarded: dict[str, int] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    """They cannot serve, and withhold what they are not told to announce anyway."""

    def restart(self) -> None:
        super().restart()
        self.fleet = FleetState.model_validate_json(self.fleet.model_dump_json())
        self.drain_holds, self.announcer_holds = Holds(), Holds()

    @property
    def nodes(self) -> list[str]:
        return [node.name for node in self.config.nodes if node.name.startswith("l4")]

    def snapshot(self, name: str) -> BalancerSnapshot:
        found = compile_snapshot(self.fleet, self.config, agent(name, AgentRole.BALANCER))
        assert isinstance(found, BalancerSnapshot)
        return found

    def announced(self, name: str) -> tuple[str, ...]:
        snapshot = self.snapshot(name)
        return snapshot.announce_anyway if name in self.failed else tuple(vip.name for vip in snapshot.vips)

    def report(self) -> None:
        for name in self.nodes:
            if name not in self.silent:
                announced = self.announced(name)
                status = balancer_status(
                    announced,
                    announcement=self.snapshot(name).announcement,
                    forwarded=self.forwarded.get(name, 0),
                    withheld={vip: "no member" for vip in VIPS if vip not in announced},
                )
                self.report_balancer(name, status)

    def seconds(self, count: int, **packets: int) -> None:
        """Each node reports each second; `l4_1=5` are packets that it forwards in each."""
        for _ in range(count):
            self.now += 1
            for name, number in packets.items():
                node = name.replace("_", "-")
                self.forwarded[node] = self.forwarded.get(node, 0) + number
            self.report()
            self.tick()

    def tick(self) -> None:
        fleet = l4_drain.advance(self.fleet, self.config, self.board, self.drain_holds, wall=self.now)
        self.save(name_announcers(fleet, self.config, self.board, self.announcer_holds))

    def drain(self, *names: str, go_dark: bool = False, deadline_s: float | None = None) -> None:
        self.save(
            l4_drain.start(
                self.fleet, self.config, self.board, names, now=self.now, go_dark=go_dark, deadline_s=deadline_s
            )
        )

    def view(self, name: str) -> DrainView:
        return l4_drain_view(Present(self.fleet, self.config, 1), self.board, self.now, name)

    def phase(self, name: str) -> str | None:
        drain = self.fleet.l4_drains.get(name)
        return str(drain.phase) if drain is not None else None


@pytest.fixture
def play() -> L4Play:
    made = L4Play()
    made.report()
    return made


def test_a_drain_goes_from_last_resort_over_withdrawn_to_quiet(play: L4Play) -> None:
    play.seconds(1, l4_1=100)
    play.drain("l4-1")
    assert play.snapshot("l4-1").announcement is Announcement.SOFT
    assert play.snapshot("l4-2").announcement is Announcement.NORMAL
    play.seconds(5, l4_1=40)
    view = play.view("l4-1")
    assert (view.state, view.phase, view.packets_per_s) == ("draining", "soft", 40)
    assert view.blocked_by == ("40 packets/s still come",)
    play.seconds(2)
    assert play.phase("l4-1") == "soft", "the last packet was counted two seconds ago"
    play.seconds(1)
    assert play.phase("l4-1") == "withdrawn"
    assert play.snapshot("l4-1").announcement is Announcement.NONE
    play.seconds(2)
    assert play.view("l4-1").state == "draining"
    play.seconds(1)
    view = play.view("l4-1")
    assert (view.state, view.phase, view.blocked_by) == ("drained", "quiet", ())
    assert view.drained_at == play.now
    assert play.snapshot("l4-1").announcement is Announcement.NONE


def test_routers_that_look_at_nothing_lose_the_route_after_half_a_minute(play: L4Play) -> None:
    play.drain("l4-1")
    play.seconds(29, l4_1=1)
    assert play.phase("l4-1") == "soft"
    play.seconds(1, l4_1=1)
    assert play.phase("l4-1") == "withdrawn"
    play.seconds(10, l4_1=1)
    assert play.view("l4-1").blocked_by == ("1 packets/s still come",), "some router has a static route"
    play.seconds(3)
    assert play.phase("l4-1") == "quiet"


def test_nothing_is_made_of_a_node_that_does_not_do_as_it_is_told(play: L4Play) -> None:
    """BIRD there may be stuck: silence of packets alone ends nothing."""
    play.drain("l4-1")
    for _ in range(10):
        play.now += 1
        play.report()
        play.report_balancer("l4-1", balancer_status(VIPS))
        play.tick()
    assert play.phase("l4-1") == "soft"
    assert play.view("l4-1").blocked_by == ("BIRD on l4-1 does not run as told yet: it announces as ever",)


def test_a_silent_agent_holds_the_drain_and_is_named(play: L4Play) -> None:
    play.drain("l4-1", deadline_s=20)
    play.silent.add("l4-1")
    play.seconds(21)
    view = play.view("l4-1")
    assert (view.state, view.overdue) == ("draining", True)
    assert view.blocked_by == ("the balancer of l4-1 has not reported for 21 s",)


@pytest.mark.parametrize("seconds", [1, 5, 10], ids=["soft", "withdrawn", "drained"])
def test_undrain_announces_as_ever_from_any_phase(play: L4Play, seconds: int) -> None:
    play.drain("l4-1")
    play.seconds(seconds)
    play.save(l4_drain.undrain(play.fleet, ["l4-1"]))
    assert play.snapshot("l4-1").announcement is Announcement.NORMAL
    view = play.view("l4-1")
    assert view.state == "joining", "its agent has not been told yet"
    assert "does not run as told yet" in view.blocked_by[0]
    play.seconds(1)
    assert play.view("l4-1").state == "active"


def test_what_cannot_be_cancelled_or_undrained(play: L4Play) -> None:
    with pytest.raises(FleetRefused, match="active already"):
        l4_drain.undrain(play.fleet, ["l4-1"])
    with pytest.raises(FleetRefused, match="active, so there is no drain to cancel"):
        l4_drain.cancel(play.fleet, ["l4-1"])
    play.drain("l4-1")
    play.seconds(10)
    with pytest.raises(FleetRefused, match="drained, so there is no drain to cancel") as refusal:
        l4_drain.cancel(play.fleet, ["l4-1"])
    assert refusal.value.hint == "edgectl undrain l4-1"


def test_a_node_without_bgp_has_nothing_to_withdraw() -> None:
    play = L4Play(config=configuration())
    play.report()
    with pytest.raises(FleetRefused) as refusal:
        play.drain("l4-2")
    assert refusal.value.code == "not_supported"


def test_a_drain_goes_on_after_the_orchestrators_restart(play: L4Play) -> None:
    play.drain("l4-1")
    play.seconds(5)
    play.restart()
    assert play.phase("l4-1") == "withdrawn"
    play.tick()
    assert play.phase("l4-1") == "withdrawn", "nothing is concluded before reports come in"
    play.seconds(3)
    assert play.phase("l4-1") == "quiet"


def test_a_node_that_leaves_the_configuration_takes_its_drain_along(play: L4Play) -> None:
    play.drain("l4-1")
    play.config = platform("l4-2", "l4-3")
    play.tick()
    assert play.fleet.l4_drains == {}


def test_generations_retire_while_a_drained_node_is_away_and_wait_for_any_other() -> None:
    play = Playbook()
    play.report_all()
    play.save(
        play.fleet.model_copy(
            update={"l4_drains": {"l4-1": L4Drain(started_at=1, phase=L4DrainPhase.QUIET, drained_at=2)}}
        )
    )
    assert "l4-1" in obstacles_of_retirement(play), "its agent runs, and will have applied it in a moment"
    play.now += 10
    for name in ("proxy-1", "proxy-2", "proxy-3"):
        play.report_census(name)
    play.report_balancers("l4-2")
    assert obstacles_of_retirement(play) == ""
    play.save(l4_drain.undrain(play.fleet, ["l4-1"]))
    play.report_balancers("l4-2")
    assert "the balancer of l4-1 has not reported for 10 s" in obstacles_of_retirement(play)


def obstacles_of_retirement(play: Playbook) -> str:
    (pool,) = play.fleet.pools
    newest = pool.newest.model_copy(update={"revision": play.fleet.revision})
    pool = pool.model_copy(update={"generations": (newest,)})
    return "; ".join(retirement_obstacles(play.fleet, play.config, play.board, pool))


# Never the last announcer


def refused(play: L4Play, *names: str) -> FleetRefused:
    with pytest.raises(FleetRefused) as refusal:
        play.drain(*names)
    assert refusal.value.code == "last_announcer"
    assert "--go-dark" in refusal.value.hint
    return refusal.value


def test_the_last_announcer_is_not_drained_unless_it_is_said_so(play: L4Play) -> None:
    play.drain("l4-1")
    play.failed.add("l4-2")
    play.silent.add("l4-3")
    play.seconds(1)
    play.now += 6
    play.report()
    words = str(refused(play, "l4-2", "l4-3"))
    assert "nobody would announce web-v4, web-v6: l4-1 is drained, or about to be" in words

    play.failed.clear()
    play.report()
    words = str(refused(play, "l4-2"))
    assert words == (
        "without l4-2 nobody would announce web-v4, web-v6: l4-1 is drained, or about to be; "
        "the balancer of l4-3 has not reported for 7 s"
    )
    play.drain("l4-2", go_dark=True)
    assert play.fleet.l4_drains["l4-2"].go_dark


def test_a_node_that_announces_nothing_may_go(play: L4Play) -> None:
    play.drain("l4-1")
    play.failed |= {"l4-2"}
    play.report()
    play.drain("l4-2")
    refused(play, "l4-3")


def test_a_site_goes_as_a_whole_or_not_at_all() -> None:
    play = L4Play(config=platform("l4-1@east", "l4-2@east", "l4-3@west"))
    play.report()
    east, west = (l4_drain.l4_nodes_of_site(play.config, site) for site in ("east", "west"))
    assert (east, west) == (("l4-1", "l4-2"), ("l4-3",))
    play.drain(*east)
    assert play.snapshot("l4-1").announcement is play.snapshot("l4-2").announcement is Announcement.SOFT
    refused(play, *west)
    play.seconds(8)
    assert [play.view(name).state for name in NODES] == ["drained", "drained", "active"]
    with pytest.raises(FleetRefused, match="no site north"):
        l4_drain.l4_nodes_of_site(play.config, "north")


def test_routes_are_not_withdrawn_when_the_others_have_failed_meanwhile(play: L4Play) -> None:
    play.drain("l4-1")
    play.failed |= {"l4-2", "l4-3"}
    play.seconds(40)
    assert play.phase("l4-1") == "soft", "a last resort it stays"
    assert play.view("l4-1").blocked_by[0].startswith("nobody else announces web-v4: l4-2 does not announce web-v4: no")
    play.failed.clear()
    play.seconds(1)
    assert play.phase("l4-1") == "withdrawn"


NAMES = st.sampled_from(NODES)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["drain", "undrain", "mend"]), NAMES),
    st.tuples(st.just("fail"), st.sets(NAMES, min_size=1).map(tuple)),
    st.tuples(st.just("seconds"), st.integers(1, 8)),
    st.tuples(st.just("restart"), st.just(0)),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(STEPS, max_size=25))
def test_no_drain_takes_the_last_route_away(steps: list[tuple[str, Any]]) -> None:
    """Whatever fails meanwhile, and whoever asks for what: routes are withdrawn only where others have them."""
    play = L4Play()
    play.seconds(1)
    for what, which in steps:
        match what:
            case "seconds":
                for _ in range(which):
                    before = {name: play.phase(name) for name in NODES}
                    announcing = {name for name in NODES if play.announced(name) and play.phase(name) is None}
                    play.seconds(1)
                    newly = [n for n in NODES if play.phase(n) == L4DrainPhase.WITHDRAWN and before[n] == "soft"]
                    if set(newly) - play.failed:
                        assert announcing, f"{newly} withdrew what nobody else announces"
            case "drain":
                try:
                    play.drain(which)
                except FleetRefused as refusal:
                    assert refusal.code == "last_announcer"
            case "undrain":
                if play.phase(which) is not None:
                    play.save(l4_drain.undrain(play.fleet, [which]))
            case "fail":
                play.failed |= set(which)
            case "mend":
                play.failed.discard(which)
            case "restart":
                play.restart()
