"""Agents keep their hosts in order as the kernel tells of changes; the kernel withdraws VIPs of one that is gone."""

import json
import signal
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from l4.bpf_map import Map
from l4.entries import MemberEntry
from l4.pins import pin_path
from orchestrator.contract.node import AgentRole, Announcement
from orchestrator.contract.snapshot import BalancerSnapshot
from orchestrator.contract.vip import Vip, VipMode
from tests.l4.edge import ACTIVE, PROXIES, VIPS, Edge, balancer_snapshot, eventually, pool, redirector_snapshot, run

pytestmark = pytest.mark.kernel

BLOCK = Vip(
    name="block-v6",
    id=12,
    address=ip_address("2001:db8:203:64::"),
    prefix_length=64,
    port=443,
    mode=VipMode.TERMINATE,
    pool="edge",
)
HELD = (*VIPS, BLOCK)
#: Seconds: the shortest that the contract allows.
DEAD_MAN_S = 5


def snapshot(version: int, **changes: object) -> BalancerSnapshot:
    update = {"vips": HELD, "dead_man_s": DEAD_MAN_S, **changes}
    return balancer_snapshot(version, ACTIVE).model_copy(update=update)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    edge = Edge(tmp_path_factory.mktemp("edge"))
    try:
        edge.start_agent("proxy-1", AgentRole.REDIRECTOR, redirector_snapshot(1, 1, ACTIVE))
        yield edge
    finally:
        edge.close()


@pytest.fixture
def edge(built: Edge) -> Edge:
    if built.snapshots.get("l4") != snapshot(1) or "l4" not in built.agents:
        serve(built, snapshot(1))
    eventually(lambda: vips_of(built, "l4") == names(HELD), "the VIPs are there")
    return built


def serve(edge: Edge, wanted: BalancerSnapshot | None = None) -> None:
    if "l4" in edge.agents:
        edge.stop_agent("l4")
    edge.start_agent("l4", AgentRole.BALANCER, wanted)


def names(vips: tuple[Vip, ...]) -> set[str]:
    return {vip.name for vip in vips}


def held(edge: Edge, host: str) -> dict[str, int]:
    """Addresses on `lo` of the host, with the seconds that they are valid for."""
    (link,) = json.loads(edge.execute(host, "ip", "-j", "address", "show", "dev", "lo"))
    return {entry["local"]: entry["valid_life_time"] for entry in link["addr_info"]}


def vips_of(edge: Edge, host: str) -> set[str]:
    found = held(edge, host)
    addresses = {vip: str(vip.address) for vip in VIPS} | {BLOCK: str(BLOCK.network.broadcast_address)}
    return {vip.name for vip, address in addresses.items() if address in found}


def block_is_local(edge: Edge) -> bool:
    """Whether the L4 node takes an address of the block for its own."""
    return "local" in edge.execute("l4", "ip", "-6", "route", "get", "2001:db8:203:64::77")


def kill(edge: Edge, host: str) -> None:
    """The agent's process itself, with no time to say anything."""
    agent = edge.agents.pop(host)
    agent.send_signal(signal.SIGKILL)
    agent.wait(10)


REMOVED = {
    "an address": ("l4", "ip address del 203.0.113.10/32 dev lo"),
    "a block's route": ("l4", "ip -6 route del local 2001:db8:203:64::/64 dev lo table local"),
    "lo": ("l4", "ip link set lo down"),
    "ARP": ("l4", "sysctl -qw net.ipv4.conf.all.arp_ignore=0"),
    "the program": ("l4", "ip link set eth0 xdp off"),
    "a member's address": ("proxy-1", "ip address del 2001:db8:203::10/128 dev lo"),
    "a member's MSS": ("proxy-1", "ip route replace default via 198.18.2.1"),
    "a member's program": ("proxy-1", "ip link set eth0 xdp off"),
}


@pytest.mark.parametrize("what", REMOVED)
def test_what_somebody_takes_away_comes_back(edge: Edge, what: str) -> None:
    host, command = REMOVED[what]
    restored = restorations(edge, host)
    edge.execute(host, *command.split())
    eventually(lambda: restorations(edge, host) > restored, f"{what} is restored")
    assert plan_of(edge, host).returncode == 0, "nothing is left to do"
    if what == "the program":
        assert "xdp" in edge.execute(host, "ip", "link", "show", "eth0")


def restorations(edge: Edge, host: str) -> float:
    metrics = edge.metrics(host)
    return sum(metrics[f"edge_l4_{part}_restored_total"] for part in ("vips", "settings", "mss", "programs"))


