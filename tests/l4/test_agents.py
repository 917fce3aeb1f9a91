"""Both agents as they are started in service, on real kernels, BGP and sockets, with no orchestrator anywhere."""

import itertools
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from orchestrator.contract.guard import Guard, GuardLists
from orchestrator.contract.node import AgentRole
from orchestrator.contract.pool import PoolForwarding
from orchestrator.contract.snapshot import Snapshot
from orchestrator.contract.vip import Vip, VipMode
from orchestrator.lab.fabric import attach_pass_program
from tests.l4.edge import (
    ACTIVE,
    DRAINED,
    DRAINING,
    PROXIES,
    SETTINGS,
    VIPS,
    Edge,
    balancer_snapshot,
    eventually,
    pool,
    redirector_snapshot,
)

pytestmark = pytest.mark.kernel

FLOWS = 16
ALL = {vip.name for vip in VIPS}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    edge = Edge(tmp_path_factory.mktemp("edge"))
    try:
        yield edge
    finally:
        edge.close()


@pytest.fixture
def edge(built: Edge) -> Edge:
    """In service with both proxies active, whatever the test before left behind."""
    for member, name in PROXIES.items():
        if name not in built.agents or built.snapshots[name] != redirector_snapshot(1, member, ACTIVE):
            restart(built, name, AgentRole.REDIRECTOR, redirector_snapshot(1, member, ACTIVE))
    if "l4" not in built.agents or built.snapshots["l4"] != balancer_snapshot(1, ACTIVE):
        restart(built, "l4", AgentRole.BALANCER, balancer_snapshot(1, ACTIVE))
    eventually(lambda: built.routes_to_vips() == ALL, "the router learns the VIPs")
    return built


@pytest.fixture
def flows(edge: Edge) -> Iterator[list[tuple[socket.socket, str]]]:
    """Open flows of both families, with the names of the proxies that hold them."""
    with ExitStack() as stack:
        opened = [edge.open_flow(vip) for vip in VIPS for _ in range(FLOWS)]
        for flow, _ in opened:
            stack.enter_context(flow)
        yield opened


def run_on(edge: Edge, edge_pool: PoolForwarding) -> None:
    """Restarts every agent on another snapshot: the change that an orchestrator makes, and a restart, in one."""
    for member, name in PROXIES.items():
        restart(edge, name, AgentRole.REDIRECTOR, redirector_snapshot(2, member, edge_pool))
    restart(edge, "l4", AgentRole.BALANCER, balancer_snapshot(2, edge_pool))


def restart(
    edge: Edge,
    host: str,
    role: AgentRole,
    snapshot: Snapshot | None = None,
    awaited: str = "in service on eth0",
) -> None:
    if host in edge.agents:
        assert edge.stop_agent(host) == 0
    edge.start_agent(host, role, snapshot, awaited)


def echoes(flow: socket.socket, octets: bytes = b"still here") -> bool:
    flow.sendall(octets)
    received = b""
    while len(received) < len(octets):
        received += flow.recv(65536)
    return received == octets


def needed(edge: Edge, proxy: str, generation: int) -> float:
    return edge.metrics(proxy).get(f'edge_l4_flows_by_needed_generation{{generation="{generation}",pool="edge"}}', 0)


def test_flows_reach_both_proxies_and_carry_full_sized_packets(
    edge: Edge, flows: list[tuple[socket.socket, str]]
) -> None:
    for vip in range(len(VIPS)):
        assert {name for _, name in flows[vip * FLOWS : (vip + 1) * FLOWS]} == {"proxy-1", "proxy-2"}
    assert all(echoes(flow, bytes(100_000)) for flow, _ in flows)
    metrics = edge.metrics("l4")
    assert metrics['edge_l4_vip_packets_total{vip="web-v6"}'] > 0
    assert metrics['edge_l4_member_packets_total{member="proxy-2"}'] > 0
    assert metrics["edge_l4_flow_table_misses_total"] == 0, "established TCP behind redirectors needs no flow table"


