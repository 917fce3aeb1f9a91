"""The guard's lists and limits in the fleet's document: what is refused, what lapses, and what L4 nodes are sent."""

import json
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contract.guard import (
    MAX_LISTED,
    Guard,
    GuardLimits,
    Network,
    RateLimit,
    Verdict,
    deciding_prefixes,
)
from orchestrator.contract.node import AgentRole
from orchestrator.contract.operator_guard import LimitRequest, ListRequest, RemovalRequest
from orchestrator.contract.report import Report
from orchestrator.contract.snapshot import BalancerSnapshot
from orchestrator.fleet import guard
from orchestrator.fleet.document import FleetRefused, FleetState
from orchestrator.fleet.guard_view import guard_view
from orchestrator.fleet.ledger import Present
from orchestrator.fleet.snapshots import compile_snapshot
from tests.orchestrator.fleets import Playbook, agent, balancer_status


@pytest.fixture
def play() -> Playbook:
    return Playbook()


def listing(*prefixes: str, verdict: Verdict = Verdict.BLOCK, **rest: Any) -> ListRequest:
    return ListRequest(verdict=verdict, prefixes=tuple(map(ip_network, prefixes)), **rest)


def put(play: Playbook, *prefixes: str, **rest: Any) -> None:
    play.save(guard.put_on_list(play.fleet, play.config, listing(*prefixes, **rest), play.now))


def listed(fleet: FleetState) -> dict[str, str]:
    return {str(entry.prefix): entry.verdict.value for entry in fleet.guard.entries}


def sent(play: Playbook) -> Guard:
    """What an L4 node is to do."""
    snapshot = compile_snapshot(play.fleet, play.config, agent("l4-1", AgentRole.BALANCER))
    assert isinstance(snapshot, BalancerSnapshot)
    return snapshot.guard


def test_what_is_listed_reaches_the_l4_nodes_and_no_other_agent(play: Playbook) -> None:
    put(play, "192.0.2.0/24", "2001:db8:66::/48", reason="flood")
    put(play, "192.0.2.7/32", verdict=Verdict.ALLOW)
    assert set(sent(play).lists.block) == {ip_network("192.0.2.0/24"), ip_network("2001:db8:66::/48")}
    assert sent(play).lists.allow == (ip_network("192.0.2.7/32"),)
    for role in (AgentRole.REDIRECTOR, AgentRole.PROXY):
        snapshot = compile_snapshot(play.fleet, play.config, agent("proxy-1", role))
        assert snapshot is not None
        assert "192.0.2" not in snapshot.model_dump_json()


def test_a_prefix_is_listed_once_and_moves_between_the_lists(play: Playbook) -> None:
    put(play, "192.0.2.0/24")
    put(play, "192.0.2.0/24", verdict=Verdict.ALLOW)
    assert listed(play.fleet) == {"192.0.2.0/24": "allow"}


def test_the_document_with_a_guard_is_read_back_as_it_was_written(play: Playbook) -> None:
    put(play, "192.0.2.0/24", "2001:db8:66::/48", for_s=60, reason="flood")
    play.save(guard.set_limit(play.fleet, play.config, LimitRequest(of="vip", vip="web-v4", limit=None)))
    assert FleetState.model_validate_json(play.fleet.model_dump_json()) == play.fleet


def test_documents_and_snapshots_from_before_the_guard_are_read(play: Playbook) -> None:
    document = json.loads(play.fleet.model_dump_json())
    del document["guard"]
    assert FleetState.model_validate(document).guard.entries == ()
    snapshot = compile_snapshot(play.fleet, play.config, agent("l4-1", AgentRole.BALANCER))
    assert snapshot is not None
    text = json.loads(snapshot.model_dump_json())
    del text["guard"]
    assert BalancerSnapshot.model_validate_json(json.dumps(text)).guard == Guard()


@pytest.mark.parametrize("prefix", ["0.0.0.0/0", "::/0", "0.0.0.0/7", "2000::/15"])
def test_a_good_part_of_the_internet_is_blocked_by_force_only(play: Playbook, prefix: str) -> None:
    with pytest.raises(FleetRefused, match="good part of the Internet") as refused:
        put(play, prefix)
    assert (refused.value.code, refused.value.path) == ("guard_too_wide", prefix)
    put(play, prefix, verdict=Verdict.ALLOW)
    put(play, prefix, force=True)
    assert listed(play.fleet)[prefix] == "block"


@pytest.mark.parametrize(
    ("prefix", "whose"),
    [
        ("198.18.1.11/32", "the l4 node l4-1"),
        ("198.18.1.0/29", "the router of l4-1"),
        ("198.18.2.12/32", "the proxy proxy-2|the proxy node proxy-2"),
        ("198.18.3.0/24", "the server backend-1 of shop-web"),
        ("198.0.0.0/8", "198.18"),
    ],
)
def test_own_hosts_and_routers_are_blocked_by_force_only(play: Playbook, prefix: str, whose: str) -> None:
    with pytest.raises(FleetRefused, match=whose) as refused:
        put(play, prefix)
    assert refused.value.code == "guard_own_address"
    assert "guard allow" in refused.value.hint
    put(play, prefix, force=True)
    assert listed(play.fleet)[prefix] == "block"


def test_own_hosts_that_are_allowed_before_are_no_obstacle(play: Playbook) -> None:
    put(play, *(f"{address}" for address in guard.own_addresses(play.fleet, play.config)), verdict=Verdict.ALLOW)
    put(play, "198.0.0.0/8")
    assert listed(play.fleet)["198.0.0.0/8"] == "block"


