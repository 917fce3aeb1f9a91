"""The largest fleet that the contract allows: its snapshots stay within their bounds, and are made once."""

from collections import Counter
from ipaddress import IPv4Address
from unittest import mock

import pytest

from l4.forwarding import GenerationTables
from orchestrator.config.configuration import (
    Configuration,
    ConfiguredMember,
    ConfiguredNode,
    ConfiguredPool,
    ConfiguredVip,
)
from orchestrator.contract.node import AgentIdentity, AgentRole, NodeKind
from orchestrator.contract.pool import MAX_LIVE_GENERATIONS, MAX_MEMBERS, MAX_TABLE_ROWS
from orchestrator.contract.snapshot import SNAPSHOT, BalancerSnapshot, RedirectorSnapshot
from orchestrator.contract.state_directory import MAX_SNAPSHOT_BYTES
from orchestrator.contract.vip import MAX_VIPS, VipMode
from orchestrator.fleet.document import FleetRefused, FleetState
from orchestrator.fleet.membership import MAX_GENERATION_MEMBERS, configure
from orchestrator.fleet.snapshots import Compilation, known_agents
from tests.orchestrator.fleets import HASH_KEY, PLATFORM, Playbook, agent, configuration

BALANCER = AgentIdentity(node="l4-0", role=AgentRole.BALANCER)
REDIRECTOR = AgentIdentity(node="proxy-7", role=AgentRole.REDIRECTOR)


def large(weight: int, members: int = MAX_MEMBERS, vips: int = MAX_VIPS) -> Configuration:
    """One pool; the first member has this weight."""
    l4_nodes = [
        ConfiguredNode(name=f"l4-{n}", kind=NodeKind.L4, address=IPv4Address("198.18.1.1") + n) for n in range(4)
    ]
    proxies = [
        ConfiguredNode(name=f"proxy-{n}", kind=NodeKind.PROXY, address=IPv4Address("198.19.0.1") + n)
        for n in range(members)
    ]
    return Configuration(
        nodes=(*l4_nodes, *proxies),
        pools=(
            ConfiguredPool(
                name="edge",
                members=tuple(
                    ConfiguredMember(node=node.name, weight=weight if node is proxies[0] else 1) for node in proxies
                ),
                min_active=1,
            ),
        ),
        vips=tuple(
            ConfiguredVip(
                name=f"vip-{n}",
                address=IPv4Address("203.0.0.1") + n,
                port=443,
                mode=VipMode.TERMINATE,
                pool="edge",
                tls=True,
            )
            for n in range(vips)
        ),
        rows=MAX_TABLE_ROWS,
    )


def changed(generations: int, members: int) -> tuple[FleetState, Configuration]:
    """A fleet whose first member's weight was changed so often that so many generations are live."""
    fleet, before = FleetState(hash_key=HASH_KEY), Configuration()
    for weight in range(1, generations + 1):
        after = large(weight, members)
        fleet = configure(fleet, before, after, 0.0).model_copy(update={"revision": weight})
        before = after
    return fleet, before


def test_4096_members_in_64_generations_fit_into_a_snapshot() -> None:
    fleet, present = changed(1, MAX_MEMBERS)
    only = fleet.pools[0].newest
    generations = tuple(
        only.model_copy(update={"generation": only.generation.model_copy(update={"number": number})})
        for number in range(MAX_LIVE_GENERATIONS, 0, -1)
    )
    fleet = fleet.model_copy(update={"pools": (fleet.pools[0].model_copy(update={"generations": generations}),)})
    compilation = Compilation(fleet, present)
    for one in (BALANCER, REDIRECTOR):
        text = compilation.text(one)
        assert text is not None
        assert len(text) < MAX_SNAPSHOT_BYTES / 4
    document = fleet.model_dump_json().encode()
    # As much as all pools of a fleet together may take: some room is left for names, addresses and VIPs.
    per_member = len(document) / (MAX_LIVE_GENERATIONS * MAX_MEMBERS)
    assert per_member * MAX_GENERATION_MEMBERS < MAX_SNAPSHOT_BYTES * 0.8


def test_what_snapshots_share_is_made_once() -> None:
    fleet, present = changed(3, 10)
    compilation = Compilation(fleet, present)
    first, second = (compilation.snapshot(one) for one in (BALANCER, REDIRECTOR))
    assert isinstance(first, BalancerSnapshot)
    assert isinstance(second, RedirectorSnapshot)
    assert first.pools[0] is second.pools[0]


def test_the_text_of_a_snapshot_is_that_snapshot() -> None:
    play = Playbook()
    compilation = Compilation(play.fleet, play.config)
    for one in known_agents(play.fleet, play.config):
        text = compilation.text(one)
        assert text is not None
        assert SNAPSHOT.validate_json(text) == compilation.snapshot(one)
    assert compilation.text(agent("proxy-9", AgentRole.PROXY)) is None


def test_generations_that_would_not_fit_into_a_snapshot_are_refused() -> None:
    fleet, before = changed(4, 10)
    with mock.patch("orchestrator.fleet.membership.MAX_GENERATION_MEMBERS", 49):
        with pytest.raises(FleetRefused, match="would name 50 members, and 49 are the most") as refusal:
            configure(fleet, before, large(5, 10), 0.0)
        assert refusal.value.code == "generations_full"
        configure(fleet, before, before, 0.0)


def test_weights_are_shares_of_the_rows() -> None:
    weights = PLATFORM.replace(
        "{node: proxy-2, weight: 2}, {node: proxy-3}", "{node: proxy-2}, {node: proxy-3, weight: 10}"
    )
    play = Playbook(configuration(weights))
    snapshot = Compilation(play.fleet, play.config).snapshot(agent("l4-1", AgentRole.BALANCER))
    assert isinstance(snapshot, BalancerSnapshot)
    owners = GenerationTables().owners(snapshot.pools[0].generations[0], snapshot.forwarding)
    shares = Counter(owners)
    assert [round(100 * shares[member] / len(owners)) for member in (1, 2, 3)] == [8, 8, 83]