def heaps_of_threads(process: int) -> int:
    """glibc lays each out at a multiple of 64 MiB, and that large (arena.c, HEAP_MAX_SIZE): used, then unused."""
    size = 64 << 20
    mappings = []
    for line in Path(f"/proc/{process}/maps").read_text().splitlines():
        place, mode, *_ = line.split()
        begin, end = (int(each, 16) for each in place.split("-"))
        mappings.append((begin, end, mode))
    return sum(
        mode == "rw-p" and not begin % size and unused == (end, begin + size, "---p")
        for (begin, end, mode), unused in itertools.pairwise(mappings)
    )


def test_threads_of_an_agent_have_no_heaps_of_their_own(edge: Edge) -> None:
    """`ip netns exec` becomes the agent."""
    assert [heaps_of_threads(agent.pid) for agent in edge.agents.values()] == [0, 0, 0]


def test_a_restarted_agent_leaves_table_program_and_announcements_as_they_are(
    edge: Edge, flows: list[tuple[socket.socket, str]]
) -> None:
    table = edge.table_identity()
    assert edge.stop_agent("l4") == 0
    assert edge.routes_to_vips() == ALL, "BIRD announces without the agent"
    assert all(echoes(flow) for flow, _ in flows), "the kernel forwards without the agent"
    edge.start_agent("l4", AgentRole.BALANCER)
    assert edge.table_identity() == table, "the same map still, not an equal one"
    assert "put on lo" not in edge.log_of("l4")
    assert "started BIRD" not in edge.log_of("l4")
    assert all(echoes(flow) for flow, _ in flows)


def program_on(edge: Edge, host: str, interface: str = "eth0") -> int:
    (link,) = json.loads(edge.execute(host, "ip", "-d", "-j", "link", "show", interface))
    return int(link["xdp"]["prog"]["id"])


@pytest.mark.parametrize(("host", "role"), [("l4", "balancer"), ("proxy-1", "redirector")])
def test_programs_are_loaded_anew_over_the_running_ones_when_an_operator_says_so(
    edge: Edge, flows: list[tuple[socket.socket, str]], host: str, role: str
) -> None:
    first = program_on(edge, host)
    told = edge.execute(host, str(edge.program), role, "reload", "--interface", "eth0")
    second = program_on(edge, host)
    assert told == f"eth0: program {second} in place of program {first}, native\n"
    assert second != first
    assert all(echoes(flow) for flow, _ in flows)
    edge.agents[host].send_signal(signal.SIGHUP)
    eventually(lambda: f"in place of program {second}" in edge.log_of(host), "SIGHUP does the same")
    assert program_on(edge, host) != second
    assert all(echoes(flow) for flow, _ in flows)
    assert edge.metrics(host)['edge_l4_xdp_mode{interface="eth0",mode="native"}'] == 1


def test_a_restarted_agent_loads_its_program_over_the_running_one(
    edge: Edge, flows: list[tuple[socket.socket, str]]
) -> None:
    first = program_on(edge, "l4")
    assert edge.stop_agent("l4") == 0
    assert program_on(edge, "l4") == first
    edge.start_agent("l4", AgentRole.BALANCER)
    assert program_on(edge, "l4") != first
    assert all(echoes(flow) for flow, _ in flows)


def test_flows_of_a_draining_proxy_go_on_and_are_counted_until_they_end(
    edge: Edge, flows: list[tuple[socket.socket, str]]
) -> None:
    on_second = [flow for flow, name in flows if name == "proxy-2"]
    before = edge.metrics("proxy-1")["edge_l4_second_chance_total"]
    run_on(edge, DRAINING)
    assert all(echoes(flow) for flow, _ in flows)
    assert edge.metrics("proxy-1")["edge_l4_second_chance_total"] > before
    assert needed(edge, "proxy-2", 1) == len(on_second)
    assert needed(edge, "proxy-1", 1) == 0
    with ExitStack() as stack:
        fresh = [edge.open_flow(vip) for vip in VIPS for _ in range(FLOWS)]
        for flow, _ in fresh:
            stack.enter_context(flow)
        assert {name for _, name in fresh} == {"proxy-1"}
    for flow in on_second:
        flow.close()
    eventually(lambda: needed(edge, "proxy-2", 1) == 0, "the census of proxy-2 counts no flow any more")


