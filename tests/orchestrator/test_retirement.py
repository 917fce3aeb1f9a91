"""Generations are retired by census: never one that is needed, and in the end every one that is not."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.fleet import drain
from orchestrator.fleet.document import FleetRefused
from orchestrator.fleet.membership import configure
from orchestrator.fleet.progress import retirement_obstacles
from tests.orchestrator.fleets import PLATFORM, Playbook, configuration

PROXIES = ("proxy-1", "proxy-2", "proxy-3")


def shuffled(times: int = 1) -> Playbook:
    """A fleet with a drain and its cancellation behind it: generations 3, 2, 1."""
    play = Playbook()
    for _ in range(times):
        play.save(drain.start(play.fleet, play.config, "proxy-1", now=play.now))
        play.save(drain.cancel(play.fleet, play.config, "proxy-1"))
        play.admit()
    assert play.live == list(range(1 + 2 * times, 0, -1))
    return play


def test_what_nobody_needs_is_retired_after_the_hold() -> None:
    play = shuffled()
    play.report_all()
    play.advance()
    play.advance(2.9)
    play.report_all()
    assert play.live == [3, 2, 1]
    play.advance(0.2)
    assert play.live == [3]


def test_one_long_flow_keeps_its_one_generation() -> None:
    play = shuffled()
    for _ in range(10):
        play.report_all()
        play.report_census("proxy-2", 1, needed={1: 1})
        play.advance(1)
    assert play.live == [3, 1]
    play.report_all()
    play.advance()
    for _ in range(3):
        play.advance(1)
        play.report_all()
    play.advance()
    assert play.live == [3]


def test_nothing_is_retired_that_a_balancer_may_still_give_flows_by() -> None:
    play = shuffled()
    first, second = (live.revision for live in play.fleet.pools[0].generations[:0:-1])
    for _ in range(10):
        play.report_all()
        play.report_balancers("l4-2", version=first)
        play.advance(1)
    assert play.live == [3, 2, 1]
    for _ in range(10):
        play.report_all()
        play.report_balancers("l4-2", version=second)
        play.advance(1)
    assert play.live == [3, 2], "it gives new flows by the second"


def test_old_generations_are_retired_while_new_ones_come_faster_than_they_settle() -> None:
    """A hundred changes in a row, each before the one before has been acknowledged."""
    play = Playbook()
    most = 0
    for number in range(100):
        behind = play.fleet.revision
        if number % 2 == 0:
            play.save(drain.start(play.fleet, play.config, "proxy-1", now=play.now))
        else:
            play.save(drain.cancel(play.fleet, play.config, "proxy-1"))
        play.report_balancers(version=behind)
        for name in PROXIES:
            play.report_census(name, newest=max(play.live[1:], default=play.live[0]), version=behind)
        play.advance(1)
        most = max(most, len(play.live))
    assert most < 12


def test_nothing_is_retired_while_a_member_is_silent() -> None:
    play = shuffled()
    for _ in range(20):
        play.report_balancers()
        play.report_census("proxy-1")
        play.report_census("proxy-2")
        play.advance(1)
    assert play.live == [3, 2], "its last census knew the second, and needed nothing"
    waiting = retirement_obstacles(play.fleet, play.config, play.board, play.fleet.pools[0])
    assert waiting == ("the redirector of proxy-3 has not reported for 20 s",)


def test_after_a_restart_nothing_is_retired_before_fresh_censuses() -> None:
    play = shuffled()
    play.report_all()
    play.advance(2.9)
    play.restart()
    play.advance(30)
    assert play.live == [3, 2, 1]
    play.report_all()
    play.advance()
    assert play.live == [3, 2, 1], "the hold begins anew"
    play.advance(3)
    assert play.live == [3]


def test_a_drained_member_that_was_switched_off_blocks_nothing() -> None:
    play = Playbook()
    play.save(drain.start(play.fleet, play.config, "proxy-1", now=play.now))
    play.report_all()
    play.advance()
    play.advance(1)
    assert play.state("proxy-1") == "drained"
    for _ in range(12):
        play.report_balancers()
        play.report_census("proxy-2")
        play.report_census("proxy-3")
        play.advance(1)
    assert play.live == [2]


def test_a_member_that_left_the_configuration_drains_and_is_forgotten_in_the_end() -> None:
    play = Playbook()
    smaller = PLATFORM.replace(", {node: proxy-3}", "").replace(
        "  - {name: proxy-3, kind: proxy, address: 198.18.2.13}\n", ""
    )
    before, play.config = play.config, configuration(smaller)
    play.save(configure(play.fleet, before, play.config, play.now))
    assert play.state("proxy-3") == "draining"
    for _ in range(5):
        play.report_all(proxy_3=4)
        play.report_census("proxy-3", 4, needed={1: 4})
        play.advance(1)
    assert play.live == [2, 1], "its flows still need the generation that knew it"
    for _ in range(6):
        play.report_all()
        play.advance(1)
    assert play.live == [2]
    assert play.fleet.member("proxy-3") is None
    back = configure(play.fleet, play.config, before, play.now)
    member = back.member("proxy-3")
    assert member is not None
    assert member.id == 4, "an id is not used again at once"


def test_the_needs_of_a_future_unknown_generation_do_no_harm() -> None:
    play = shuffled()
    play.report_all()
    play.report_census("proxy-1", 1, needed={99: 5})
    play.advance()
    play.advance(3)
    assert play.live == [3]


class Fleet(RuleBasedStateMachine):
    """Flows live on members; members drain and return in any order; reports come late, or not at all.

    The model knows which generation each flow needs. The promise: that generation is live.
    """

    def __init__(self) -> None:
        super().__init__()
        self.play = Playbook()
        self.flows: dict[str, dict[int, int]] = {name: {} for name in PROXIES}

    def active(self) -> list[str]:
        return [name for name in PROXIES if self.play.state(name) == "active"]

    @rule(name=st.sampled_from(PROXIES), count=st.integers(1, 3))
    def open_flows(self, name: str, count: int) -> None:
        """New flows come by the newest generation."""
        if self.play.state(name) == "active":
            held = self.flows[name]
            held[self.play.newest] = held.get(self.play.newest, 0) + count

    @rule(name=st.sampled_from(PROXIES), data=st.data())
    def close_flows(self, name: str, data: st.DataObject) -> None:
        if self.flows[name]:
            del self.flows[name][data.draw(st.sampled_from(sorted(self.flows[name])))]

    @rule(name=st.sampled_from(PROXIES))
    def start_drain(self, name: str) -> None:
        try:
            self.play.save(drain.start(self.play.fleet, self.play.config, name, now=self.play.now))
        except FleetRefused as refusal:
            assert refusal.code in ("capacity_guard", "generations_full")

    @rule(name=st.sampled_from(PROXIES))
    def undrain(self, name: str) -> None:
        try:
            self.play.save(drain.undrain(self.play.fleet, self.play.config, name))
        except FleetRefused as refusal:
            assert refusal.code in ("not_drained", "generations_full")

    @rule()
    def balancers_report(self) -> None:
        self.play.report_balancers()

    @rule(name=st.sampled_from(PROXIES))
    def member_reports(self, name: str) -> None:
        """Flows of the newest generation need nothing more; those of older ones need theirs."""
        held = self.flows[name]
        needed = {number: count for number, count in held.items() if number != self.play.newest}
        self.play.report_census(name, sum(held.values()), needed)
        self.play.report_proxy(name, sum(held.values()))

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.play.advance(seconds)

    @rule()
    def orchestrator_restarts(self) -> None:
        self.play.restart()

    @precondition(lambda self: len(self.play.live) > 1)
    @rule()
    def a_quiet_while(self) -> None:
        for _ in range(5):
            self.balancers_report()
            for name in PROXIES:
                self.member_reports(name)
            self.time_passes(1.0)

    @invariant()
    def every_needed_generation_is_live(self) -> None:
        live = set(self.play.live)
        for name, held in self.flows.items():
            assert set(held) <= live, f"{name} holds {held}, live are {sorted(live)}"

    @invariant()
    def the_guard_holds(self) -> None:
        assert len(self.active()) >= 2


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("seconds", [0.0, 100.0])
def test_advance_is_idempotent_at_one_moment(seconds: float) -> None:
    play = shuffled()
    play.report_all()
    play.advance()
    play.now += seconds
    play.advance()
    once = play.fleet
    play.advance()
    assert play.fleet == once