def test_what_was_forced_is_no_obstacle_to_other_entries(play: Playbook) -> None:
    put(play, "198.18.1.0/24", force=True)
    put(play, "192.0.2.0/24")
    assert "192.0.2.0/24" in listed(play.fleet)


def test_entries_go_when_their_time_has_come(play: Playbook) -> None:
    put(play, "192.0.2.0/24", for_s=3600)
    put(play, "192.0.3.0/24")
    before = play.fleet
    assert guard.without_expired(before, play.now + 3599) is before
    assert listed(guard.without_expired(before, play.now + 3600)) == {"192.0.3.0/24": "block"}


def test_removing_what_is_not_listed_removes_nothing(play: Playbook) -> None:
    put(play, "192.0.2.0/24")
    request = RemovalRequest(prefixes=(ip_network("192.0.2.0/24"), ip_network("192.0.2.7/32")))
    with pytest.raises(FleetRefused, match=r"192\.0\.2\.7/32") as refused:
        guard.take_off_list(play.fleet, request)
    assert refused.value.code == "not_found"


def test_lists_are_bounded(play: Playbook) -> None:
    full = tuple(IPv4Network((0x0B000000 + number, 32)) for number in range(MAX_LISTED))
    request = ListRequest(verdict=Verdict.BLOCK, prefixes=full)
    play.save(guard.put_on_list(play.fleet, play.config, request, play.now))
    with pytest.raises(FleetRefused, match="65537 prefixes would be listed") as refused:
        put(play, "192.0.2.0/24")
    assert refused.value.code == "guard_full"


def test_limits_are_set_for_all_and_for_one_and_reset(play: Playbook) -> None:
    rate = RateLimit(per_second=5, burst=10)
    for of in ("source", "vip", "new-flows"):
        play.save(guard.set_limit(play.fleet, play.config, LimitRequest.model_validate({"of": of, "limit": rate})))
    play.save(guard.set_limit(play.fleet, play.config, LimitRequest(of="vip", vip="web-v6", limit=None)))
    assert sent(play).limits == GuardLimits(source=rate, vip=rate, new_flows=rate, vips={"web-v6": None})
    play.save(guard.set_limit(play.fleet, play.config, LimitRequest(of="vip", vip="web-v6", limit=None, usual=True)))
    assert sent(play).limits.vips == {}
    play.save(guard.reset_limits(play.fleet))
    assert sent(play).limits == GuardLimits()


def test_a_limit_of_an_unknown_vip_is_refused_and_says_which_there_are(play: Playbook) -> None:
    with pytest.raises(FleetRefused, match="no VIP web-v9") as refused:
        guard.set_limit(play.fleet, play.config, LimitRequest(of="vip", vip="web-v9", limit=None))
    assert "web-v4" in refused.value.hint


@pytest.mark.parametrize(
    "question",
    [
        {"of": "source", "vip": "web-v4", "limit": None},
        {"of": "vip", "limit": None, "usual": True},
        {"of": "vip", "limit": {"per_second": 0, "burst": 1}},
        {"of": "vip", "limit": {"per_second": 1, "burst": 0}},
    ],
)
def test_limits_that_make_no_sense_are_refused(question: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        LimitRequest.model_validate(question)


def test_what_a_change_did_is_said_in_words(play: Playbook) -> None:
    before = play.fleet.guard
    put(play, "192.0.2.0/24", "192.0.3.0/24", "192.0.4.0/24", "192.0.5.0/24")
    assert guard.describe(before, play.fleet.guard) == ("blocked: 192.0.2.0/24, 192.0.3.0/24, 192.0.4.0/24 and 1 more",)
    assert guard.describe(play.fleet.guard, before) == (
        "no longer listed: 192.0.2.0/24, 192.0.3.0/24, 192.0.4.0/24 and 1 more",
    )
    assert guard.describe(before, before) == ()


def test_the_view_shows_what_each_node_refused(play: Playbook) -> None:
    status = balancer_status().model_copy(
        update={
            "counters": {"forwarded": 9, "blocked": 5, "syn_retransmissions": 2},
            "drops": {"web-v4": {"blocked": 5, "no_table": 1}, "web-v6": {"no_table": 3}},
        }
    )
    play.board.take(agent("l4-1", AgentRole.BALANCER), Report(applied_version=1, nack=None, status=status))
    view = guard_view(Present(play.fleet, play.config, 1), play.board)
    first, second = view.nodes
    assert first.counters == {"blocked": 5, "syn_retransmissions": 2}
    assert first.by_vip == {"web-v4": {"blocked": 5}}
    assert (second.report_age_s, second.counters) == (None, {})


@st.composite
def networks(draw: Any) -> Network:
    version = draw(st.sampled_from((4, 6)))
    bits = 32 if version == 4 else 128
    base = int(ip_address("198.51.100.7" if version == 4 else "2001:db8:51::7"))
    flips = draw(st.lists(st.integers(0, bits - 1), max_size=3))
    address = type(ip_address("::" if version == 6 else "0.0.0.0"))(base ^ sum({1 << flip for flip in flips}))
    network: Network = ip_network((address, draw(st.integers(0, bits))), strict=False)
    return network


@given(listed=st.sets(networks(), max_size=12), sources=st.lists(networks(), max_size=8))
def test_the_most_specific_prefix_decides(listed: set[Network], sources: list[Network]) -> None:
    addresses = [network.network_address for network in sources]
    found = deciding_prefixes(listed, addresses)
    for address in addresses:
        holding = [network for network in listed if network.version == address.version and address in network]
        assert found.get(address) == max(holding, key=lambda network: network.prefixlen, default=None)