def at_site(own: str) -> PoolForwarding:
    """The pool as an L4 node of that site is sent it: proxy-1 is in the east, proxy-2 in the west."""
    both = {1: "east", 2: "west"}
    order = sorted(both, key=lambda number: both[number] != own)
    found = pool(*((number, {number}) for number in order))
    sites = {
        "generations": tuple(each.model_copy(update={"site": both[each.number]}) for each in found.generations),
    }
    return found.model_copy(update=sites)


def test_flows_that_come_to_another_site_find_their_proxy_and_need_no_generation(edge: Edge) -> None:
    run_on(edge, at_site("east"))
    with ExitStack() as stack:
        old = [stack.enter_context(edge.open_flow(vip)[0]) for vip in VIPS for _ in range(FLOWS)]
        before = edge.metrics("proxy-2")["edge_l4_second_chance_total"]
        # The routers take the clients to the west, whose L4 node never saw these flows.
        restart(edge, "l4", AgentRole.BALANCER, balancer_snapshot(3, at_site("west")))
        assert all(echoes(flow) for flow in old)
        assert edge.metrics("proxy-2")["edge_l4_second_chance_total"] > before
        fresh = [edge.open_flow(vip) for vip in VIPS for _ in range(FLOWS)]
        for flow, _ in fresh:
            stack.enter_context(flow)
        assert {name for _, name in fresh} == {"proxy-2"}, "the west prefers its own"
        assert all(echoes(flow) for flow, _ in fresh)
        assert needed(edge, "proxy-1", 1) == 0, "the east's newest generation is kept without anybody's asking"


BLOCKS = tuple(
    Vip(
        name=name,
        id=vip_id,
        address=ip_address(address),
        prefix_length=length,
        port=400,
        last_port=500,
        mode=VipMode.TERMINATE,
        pool="edge",
    )
    for name, vip_id, address, length in (
        ("block-v4", 11, "203.0.113.64", 28),
        ("block-v6", 12, "2001:db8:203:64::", 64),
    )
)


def test_blocks_of_addresses_with_ranges_of_ports_are_announced_and_served(edge: Edge) -> None:
    more = {"vips": (*VIPS, *BLOCKS)}
    for member, name in PROXIES.items():
        restart(edge, name, AgentRole.REDIRECTOR, redirector_snapshot(2, member, ACTIVE).model_copy(update=more))
    restart(edge, "l4", AgentRole.BALANCER, balancer_snapshot(2, ACTIVE).model_copy(update=more))

    def blocks_announced() -> bool:
        told = edge.execute("router", "ip", "route") + edge.execute("router", "ip", "-6", "route")
        return all(f"{vip.network} " in told for vip in BLOCKS)

    eventually(blocks_announced, "the router learns the blocks")

    def carries(address: str) -> bool:
        with edge.inside("client", socket.create_connection, (address, 443), 5) as flow:
            flow.recv(64)
            return echoes(flow)

    for address in ("203.0.113.64", "203.0.113.70", "203.0.113.79", "2001:db8:203:64::", "2001:db8:203:64::ffff:1"):
        assert carries(address), address
    metrics = edge.metrics("l4")
    assert metrics['edge_l4_vip_packets_total{vip="block-v4"}'] > 0
    assert metrics['edge_l4_vip_packets_total{vip="block-v6"}'] > 0


