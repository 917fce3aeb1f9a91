"""The promises of the spine, on the whole product: one lab, and faults in it."""

import json
import re
import signal
import subprocess
from collections.abc import Callable
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from time import monotonic, sleep

import pytest

from orchestrator.contract.node import AgentRole
from orchestrator.contract.operator import StatusView
from orchestrator.contract.pool import MemberState
from orchestrator.lab import HOST_NAME, VIP_PORT, VIP_V4, VIP_V6, Lab, LabError, checks, fabric, router
from orchestrator.lab.commands import program
from orchestrator.lab.content import BYTES_PATH, LARGE, UPLOADS_PATH, content_of, resource
from orchestrator.lab.processes import Role
from orchestrator.lab.topology import HOST_INTERFACE, METRICS_PORTS, LabHost

pytestmark = pytest.mark.lab

#: Seconds for anything that the fleet does by itself: a restart, a drain of a few idle flows, a route that comes back.
PATIENCE_S = 30.0

REFUSED_BY_A_GUARD = 3


def edgectl(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("edgectl"), "--context", str(lab.operator), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        check=False,
    )


def answer(lab: Lab, *arguments: str) -> str:
    done = edgectl(lab, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fetch(lab: Lab, vip: IPv4Address | IPv6Address, source: int = 0) -> str:
    """GET / over a VIP; the backend's name."""
    client = lab.topology.client
    address = (client.v4 if vip.version == 4 else client.v6)[source].ip
    return checks.request(lab, client, address, vip).strip()


def eventually(what: str, holds: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE_S
    while not holds():
        assert monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        sleep(0.1)


def metrics(host: LabHost, role: AgentRole) -> dict[str, float]:
    """Samples without labels, by name; empty while the agent does not answer."""
    url = f"http://{host.address}:{METRICS_PORTS[role]}/metrics"
    try:
        text = fabric.run_in(host.namespace, ["curl", "-sSf", "--max-time", "5", url])
    except LabError:
        return {}
    return {name: float(value) for name, value in re.findall(r"^([a-z0-9_]+) ([0-9.e+-]+)$", text, re.MULTILINE)}


def digest(lab: Lab, node: LabHost) -> str:
    return answer(lab, "get", "table", "--node", node.name, "--digest").strip()


def everyone_is_up_to_date(lab: Lab) -> bool:
    return checks.agents_are_up_to_date(lab) is None


def fleet(lab: Lab) -> StatusView:
    return StatusView.model_validate_json(answer(lab, "status", "--json"))


def member_state(lab: Lab, name: str) -> MemberState:
    return next(member.state for pool in fleet(lab).pools for member in pool.members if member.name == name)


@pytest.mark.parametrize("vip", [VIP_V4, VIP_V6], ids=["ipv4", "ipv6"])
def test_requests_are_answered_by_all_backends(lab: Lab, vip: IPv4Address | IPv6Address) -> None:
    answered = {fetch(lab, vip, source) for source in range(lab.spec.client_addresses)}
    answered |= {fetch(lab, vip, source) for source in range(lab.spec.client_addresses)}
    assert answered == {host.name for host in lab.topology.backends}


def test_l4_nodes_hold_identical_tables_whatever_their_history(lab: Lab) -> None:
    """One has seen a drain and its end; the other starts after it, with an empty kernel and no snapshot on disk."""
    first, second = lab.topology.l4_nodes
    assert digest(lab, first) == digest(lab, second)
    lab.kill_process(second.name, Role.BALANCER)
    detach = [program("edge-l4"), "balancer", "detach", "--interface", HOST_INTERFACE]
    try:
        fabric.run_in(second.namespace, [*detach, "--bpffs", str(lab.bpffs(second.name))])
        (lab.directory(second.name) / "balancer" / "snapshot.json").unlink()
        answer(lab, "drain", "proxy-1")
        assert member_state(lab, "proxy-1") != MemberState.ACTIVE
        answer(lab, "undrain", "proxy-1")
    finally:
        lab.restart_process(second.name, Role.BALANCER)
    eventually("all agents up to date", lambda: everyone_is_up_to_date(lab))
    eventually("both next hops", lambda: checks.routes_are_complete(lab) is None)
    # Until generations have retired, the two may have been asked before and after a change.
    eventually("one generation", lambda: all(len(pool.generations) == 1 for pool in fleet(lab).pools))
    eventually("all agents up to date", lambda: everyone_is_up_to_date(lab))
    eventually("equal tables", lambda: digest(lab, first) == digest(lab, second))
    assert re.fullmatch(r"[0-9a-f]{64}", digest(lab, first))


def test_a_second_drain_is_refused_by_the_guard_which_names_both_numbers(lab: Lab) -> None:
    answer(lab, "drain", "proxy-1")
    try:
        refused = edgectl(lab, "drain", "proxy-2")
        assert refused.returncode == REFUSED_BY_A_GUARD, refused.stderr
        assert re.search(r"\b1\b", refused.stderr), "how many would be left"
        assert re.search(r"\b2\b", refused.stderr), "how many must stay"
        assert [drain.node for drain in fleet(lab).drains] == ["proxy-1"]
    finally:
        answer(lab, "undrain", "proxy-1")
    eventually("all agents up to date", lambda: everyone_is_up_to_date(lab))


def test_an_undrained_proxy_is_given_no_flow_before_its_agents_are_back(lab: Lab) -> None:
    """Its rows hold old flows of others too: a host that cannot pass them on would swallow them."""
    proxy = lab.topology.proxies[0]
    answer(lab, "drain", proxy.name)
    lab.kill_process(proxy.name, Role.PROXY)
    try:
        answer(lab, "undrain", proxy.name, "--no-wait")
        assert member_state(lab, proxy.name) is MemberState.JOINING
        for source in range(lab.spec.client_addresses):
            assert fetch(lab, VIP_V4, source)
            assert fetch(lab, VIP_V6, source)
    finally:
        lab.restart_process(proxy.name, Role.PROXY)
    eventually("active again", lambda: member_state(lab, proxy.name) is MemberState.ACTIVE)
    eventually("all agents up to date", lambda: everyone_is_up_to_date(lab))


def test_without_the_orchestrator_traffic_flows_on_and_agents_come_back_on_their_last_snapshot(lab: Lab) -> None:
    balancer, proxy = lab.topology.l4_nodes[0], lab.topology.proxies[0]
    lab.kill_process(lab.topology.control.name, Role.ORCHESTRATOR, signal.SIGKILL)
    assert fetch(lab, VIP_V4)
    assert fetch(lab, VIP_V6)
    restarted = ((balancer, AgentRole.BALANCER), (proxy, AgentRole.REDIRECTOR), (proxy, AgentRole.PROXY))
    for host, role in restarted:
        lab.restart_process(host.name, Role(role.value))
    eventually("their metrics answer", lambda: all(metrics(host, role) for host, role in restarted))
    eventually("both next hops", lambda: checks.routes_are_complete(lab) is None)
    for source in range(lab.spec.client_addresses):
        assert fetch(lab, VIP_V4, source)
        assert fetch(lab, VIP_V6, source)
    assert (lab.directory(balancer.name) / "balancer" / "snapshot.json").exists()
    lab.restart_process(lab.topology.control.name, Role.ORCHESTRATOR)
    eventually("all agents up to date", lambda: everyone_is_up_to_date(lab))


def test_the_flow_table_is_never_consulted_for_tcp(lab: Lab) -> None:
    def total(name: str) -> float:
        return sum(metrics(node, AgentRole.BALANCER)[f"edge_l4_{name}_total"] for node in lab.topology.l4_nodes)

    forwarded, misses = total("forwarded"), total("flow_table_misses")
    for source in range(lab.spec.client_addresses):
        fetch(lab, VIP_V4, source)
        fetch(lab, VIP_V6, source)
    assert total("forwarded") > forwarded, "the balancers carried this"
    assert total("flow_table_misses") == misses, "who asks for unknown flows misses"


def test_a_silent_black_hole_costs_less_than_a_second(lab: Lab) -> None:
    node = lab.topology.l4_nodes[1]
    lab.cut_link(node.name)
    began = monotonic()
    while str(node.address) in router.next_hops(lab.topology.entry.namespace, VIP_V4):
        assert monotonic() - began < 1.0
    for source in range(lab.spec.client_addresses):
        assert fetch(lab, VIP_V4, source)
    lab.heal_link(node.name)
    eventually("both next hops again", lambda: checks.routes_are_complete(lab) is None)


@pytest.mark.parametrize("vip", [VIP_V4, VIP_V6], ids=["ipv4", "ipv6"])
def test_large_bodies_pass_unharmed_both_ways(lab: Lab, vip: IPv4Address | IPv6Address, tmp_path: Path) -> None:
    """Full-size segments, to which the encapsulation adds: they must fit, or be made to."""
    body, back = tmp_path / "body", tmp_path / "back"
    body.write_bytes(content_of(max(LARGE)))
    transfer(lab, vip, f"{BYTES_PATH}{max(LARGE)}", "--output", str(back))
    assert sha256(back.read_bytes()).hexdigest() == resource(max(LARGE)).sha256
    transfer(lab, vip, f"{UPLOADS_PATH}large-{vip.version}", "--upload-file", str(body))
    stored = lab.uploads / f"large-{vip.version}"
    assert sha256(stored.read_bytes()).hexdigest() == resource(max(LARGE)).sha256
    stored.unlink()


def transfer(lab: Lab, vip: IPv4Address | IPv6Address, path: str, *options: str) -> None:
    address = str(vip) if vip.version == 4 else f"[{vip}]"
    fabric.run_in(
        lab.topology.client.namespace,
        [
            *("curl", "-sSf", "--max-time", "20", "--cacert", str(lab.ca), *options),
            *("--resolve", f"{HOST_NAME}:{VIP_PORT}:{address}", f"https://{HOST_NAME}:{VIP_PORT}{path}"),
        ],
    )


def test_every_request_leaves_a_record_that_names_the_l4_node_that_brought_it(lab: Lab) -> None:
    def named(path: str) -> dict[str, str]:
        logs = [lab.directory(proxy.name) / "access.log" for proxy in lab.topology.proxies]
        records = [json.loads(line) for log in logs if log.exists() for line in log.read_text().splitlines()]
        return {record["client"]: record["l4_node"] for record in records if record["path"] == path}

    sources = [address.ip for address in lab.topology.client.addresses]
    for source in sources:
        vip = VIP_V4 if source.version == 4 else VIP_V6
        transfer(lab, vip, "/who-brought-me", "--interface", str(source), "--output", "/dev/null")
    eventually("a record of each request", lambda: len(named("/who-brought-me")) == len(sources))
    assert set(named("/who-brought-me").values()) == {node.name for node in lab.topology.l4_nodes}
