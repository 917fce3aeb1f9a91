"""Who is told to announce a VIP whatever happens: the last one that does, and nobody without need."""

import pytest

from orchestrator.fleet import l4_drain
from tests.orchestrator.fleets import balancer_status
from tests.orchestrator.test_l4_drain import VIPS, L4Play, platform


@pytest.fixture
def play() -> L4Play:
    made = L4Play(config=platform("l4-1", "l4-2"))
    made.seconds(3)
    return made


def named(play: L4Play, name: str) -> tuple[str, ...]:
    return play.snapshot(name).announce_anyway


def test_nobody_is_named_while_two_announce(play: L4Play) -> None:
    assert play.fleet.announce_anyway == {}


def test_who_is_left_alone_is_named_and_goes_on_when_it_fails_too(play: L4Play) -> None:
    play.failed.add("l4-1")
    play.seconds(2)
    assert named(play, "l4-2") == (), "it has not been so for long"
    play.seconds(1)
    assert named(play, "l4-2") == VIPS
    assert named(play, "l4-1") == ()
    play.failed.add("l4-2")
    revision = play.fleet.revision
    play.seconds(60)
    assert play.announced("l4-2") == VIPS
    assert play.fleet.revision == revision


def test_a_node_that_comes_and_goes_makes_no_revision(play: L4Play) -> None:
    revision = play.fleet.revision
    for _ in range(30):
        play.failed.add("l4-1")
        play.seconds(1)
        play.failed.clear()
        play.seconds(1)
    assert play.fleet.revision == revision


def test_who_is_not_alone_any_more_is_named_a_while_longer(play: L4Play) -> None:
    play.failed.add("l4-1")
    play.seconds(3)
    play.failed.clear()
    play.seconds(10)
    assert named(play, "l4-2") == VIPS
    play.seconds(1)
    assert play.fleet.announce_anyway == {}


def test_only_the_vips_that_nobody_else_announces_are_named(play: L4Play) -> None:
    for _ in range(4):
        play.now += 1
        play.report()
        play.report_balancer("l4-1", balancer_status(["web-v6"]))
        play.tick()
    assert named(play, "l4-2") == ("web-v4",)


def test_the_other_is_named_while_one_drains_and_the_drained_one_never(play: L4Play) -> None:
    play.failed.add("l4-1")
    play.seconds(3)
    play.failed.clear()
    play.seconds(1)
    play.drain("l4-2")
    assert named(play, "l4-2") == (), "at once: it is to go"
    play.seconds(3)
    assert named(play, "l4-1") == VIPS
    play.drain("l4-1", go_dark=True)
    play.seconds(30)
    assert play.fleet.announce_anyway == {}, "it is to go dark"
    play.save(l4_drain.undrain(play.fleet, ["l4-1", "l4-2"]))
    play.seconds(30)
    assert play.fleet.announce_anyway == {}


def test_a_silent_node_counts_as_gone_only_when_it_had_time_to_report(play: L4Play) -> None:
    play.silent.add("l4-1")
    play.seconds(5)
    assert play.fleet.announce_anyway == {}
    play.seconds(4)
    assert named(play, "l4-2") == VIPS


def test_an_orchestrator_that_starts_names_nobody_and_forgets_nobody(play: L4Play) -> None:
    play.failed.add("l4-1")
    play.seconds(3)
    play.restart()
    play.silent |= {"l4-1", "l4-2"}
    play.seconds(60)
    assert named(play, "l4-2") == VIPS, "nothing is heard: what was said stands"
    play.restart()
    play.silent = {"l4-2"}
    play.failed.clear()
    play.seconds(4)
    assert named(play, "l4-1") == (), "the other has had no time yet"