def test_without_the_second_chance_the_same_drain_breaks_flows(
    edge: Edge, flows: list[tuple[socket.socket, str]]
) -> None:
    """That the test above can fail."""
    run_on(edge, DRAINED)
    for flow, name in flows:
        if name == "proxy-1":
            assert echoes(flow)
        else:
            with pytest.raises(ConnectionResetError):
                echoes(flow)
    assert edge.metrics("proxy-2")['edge_l4_orphan_flows{pool="edge"}'] > 0


def test_another_mac_address_of_an_interface_is_followed(edge: Edge) -> None:
    for number, host in enumerate(("l4", *PROXIES.values())):
        edge.execute(host, "ip", "link", "set", "eth0", "address", f"02:ed:9e:00:00:{number:02x}")

    def carries_flows(vip: Vip) -> bool:
        try:
            flow, _ = edge.open_flow(vip)
        except OSError:
            return False
        with flow:
            return echoes(flow)

    eventually(lambda: all(map(carries_flows, VIPS)), "frames to the new addresses are taken")


def test_a_foreign_program_on_the_interface_is_left_there_and_told(edge: Edge) -> None:
    edge.stop_agent("l4")
    edge.execute("l4", "ip", "link", "set", "eth0", "xdp", "off")
    workspace = edge.directory / "l4" / "foreign"
    workspace.mkdir()
    attach_pass_program(edge.namespace("l4"), ["eth0"], workspace)
    foreign = program_on(edge, "l4")
    try:
        edge.start_agent("l4", AgentRole.BALANCER, awaited="which is not ours to replace; take it off first")
        assert program_on(edge, "l4") == foreign
        eventually(lambda: not edge.routes_to_vips(), "what nobody forwards is not announced")
        eventually(lambda: "VIPs withdrawn: no balancer runs on eth0" in edge.log_of("l4"), "the log says why")
    finally:
        edge.execute("l4", "ip", "link", "set", "eth0", "xdp", "off")
    restart(edge, "l4", AgentRole.BALANCER)
    eventually(lambda: edge.routes_to_vips() == ALL, "the VIPs are announced")


def test_vips_are_withdrawn_when_no_member_is_reachable_and_come_back(edge: Edge) -> None:
    restart(edge, "l4", AgentRole.BALANCER, balancer_snapshot(2, pool((1, {1, 2}), unreachable=(1, 2))))
    eventually(lambda: not edge.routes_to_vips(), "the VIPs are withdrawn")
    assert "VIP web-v4 withheld: pool edge has no reachable member" in edge.log_of("l4")
    assert edge.metrics("l4")['edge_l4_vip_announced{vip="web-v4"}'] == 0
    restart(edge, "l4", AgentRole.BALANCER, balancer_snapshot(3, ACTIVE))
    eventually(lambda: edge.routes_to_vips() == ALL, "the VIPs are announced again")


def test_a_program_that_is_taken_off_is_attached_again(edge: Edge) -> None:
    edge.execute("l4", "ip", "link", "set", "eth0", "xdp", "off")
    eventually(lambda: "attached again" in edge.log_of("l4"), "the program is attached again")
    assert edge.metrics("l4")["edge_l4_programs_restored_total"] == 1
    assert "withheld" not in edge.log_of("l4")
    assert edge.routes_to_vips() == ALL


def test_vips_are_withdrawn_when_a_foreign_program_replaces_ours(edge: Edge) -> None:
    workspace = edge.directory / "l4" / "replaced"
    workspace.mkdir()
    edge.execute("l4", "ip", "link", "add", "spare", "type", "veth", "peer", "name", "other-spare")
    attach_pass_program(edge.namespace("l4"), ["spare"], workspace)
    foreign = str(program_on(edge, "l4", "spare"))
    edge.execute("l4", "bpftool", "net", "attach", "xdpdrv", "id", foreign, "dev", "eth0", "overwrite")
    eventually(lambda: not edge.routes_to_vips(), "the VIPs are withdrawn")
    eventually(lambda: "VIP web-v6 withheld: no balancer on eth0" in edge.log_of("l4"), "the log says why")
    edge.execute("l4", "ip", "link", "set", "eth0", "xdp", "off")
    eventually(lambda: edge.routes_to_vips() == ALL, "the VIPs are announced again")


