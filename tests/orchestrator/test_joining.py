"""Members that join are given rows when they are ready, and not before: rows hold old flows too."""

from ipaddress import IPv4Address

import pytest

from orchestrator.contract.node import AgentRole
from orchestrator.contract.report import Report
from orchestrator.contract.snapshot import RedirectorSnapshot
from orchestrator.fleet import drain
from orchestrator.fleet.membership import configure, shown_state
from orchestrator.fleet.progress import joining_obstacles
from orchestrator.fleet.snapshots import compile_snapshot
from tests.orchestrator.fleets import PLATFORM, Playbook, agent, configuration, redirector_status

LARGER = PLATFORM.replace("{node: proxy-3}", "{node: proxy-3}, {node: proxy-4}").replace(
    "pools:", "  - {name: proxy-4, kind: proxy, address: 198.18.2.14}\npools:"
)


@pytest.fixture
def play() -> Playbook:
    """A fleet of three that runs, whose configuration has just named a fourth."""
    play = Playbook()
    play.report_all()
    before, play.config = play.config, configuration(LARGER)
    play.save(configure(play.fleet, before, play.config, play.now))
    return play


def obstacles(play: Playbook, name: str = "proxy-4") -> str:
    member = play.fleet.member(name)
    assert member is not None
    return "; ".join(
        each for found in joining_obstacles(play.fleet, play.config, play.board, member).values() for each in found
    )


def shown(play: Playbook, name: str = "proxy-4") -> str:
    member = play.fleet.member(name)
    assert member is not None
    return str(shown_state(play.fleet, member))


def test_a_new_member_is_given_rows_when_all_are_ready_for_it(play: Playbook) -> None:
    play.advance(1)
    assert play.live == [1]
    assert shown(play) == "joining"
    assert "the redirector of proxy-4 has not reported" in obstacles(play)
    play.admit()
    assert play.live == [2, 1]
    assert [member.id for member in play.fleet.pools[0].newest.generation.members] == [1, 2, 3, 4]
    assert shown(play) == "active"
    assert play.fleet.pools[0].joining == {}


@pytest.mark.parametrize(
    ("late", "role"),
    [
        ("proxy-4", AgentRole.REDIRECTOR),
        ("proxy-4", AgentRole.PROXY),
        ("proxy-2", AgentRole.REDIRECTOR),
    ],
)
def test_one_that_has_not_applied_the_change_keeps_the_new_member_waiting(
    play: Playbook, late: str, role: AgentRole
) -> None:
    """The member must serve and pass on, and its fellows must believe what it passes on."""
    play.report_all()
    report = play.report_proxy if role is AgentRole.PROXY else play.report_census
    report(late, version=play.fleet.revision - 1)
    play.advance()
    assert play.live == [1]
    assert f"the {role} of {late} has not applied revision 2" in obstacles(play)


def test_a_redirector_that_is_detached_keeps_its_member_waiting(play: Playbook) -> None:
    play.report_all()
    report = Report(applied_version=play.fleet.revision, nack=None, status=redirector_status(attached=False))
    play.board.take(agent("proxy-4", AgentRole.REDIRECTOR), report)
    play.advance()
    assert play.live == [1]
    assert "no redirector is attached to eth0 of proxy-4" in obstacles(play)


def test_a_dead_fellow_keeps_nobody_waiting(play: Playbook) -> None:
    play.now += 60
    play.report_balancers()
    for name in ("proxy-1", "proxy-3", "proxy-4"):
        play.report_proxy(name)
        play.report_census(name)
    play.advance()
    assert play.live == [2, 1]


def test_fellows_accept_the_tunnel_of_a_member_that_joins(play: Playbook) -> None:
    """Were they told with the generation itself, the first packets that it passes on would be refused."""
    snapshot = compile_snapshot(play.fleet, play.config, agent("proxy-1", AgentRole.REDIRECTOR))
    assert isinstance(snapshot, RedirectorSnapshot)
    assert IPv4Address("198.18.2.14") in snapshot.tunnel_sources


def test_an_undrained_member_waits_for_agents_that_are_not_back_yet() -> None:
    play = Playbook()
    play.save(drain.start(play.fleet, play.config, "proxy-1", now=play.now))
    play.admit()
    play.advance(1)
    assert play.state("proxy-1") == "drained"
    before = play.fleet.revision
    play.save(drain.undrain(play.fleet, play.config, "proxy-1"))
    play.report_all()
    play.report_proxy("proxy-1", version=before)  # what it said before it was restarted
    play.advance()
    assert shown(play, "proxy-1") == "joining"
    play.report_proxy("proxy-1")
    play.advance()
    assert shown(play, "proxy-1") == "active"


def test_the_guard_does_not_count_a_member_that_joins(play: Playbook) -> None:
    play.save(drain.start(play.fleet, play.config, "proxy-1", now=play.now))
    with pytest.raises(Exception, match="has 2 active members; without proxy-2 it would have 1"):
        drain.start(play.fleet, play.config, "proxy-2", now=play.now)
    play.save(drain.start(play.fleet, play.config, "proxy-4", now=play.now))
    assert play.state("proxy-4") == "draining", "it takes no flows: nothing is lost by taking it out"
    assert play.fleet.pools[0].joining == {}


def test_joining_survives_the_orchestrator(play: Playbook) -> None:
    play.fleet = type(play.fleet).model_validate_json(play.fleet.model_dump_json())
    play.restart()
    play.advance(60)
    assert play.live == [1]
    play.admit()
    assert play.live == [2, 1]
