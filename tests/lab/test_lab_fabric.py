"""The network alone: forwarding, ECMP, a black hole and its end. Stand-ins: plain BIRD on the L4 nodes, no product."""

import os
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from time import monotonic

import pytest

from orchestrator.lab import backends, fabric, processes, router, teardown
from orchestrator.lab.content import content_of, small, write_content
from orchestrator.lab.processes import Role
from orchestrator.lab.spec import LabSpec
from orchestrator.lab.topology import (
    BACKEND_PORT,
    FIRST_L4_ASN,
    ROUTER_ASN,
    VIP_V4,
    VIP_V6,
    LabHost,
    Topology,
    l4_network,
    topology_of,
)

pytestmark = pytest.mark.lab

NAME = f"fabric{os.getpid()}"
PATIENCE_S = 20.0


def announcer_configuration(node: LabHost, asn: int) -> str:
    """What `edge-l4` has BIRD do, reduced to this test's needs."""
    sessions = "".join(
        f"""
protocol bgp router_v{local.version} {{
  local {local.ip} as {asn};
  neighbor {remote.ip} as {ROUTER_ASN};
  bfd yes; connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv{local.version} {{
    import none;
    export where source = RTS_DEVICE && net.len = {local.max_prefixlen};
    next hop self;
  }};
}}
"""
        for local, remote in zip(node.primary, l4_network(0).gateways, strict=True)
    )
    return f"""
router id {node.address};
protocol device {{ scan time 1; }}
protocol direct {{ interface "lo"; ipv4; ipv6; }}
protocol bfd {{ interface "eth0" {{ interval 50 ms; multiplier 3; }}; }}
{sessions}"""


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    plan = topology_of(LabSpec(name=NAME, proxies=2, backends=1))
    root = tmp_path_factory.mktemp("fabric")
    try:
        fabric.build(plan, root)
        routing = root / "hosts" / plan.entry.name
        routing.mkdir(parents=True)
        (routing / "bird.conf").write_text(router.bird_configuration(plan, plan.entry))
        processes.start(routing, plan.entry.namespace, Role.BIRD, router.bird_command(routing))
        for index, node in enumerate(plan.l4_nodes):
            directory = root / "hosts" / node.name
            directory.mkdir()
            (directory / "bird.conf").write_text(announcer_configuration(node, FIRST_L4_ASN + index))
            for vip in (VIP_V4, VIP_V6):
                fabric.run_in(node.namespace, ["ip", "address", "add", f"{vip}/{vip.max_prefixlen}", "dev", "lo"])
            processes.start(directory, node.namespace, Role.BIRD, router.bird_command(directory))
        serve(plan.backends[0], root)
        wait_for_next_hops(plan, 2)
        yield plan
    finally:
        teardown.take_down(NAME, root, lambda _text: None)


def serve(host: LabHost, root: Path) -> None:
    directory = root / "hosts" / host.name
    for made in (directory, root / "uploads"):
        made.mkdir()
    write_content(root / "content")
    backends.write_nginx_configuration(host, directory, root / "content", root / "uploads")
    processes.start(directory, host.namespace, Role.NGINX, backends.nginx_command(directory))


def fetch(topology: Topology, path: str, *options: str) -> str:
    """From the client's namespace, straight from the backend."""
    url = f"http://{topology.backends[0].address}:{BACKEND_PORT}{path}"
    return fabric.run_in(topology.client.namespace, ["curl", "-sSf", "--max-time", "10", *options, url])


def wait_for_next_hops(topology: Topology, count: int, timeout_s: float = PATIENCE_S) -> float:
    """Seconds until both VIPs have this many next hops."""
    began = monotonic()
    while any(len(router.next_hops(topology.entry.namespace, vip)) != count for vip in (VIP_V4, VIP_V6)):
        assert monotonic() - began < timeout_s, f"not {count} next hops within {timeout_s} s"
    return monotonic() - began


def test_every_l4_node_is_a_next_hop_of_both_vips(topology: Topology) -> None:
    assert router.next_hops(topology.entry.namespace, VIP_V4) == {"198.18.1.11", "198.18.1.12"}
    assert router.next_hops(topology.entry.namespace, VIP_V6) == {"2001:db8:18:1::11", "2001:db8:18:1::12"}


