"""Probes by real sockets: through the tunnel to a member's redirector, and back from the VIP, on real agents."""

import re
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any

import pytest

from l4.bpf_map import Map
from l4.entries import MemberEntry
from l4.pins import pin_path
from orchestrator.contract.base import Address
from orchestrator.contract.node import AgentRole
from orchestrator.contract.pool import Encapsulation, PoolForwarding, Probe
from tests.l4.edge import (
    ACTIVE,
    NETWORKS,
    PROXIES,
    ROUTER,
    Edge,
    address_of,
    balancer_snapshot,
    eventually,
    redirector_snapshot,
    run,
)

pytestmark = pytest.mark.kernel

BOTH_HEALTHY = {1: "healthy", 2: "healthy"}
#: These tests wait for two compilers on a host that may be busy.
PATIENCE_S = 60.0


def underlay(host: str, version: int) -> Address:
    return address_of(host) if version == 4 else IPv6Address(f"{NETWORKS[host][1]}:11")


def probed(probe: Probe, encapsulation: Encapsulation = Encapsulation.GUE, version: int = 4) -> PoolForwarding:
    """Both members active, reached in this way."""
    return ACTIVE.model_copy(
        update={
            "probe": probe,
            "encapsulation": encapsulation,
            "redirectors": encapsulation is Encapsulation.GUE,
            "members": tuple(
                member.model_copy(update={"address": underlay(member.name, version)}) for member in ACTIVE.members
            ),
        }
    )


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    edge = Edge(tmp_path_factory.mktemp("edge"))
    try:
        yield edge
    finally:
        edge.close()


def start(edge: Edge, pool: PoolForwarding) -> None:
    """Every agent anew, on this pool."""
    changes: dict[str, Any] = {
        "tunnel_sources": tuple(underlay(host, version) for host in ("l4", *PROXIES.values()) for version in (4, 6)),
        "probe_sources": tuple(underlay("l4", version) for version in (4, 6)),
    }
    for member, name in PROXIES.items():
        address = next(each.address for each in pool.members if each.id == member)
        changed = redirector_snapshot(1, member, pool).model_copy(update=changes | {"address": address})
        if edge.snapshots.get(name) != changed:
            if name in edge.agents:
                assert edge.stop_agent(name) == 0
            edge.start_agent(name, AgentRole.REDIRECTOR, changed)
    node = balancer_snapshot(1, pool).model_copy(update={"address_v6": underlay("l4", 6)})
    if edge.snapshots.get("l4") != node or "l4" not in edge.agents:
        if "l4" in edge.agents:
            assert edge.stop_agent("l4") == 0
        edge.start_agent("l4", AgentRole.BALANCER, node)


def verdicts(edge: Edge) -> dict[int, str]:
    """What the agent's log said last of each member."""
    return {int(found[1]): found[2] for found in re.finditer(r"member (\d+) is (\w+):", edge.log_of("l4"))}


def live_bits(edge: Edge) -> dict[int, bool]:
    """As the kernel holds them."""
    with Map.pinned(pin_path(edge.directory / "l4" / "bpf", "balancer", "members")) as members:
        found = {n: MemberEntry.unpack(n, members.lookup(struct.pack("=I", n)) or b"") for n in PROXIES}
    return {number: entry.live for number, entry in found.items() if entry is not None}


def becomes(edge: Edge, expected: dict[int, str]) -> None:
    eventually(lambda: verdicts(edge) == expected, f"{expected}", PATIENCE_S)


def setting(edge: Edge, host: str, name: str) -> str:
    return edge.execute(host, "sysctl", "-n", name).strip()


@pytest.mark.parametrize(
    ("vip", "encapsulation", "version"),
    [
        ("web-v4", Encapsulation.IPIP, 6),
        ("web-v6", Encapsulation.IPIP, 4),
        ("web-v6", Encapsulation.GUE, 6),
        ("web-v6", Encapsulation.GUE, 4),
    ],
)
def test_a_probe_walks_the_tunnel_and_the_answer_comes_straight_back(
    edge: Edge, vip: str, encapsulation: Encapsulation, version: int
) -> None:
    start(edge, probed(Probe(vip=vip), encapsulation, version))
    becomes(edge, BOTH_HEALTHY)
    assert live_bits(edge) == {1: True, 2: True}
    for proxy in PROXIES.values():
        metrics = edge.metrics(proxy)
        assert metrics["edge_l4_local_probe_total"] > 0
        assert metrics["edge_l4_local_syn_total"] == 0, "no new flow: drains listen for those"


def test_a_host_that_is_cut_off_is_dead_in_this_kernel_at_once_and_alive_when_it_answers(edge: Edge) -> None:
    start(edge, probed(Probe(vip="web-v4")))
    becomes(edge, BOTH_HEALTHY)
    run("ip", "-n", edge.namespace(ROUTER), "link", "set", "proxy-1", "down")
    try:
        becomes(edge, {1: "unreachable", 2: "healthy"})
        eventually(lambda: live_bits(edge) == {1: False, 2: True}, "the live bit follows")
        assert "no answer within 200 ms" in edge.log_of("l4")
    finally:
        run("ip", "-n", edge.namespace(ROUTER), "link", "set", "proxy-1", "up")
    becomes(edge, BOTH_HEALTHY)
    eventually(lambda: live_bits(edge) == {1: True, 2: True}, "the live bit follows")


def test_probes_leave_no_connection_behind(edge: Edge) -> None:
    start(edge, probed(Probe(vip="web-v4")))
    becomes(edge, BOTH_HEALTHY)
    for host in ("l4", *PROXIES.values()):
        assert edge.execute(host, "ss", "-Htan", "state", "time-wait", "( sport = :443 or dport = :443 )") == ""


def test_a_classifier_that_somebody_takes_off_is_put_back(edge: Edge) -> None:
    start(edge, probed(Probe(vip="web-v4")))
    becomes(edge, BOTH_HEALTHY)
    edge.execute("l4", "tc", "qdisc", "del", "dev", "eth0", "clsact")
    eventually(
        lambda: "edge_probe" in edge.execute("l4", "tc", "filter", "show", "dev", "eth0", "egress"), "it is back"
    )
    becomes(edge, BOTH_HEALTHY)


def test_who_answers_wrongly_is_unhealthy_and_stays_live(edge: Edge) -> None:
    start(edge, probed(Probe.model_validate({"kind": "http", "vip": "web-v4"})))
    becomes(edge, {1: "unhealthy", 2: "unhealthy"})
    assert "no HTTP answer" in edge.log_of("l4") or "broke off" in edge.log_of("l4")
    assert live_bits(edge) == {1: True, 2: True}


def test_detaching_takes_the_classifier_off(edge: Edge) -> None:
    start(edge, probed(Probe(vip="web-v4")))
    becomes(edge, BOTH_HEALTHY)
    assert setting(edge, "l4", "net.ipv4.conf.eth0.accept_local") == "1"
    assert edge.stop_agent("l4") == 0
    edge.end_bird_of_l4()
    bpffs = str(edge.directory / "l4" / "bpf")
    edge.execute("l4", str(edge.program), "balancer", "detach", "--interface", "eth0", "--bpffs", bpffs)
    assert edge.execute("l4", "tc", "filter", "show", "dev", "eth0", "egress") == ""