def plan_of(edge: Edge, host: str, *more: str) -> subprocess.CompletedProcess[str]:
    state = edge.directory / host / "state"
    command = [str(edge.program), "vips", "plan", "--state", str(state), "--interface", "eth0", *more]
    return subprocess.run(
        ["ip", "netns", "exec", edge.namespace(host), *command], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_plan_says_in_words_and_as_json_what_is_to_be_done(edge: Edge) -> None:
    serve(edge, snapshot(7, dead_man_s=600))
    assert plan_of(edge, "l4").stdout == "nothing to do\n"
    edge.stop_agent("l4")
    edge.execute("l4", "ip", "address", "del", "203.0.113.10/32", "dev", "lo")
    edge.execute("l4", "ip", "address", "add", "203.0.113.99/32", "dev", "lo")
    told = plan_of(edge, "l4")
    assert told.returncode == 1
    assert told.stdout == "would change  VIP 203.0.113.10: put on lo, for 600 s unless renewed\n"
    planned = json.loads(plan_of(edge, "l4", "--json").stdout)
    assert planned["changes"] == [{"part": "vip", "words": "VIP 203.0.113.10: put on lo, for 600 s unless renewed"}]
    assert "203.0.113.10" not in held(edge, "l4")
    assert "203.0.113.99" in held(edge, "l4")
    edge.execute("l4", "ip", "address", "del", "203.0.113.99/32", "dev", "lo")


def test_a_plan_that_cannot_be_made_says_why(edge: Edge, tmp_path: Path) -> None:
    command = [str(edge.program), "vips", "plan", "--state", str(tmp_path), "--interface", "eth0"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert "holds no snapshot" in finished.stderr


def test_the_kernel_withdraws_the_vips_of_an_agent_that_is_gone(edge: Edge) -> None:
    serve(edge, snapshot(2, announce_anyway=("web-v6",)))
    eventually(lambda: edge.routes_to_vips() == names(VIPS), "the router learns the VIPs")
    assert block_is_local(edge)
    kill(edge, "l4")
    assert vips_of(edge, "l4") == names(HELD), "not at once"
    eventually(lambda: vips_of(edge, "l4") == {"web-v6"}, "the kernel takes them away, but for the last announcer's")
    eventually(lambda: edge.routes_to_vips() == {"web-v6"}, "BIRD withdraws them by itself")
    eventually(lambda: not block_is_local(edge), "the block's route is gone, too")
    edge.start_agent("l4", AgentRole.BALANCER)
    eventually(lambda: edge.routes_to_vips() == names(VIPS), "the VIPs are announced again")


def test_an_agent_finds_what_the_one_before_it_left_and_prolongs_it(edge: Edge) -> None:
    serve(edge, snapshot(5, dead_man_s=600))
    kill(edge, "l4")
    edge.start_agent("l4", AgentRole.BALANCER, snapshot(6, dead_man_s=1200))
    assert "put on lo" not in edge.log_of("l4")
    assert 600 < held(edge, "l4")["203.0.113.10"] <= 1200
    assert block_is_local(edge)


def test_lifetimes_are_renewed_while_the_agent_runs_with_no_orchestrator(edge: Edge) -> None:
    # Through several lifetimes no address was ever away.
    watched = subprocess.run(
        ["ip", "netns", "exec", edge.namespace("l4"), "timeout", "12", "ip", "monitor", "address", "route"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "203.0.113.10/32" in watched.stdout, "renewals are seen"
    assert "Deleted" not in watched.stdout
    assert 0 < held(edge, "l4")["203.0.113.10"] <= DEAD_MAN_S
    assert block_is_local(edge)


def test_a_node_that_is_told_to_announce_nothing_holds_nothing_and_forwards(edge: Edge) -> None:
    serve(edge, snapshot(3, announcement=Announcement.NONE, announce_anyway=("web-v4",)))
    eventually(lambda: vips_of(edge, "l4") == set(), "nothing is on lo")
    eventually(lambda: not edge.routes_to_vips(), "the router has heard")
    assert "xdp" in edge.execute("l4", "ip", "link", "show", "eth0")


def test_the_last_announcer_announces_whatever_is_missing(edge: Edge) -> None:
    nobody = pool((1, {1, 2}), unreachable=(1, 2))
    serve(edge, snapshot(4, pools=(nobody,), announce_anyway=("web-v4",)))
    eventually(lambda: vips_of(edge, "l4") == {"web-v4"}, "one VIP is there")
    assert held(edge, "l4")["203.0.113.10"] > 86400
    log = edge.log_of("l4")
    assert "VIP web-v4 announced, because nobody else does, although: pool edge has no reachable member" in log
    assert "VIP web-v6 withheld: pool edge has no reachable member" in log


def set_live(edge: Edge, is_live: bool) -> None:
    """In the kernel of the L4 node, of all members."""
    with Map.pinned(pin_path(edge.directory / "l4" / "bpf", "balancer", "members")) as members:
        for member_id in PROXIES:
            key = struct.pack("=I", member_id)
            entry = MemberEntry.unpack(member_id, members.lookup(key) or bytes(MemberEntry.SIZE))
            assert entry is not None
            members.update(key, replace(entry, live=is_live).packed)


def test_vips_are_withheld_while_no_member_is_live(edge: Edge) -> None:
    set_live(edge, False)
    eventually(lambda: vips_of(edge, "l4") == set(), "the VIPs are withheld")
    assert "withheld: no member of pool edge answers this node's probes" in edge.log_of("l4")
    set_live(edge, True)
    eventually(lambda: vips_of(edge, "l4") == names(HELD), "they are back")


def test_a_fight_over_an_address_is_bounded(edge: Edge) -> None:
    loop = "for i in $(seq 300); do ip address del 203.0.113.10/32 dev lo 2>/dev/null; sleep 0.01; done"
    before = edge.metrics("l4")["edge_l4_vips_restored_total"]
    run("ip", "netns", "exec", edge.namespace("l4"), "sh", "-c", loop)
    after = edge.metrics("l4")
    assert 1 <= after["edge_l4_vips_restored_total"] - before < 30
    assert after["edge_l4_restorations_postponed_total"] > 0
    eventually(lambda: vips_of(edge, "l4") == names(HELD), "it is there in the end")