@pytest.mark.parametrize("vip", [VIP_V4, VIP_V6], ids=["ipv4", "ipv6"])
def test_flows_of_one_client_spread_by_port_over_the_l4_nodes(topology: Topology, vip: object) -> None:
    source = next(a.ip for a in topology.client.addresses if a.version == (4 if vip == VIP_V4 else 6))
    chosen: Counter[str] = Counter()
    for port in range(40000, 40064):
        route = fabric.run_in(
            topology.entry.namespace,
            [
                *("ip", "route", "get", str(vip), "from", str(source), "iif", "br-clients"),
                *("ipproto", "tcp", "sport", str(port), "dport", "443"),
            ],
        )
        chosen[route.split(" via ")[1].split()[0]] += 1
    assert len(chosen) == 2
    assert min(chosen.values()) >= 16


def test_a_node_that_is_cut_off_leaves_the_routes_within_a_second_and_comes_back(topology: Topology) -> None:
    node = topology.l4_nodes[0]
    fabric.cut(topology, node)
    try:
        assert fabric.disconnected(topology) == {node.name}
        assert wait_for_next_hops(topology, 1) < 1.0
        link = fabric.run_in(node.namespace, ["ip", "-o", "link", "show", "eth0"])
        assert "LOWER_UP" in link, "the node itself must see nothing: a black hole, not a link that goes down"
    finally:
        fabric.heal(topology, node)
    wait_for_next_hops(topology, 2)
    assert fabric.disconnected(topology) == frozenset()


def test_frames_for_a_host_that_is_cut_off_reach_nobody_else(topology: Topology) -> None:
    """Flooded to its neighbour, an XDP program there would take them: the dead node would be missed by nobody."""
    dead, alive = topology.l4_nodes[:2]
    mac = mac_of(topology, dead)
    fabric.cut(topology, dead)
    try:
        ports = fabric.run_in(topology.entry.namespace, ["bridge", "-d", "-o", "link", "show", "dev", alive.name])
        assert " flood off" in ports
        assert mac not in fabric.run_in(topology.entry.namespace, ["bridge", "fdb", "show", "br", l4_network(0).bridge])
    finally:
        fabric.heal(topology, dead)
    healed = fabric.run_in(topology.entry.namespace, ["bridge", "-d", "-o", "link", "show", "dev", dead.name])
    assert " flood off" in healed
    wait_for_next_hops(topology, 2)


def mac_of(topology: Topology, host: LabHost) -> str:
    link = fabric.run_in(host.namespace, ["ip", "-o", "link", "show", "eth0"])
    return link.split("ether ")[1].split()[0]


def test_cutting_a_host_off_does_not_change_the_gateway_of_the_others(topology: Topology) -> None:
    """A bridge that took its MAC address from its ports would."""
    before = bridge_mac(topology)
    for node in topology.l4_nodes:
        fabric.cut(topology, node)
        assert bridge_mac(topology) == before
        fabric.heal(topology, node)
    wait_for_next_hops(topology, 2)


def test_a_backend_is_reached_across_the_router_and_names_itself(topology: Topology) -> None:
    assert fetch(topology, "/") == "backend-1\n"
    assert fetch(topology, "/healthz") == "ok\n"


def test_a_backend_serves_the_content_and_throttles_it_on_wish(topology: Topology, tmp_path: Path) -> None:
    resource = small()
    took = {}
    for query in ("", f"?rate={resource.size // 2}"):
        file = tmp_path / "body"
        began = monotonic()
        fetch(topology, f"{resource.path}{query}", "--output", str(file))
        took[query] = monotonic() - began
        assert sha256(file.read_bytes()).hexdigest() == resource.sha256
    assert took[""] < 0.5 < 0.9 < took[f"?rate={resource.size // 2}"]


def test_a_backend_stores_what_is_put(topology: Topology, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(content_of(300_000))
    fetch(topology, "/uploads/one", "--upload-file", str(body))
    back = tmp_path / "back"
    fetch(topology, "/uploads/one", "--output", str(back))
    assert back.read_bytes() == body.read_bytes()


def bridge_mac(topology: Topology) -> str:
    link = fabric.run_in(topology.entry.namespace, ["ip", "-o", "link", "show", l4_network(0).bridge])
    return link.split("ether ")[1].split()[0]


def test_only_ports_of_hosts_that_transmit_from_xdp_carry_the_pass_program(topology: Topology) -> None:
    for host in topology.hosts:
        link = fabric.run_in(topology.entry.namespace, ["ip", "-o", "link", "show", host.name])
        assert (" xdp " in link) == host.transmits_from_xdp, host.name


def test_a_labs_namespaces_are_found_by_name_and_nobody_elses(topology: Topology) -> None:
    assert set(teardown.namespaces_of(NAME)) == {host.namespace for host in topology.everyone}
    assert teardown.namespaces_of(NAME[:-1]) == []
