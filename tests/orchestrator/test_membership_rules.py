"""Identifiers, slots and generations: stable, and never given to another while somebody may still mean the old one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.configuration import Configuration
from orchestrator.contract.node import AgentRole
from orchestrator.contract.snapshot import BalancerSnapshot, ProxySnapshot, RedirectorSnapshot
from orchestrator.fleet import drain
from orchestrator.fleet.document import MAX_IDENTIFIER, FleetRefused, next_identifier
from orchestrator.fleet.membership import configure
from orchestrator.fleet.snapshots import compile_snapshot, known_agents
from tests.orchestrator.fleets import PLATFORM, Playbook, agent, configuration


def test_a_change_of_weight_is_a_new_generation_and_nothing_else_is() -> None:
    play = Playbook()
    same = configure(play.fleet, play.config, configuration(PLATFORM.replace("port: 443", "port: 8443")), play.now)
    assert same.pools == play.fleet.pools
    heavier = configuration(PLATFORM.replace("weight: 2", "weight: 3"))
    assert [live.generation.number for live in configure(play.fleet, play.config, heavier, 0).pools[0].generations] == [
        2,
        1,
    ]


def test_a_configuration_below_the_guard_is_refused() -> None:
    play = Playbook()
    play.save(drain.start(play.fleet, play.config, "proxy-1", now=0))
    smaller = configuration(PLATFORM.replace(", {node: proxy-3}", ""))
    with pytest.raises(FleetRefused, match=r"would have 1 active members, and its guard \(min_active\) is 2"):
        configure(play.fleet, play.config, smaller, play.now)


def test_rows_and_addresses_in_service_do_not_change() -> None:
    play = Playbook()
    with pytest.raises(FleetRefused, match="would move every flow"):
        configure(play.fleet, play.config, configuration(PLATFORM + "forwarding: {rows: 5003}\n"), 0)
    moved = configuration(PLATFORM.replace("198.18.2.11", "198.18.2.77"))
    with pytest.raises(FleetRefused, match=r"proxy-1 holds flows at 198\.18\.2\.11") as refusal:
        configure(play.fleet, play.config, moved, 0)
    assert "edgectl drain proxy-1" in refusal.value.hint


def test_a_node_that_comes_back_while_it_drains_is_active_again() -> None:
    play = Playbook()
    smaller = configuration(
        PLATFORM.replace(", {node: proxy-3}", "").replace(
            "  - {name: proxy-3, kind: proxy, address: 198.18.2.13}\n", ""
        )
    )
    left = configure(play.fleet, play.config, smaller, 0)
    assert left.members[2].state == "draining"
    back = configure(left.model_copy(update={"revision": 2}), smaller, play.config, 0)
    assert back.members[2].state == "active"
    assert back.members[2].id == play.fleet.members[2].id


def test_a_pool_that_was_removed_and_made_anew_uses_no_number_twice() -> None:
    play = Playbook()
    without = Configuration(nodes=play.config.nodes)
    gone = configure(play.fleet, play.config, without, 0).model_copy(update={"revision": 7})
    assert gone.pools == ()
    again = configure(gone, without, play.config, 0)
    assert again.pools[0].newest.generation.number == 8
    assert again.vip_ids == play.fleet.vip_ids, "a VIP that comes back has its counters"


@given(st.integers(0, MAX_IDENTIFIER), st.sets(st.integers(1, MAX_IDENTIFIER), max_size=50))
def test_an_identifier_is_free_and_the_next_after_the_last(last: int, taken: set[int]) -> None:
    found = next_identifier(last, taken, "members")
    assert 1 <= found <= MAX_IDENTIFIER
    assert found not in taken
    between = range(last + 1, found) if found > last else [*range(last + 1, MAX_IDENTIFIER + 1), *range(1, found)]
    assert set(between) <= taken


def test_each_role_is_sent_what_it_must_run() -> None:
    play = Playbook()
    play.save(drain.start(play.fleet, play.config, "proxy-1", now=5))
    balancer = compile_snapshot(play.fleet, play.config, agent("l4-1", AgentRole.BALANCER))
    assert isinstance(balancer, BalancerSnapshot)
    assert [generation.number for generation in balancer.pools[0].generations] == [2, 1]
    assert [member.state for member in balancer.pools[0].members] == ["draining", "active", "active"]
    assert balancer.bgp is not None
    redirector = compile_snapshot(play.fleet, play.config, agent("proxy-1", AgentRole.REDIRECTOR))
    assert isinstance(redirector, RedirectorSnapshot)
    assert redirector.member_id == 1
    assert redirector.pools == balancer.pools
    assert [str(source) for source in redirector.tunnel_sources] == [
        "198.18.1.11", "198.18.1.12", "198.18.2.11", "198.18.2.12", "198.18.2.13",
    ]  # fmt: skip
    assert redirector.l4_nodes == {1: "l4-1", 2: "l4-2"}
    proxy = compile_snapshot(play.fleet, play.config, agent("proxy-1", AgentRole.PROXY))
    assert isinstance(proxy, ProxySnapshot)
    assert proxy.goodbye is not None
    assert proxy.goodbye.started_at == 5
    assert [listener.vip for listener in proxy.listeners] == ["web-v4", "web-v6"]


@pytest.mark.parametrize(
    ("node", "role"),
    [
        ("proxy-1", AgentRole.BALANCER),
        ("l4-1", AgentRole.PROXY),
        ("l4-1", AgentRole.REDIRECTOR),
        ("x", AgentRole.PROXY),
    ],
)
def test_nobody_else_is_sent_anything(node: str, role: AgentRole) -> None:
    play = Playbook()
    assert compile_snapshot(play.fleet, play.config, agent(node, role)) is None
    assert agent(node, role) not in known_agents(play.fleet, play.config)


@settings(deadline=None)
@given(st.permutations(["proxy-1", "proxy-2", "proxy-3"]))
def test_snapshots_are_a_function_of_the_state_alone(order: list[str]) -> None:
    """Whatever order the members came in by the file, the same fleet gives the same text."""
    members = ", ".join(f"{{node: {name}}}" for name in order)
    one = configuration(
        PLATFORM.replace("[{node: proxy-1}, {node: proxy-2, weight: 2}, {node: proxy-3}]", f"[{members}]")
    )
    play = Playbook(one)
    snapshots = [compile_snapshot(play.fleet, play.config, agent("l4-1", AgentRole.BALANCER)) for _ in range(2)]
    assert snapshots[0] == snapshots[1]
    assert [member.name for member in play.fleet.members] == ["proxy-1", "proxy-2", "proxy-3"]