def test_bird_is_started_again_when_it_dies(edge: Edge) -> None:
    edge.end_bird_of_l4()
    eventually(lambda: not edge.routes_to_vips(), "the router notices")
    eventually(lambda: edge.routes_to_vips() == ALL, "the VIPs are announced again")
    eventually(
        lambda: edge.metrics("l4")['edge_l4_bgp_session_established{neighbor="2001:db8:18:1::1"}'] == 1,
        "the session is told",
    )


def test_a_snapshot_that_cannot_run_is_refused_and_the_old_state_runs_on(
    edge: Edge, flows: list[tuple[socket.socket, str]]
) -> None:
    table = edge.table_identity()
    broken = balancer_snapshot(2, ACTIVE).model_copy(update={"forwarding": SETTINGS.model_copy(update={"rows": 4098})})
    restart(edge, "l4", AgentRole.BALANCER, broken, awaited="snapshot 2 from disk refused: a forwarding table needs")
    assert edge.table_identity() == table
    assert all(echoes(flow) for flow, _ in flows)


def test_a_failure_in_the_middle_puts_the_old_state_back(edge: Edge, flows: list[tuple[socket.socket, str]]) -> None:
    assert edge.stop_agent("l4") == 0
    script = "tests.l4.refused_in_the_middle"
    told = edge.execute("l4", sys.executable, "-m", script, str(edge.directory / "l4")).splitlines()
    assert "2002 VIPs" in told[0]
    assert told[1] == "as before"
    assert all(echoes(flow) for flow, _ in flows)
    assert edge.routes_to_vips() == ALL


def test_a_blocked_client_is_cut_off_until_it_is_not(edge: Edge, flows: list[tuple[socket.socket, str]]) -> None:
    blocked = Guard(lists=GuardLists(block=(ip_network("198.51.100.0/24"),)))
    snapshot = balancer_snapshot(2, ACTIVE).model_copy(update={"guard": blocked})
    restart(edge, "l4", AgentRole.BALANCER, snapshot)
    ipv4, ipv6 = VIPS
    with pytest.raises(TimeoutError):
        edge.open_flow(ipv4)
    edge.open_flow(ipv6)[0].close()
    restart(edge, "l4", AgentRole.BALANCER, balancer_snapshot(3, ACTIVE))
    edge.open_flow(ipv4)[0].close()
    assert all(echoes(flow) for flow, _ in flows), "open flows go on where they were"


def test_a_second_agent_on_the_same_interface_is_refused(edge: Edge) -> None:
    state = edge.directory / "proxy-1" / "state"
    command = ["ip", "netns", "exec", edge.namespace("proxy-1"), str(edge.program), "redirector"]
    for words in (["run", "--state", str(state)], ["detach"]):
        second = subprocess.run(
            [*command, *words, "--interface", "eth0"], capture_output=True, text=True, timeout=20, check=False
        )
        assert second.returncode == 1
        assert "an edge-l4 redirector works on eth0 already" in second.stderr


def test_detach_leaves_nothing_behind(edge: Edge) -> None:
    for host, role in (("l4", "balancer"), ("proxy-1", "redirector")):
        edge.stop_agent(host)
        told = edge.execute(
            host,
            str(edge.program),
            role,
            "detach",
            "--interface",
            "eth0",
            "--bpffs",
            str(edge.directory / host / "bpf"),
        )
        assert f"eth0: {role} taken off, maps removed" in told
        assert "xdp" not in edge.execute(host, "ip", "link", "show", "eth0")
        assert "203.0.113.10" not in edge.execute(host, "ip", "address", "show", "lo")
        assert "advmss" not in edge.execute(host, "ip", "route")
        assert not [*(edge.directory / host / "bpf" / "edgefleet").iterdir()]
