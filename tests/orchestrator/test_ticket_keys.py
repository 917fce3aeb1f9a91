"""Keys of session tickets: one period ahead of their use, one period in use, and a while after."""

import pytest

from orchestrator.config.compile import load_configuration
from orchestrator.config.configuration import Configuration
from orchestrator.contract.snapshot import ProxySnapshot
from orchestrator.contract.ticket import TicketKey
from orchestrator.fleet.document import FleetState, TicketKeyChain
from orchestrator.fleet.snapshots import compile_snapshot, known_agents
from orchestrator.fleet.ticket_keys import rotated, ticket_keys
from tests.orchestrator.fleets import HASH_KEY, PLATFORM, Playbook, files

PERIOD = 3600.0


@pytest.fixture
def play() -> Playbook:
    return Playbook()


CONFIGURATION = load_configuration(files(PLATFORM + "tls: {ticket_keys: {rotate_s: 3600, older: 2}}\n"))


def chain(fleet: FleetState) -> TicketKeyChain:
    assert fleet.ticket_keys is not None
    return fleet.ticket_keys


def first() -> FleetState:
    return rotated(FleetState(hash_key=HASH_KEY), CONFIGURATION, wall=0.0)


def test_a_fleet_without_tls_has_no_keys() -> None:
    fleet = FleetState(hash_key=HASH_KEY)
    assert rotated(fleet, Configuration(), wall=0.0) is fleet
    assert ticket_keys(fleet) is None


def test_each_key_is_known_before_it_issues_and_accepted_after() -> None:
    fleet = first()
    seen: list[TicketKey] = [chain(fleet).issuing]
    for turn in range(1, 6):
        was = chain(fleet)
        assert rotated(fleet, CONFIGURATION, wall=turn * PERIOD - 1) is fleet
        fleet = rotated(fleet, CONFIGURATION, wall=turn * PERIOD)
        assert chain(fleet).issuing == was.next
        seen.insert(0, chain(fleet).issuing)
        sent = ticket_keys(fleet)
        assert sent is not None
        assert (sent.issuing, sent.accepting) == (seen[0], (chain(fleet).next, *seen[1:3]))
    assert len({key.secret for key in seen}) == len(seen)


def test_a_clock_that_was_wrong_keeps_no_key_in_use() -> None:
    fleet = rotated(first(), CONFIGURATION, wall=1e9)
    assert rotated(fleet, CONFIGURATION, wall=1e9 - PERIOD + 1) is fleet
    assert rotated(fleet, CONFIGURATION, wall=1e9 - PERIOD) is not fleet


def test_fewer_older_keys_are_forgotten_at_once() -> None:
    fleet = first()
    for turn in (1, 2):
        fleet = rotated(fleet, CONFIGURATION, wall=turn * PERIOD)
    none = CONFIGURATION.model_copy(update={"older_ticket_keys": 0})
    assert chain(rotated(fleet, none, wall=2 * PERIOD)).older == ()


def test_no_secret_is_in_what_may_be_logged() -> None:
    fleet = first()
    for key in (chain(fleet).next, chain(fleet).issuing):
        assert key.secret not in f"{fleet!r}{chain(fleet)!r}{ticket_keys(fleet)!r}{fleet}"


def test_every_proxy_is_sent_the_same_keys_and_nobody_else_any(play: Playbook) -> None:
    fleet = rotated(play.fleet, play.config, wall=0.0)
    snapshots = [compile_snapshot(fleet, play.config, agent) for agent in known_agents(fleet, play.config)]
    proxies = [each for each in snapshots if isinstance(each, ProxySnapshot)]
    others = [each for each in snapshots if each is not None and not isinstance(each, ProxySnapshot)]
    assert [each.ticket_keys for each in proxies] == [ticket_keys(fleet)] * 3
    secret = chain(fleet).issuing.secret
    assert all(secret in each.model_dump_json() for each in proxies)
    assert others
    assert not any(secret in each.model_dump_json() for each in others)
