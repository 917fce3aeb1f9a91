"""The usual mistakes, made in a lab one after the other: each named, each mended by what the finding says."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from orchestrator.lab import Lab, checks, processes
from orchestrator.lab.commands import program
from orchestrator.lab.processes import NAMESPACES, Role

pytestmark = pytest.mark.lab

PATIENCE_S = 90.0
CLOCK_AHEAD_S = 300

Finding = dict[str, Any]


def shell(lab: Lab, host: str, command: str) -> None:
    """As an operator on that host would type it."""
    path = os.pathsep.join((str(Path(program("edge-l4")).parent), os.environ["PATH"], "/usr/sbin", "/sbin"))
    namespace = NAMESPACES / lab.namespace(host)
    done = subprocess.run(
        ["nsenter", f"--net={namespace}", "--", "/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"


def edgectl(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("edgectl"), "--context", str(lab.operator), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def findings(lab: Lab, *arguments: str) -> list[Finding]:
    """Of `edgectl doctor`."""
    done = edgectl(lab, "doctor", "--json", *arguments)
    told = json.loads(done.stdout)
    assert done.returncode == (1 if told["findings"] else 0), done.stderr
    found: list[Finding] = told["findings"]
    return found


def findings_on(lab: Lab, host: str, role: Role) -> list[Finding]:
    """Of `edge-l4 doctor` on a host, which needs no agent."""
    directory = lab.directory(host)
    done = subprocess.run(
        [
            *("nsenter", f"--net={NAMESPACES / lab.namespace(host)}", "--", program("edge-l4"), "doctor"),
            *("--interface", "eth0", "--state", str(directory / role), "--bpffs", str(lab.bpffs(host))),
            *("--bird-dir", str(directory / "bird"), "--json"),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    results = json.loads(done.stdout)["results"]
    return [result for result in results if result["severity"] in ("warning", "failure")]


def named(found: list[Finding], identity: str, node: str | None = None) -> Finding:
    """The finding of that name, which says all that a finding has to say."""
    matching = [one for one in found if one["id"] == identity and node in (None, one.get("node"))]
    assert matching, f"{identity} is not among {[(one.get('node'), one['id'], one['seen']) for one in found]}"
    finding = matching[0]
    assert finding["seen"]
    assert finding["expected"]
    assert finding["why"]
    assert finding["mend"] or finding["advice"]
    return finding


def settles(look: Callable[[], list[Finding]]) -> None:
    """Nothing is found any more, once all have noticed."""
    deadline = monotonic() + PATIENCE_S
    while found := look():
        assert monotonic() < deadline, [(one.get("node"), one["id"], one["seen"]) for one in found]
        sleep(0.5)


def appears(look: Callable[[], list[Finding]], identity: str, node: str | None = None) -> Finding:
    """The finding, once whoever has to notice has noticed."""
    deadline = monotonic() + PATIENCE_S
    while True:
        found = look()
        if monotonic() > deadline or any(one["id"] == identity and node in (None, one.get("node")) for one in found):
            return named(found, identity, node)
        sleep(0.5)


@pytest.fixture
def healthy(lab: Lab) -> Lab:
    settles(lambda: findings(lab))
    return lab


@contextmanager
def agent_killed(lab: Lab, host: str, role: Role) -> Iterator[None]:
    """What the agent would mend by itself stays."""
    lab.kill_process(host, role, signal.SIGKILL)
    try:
        yield
    finally:
        lab.restart_process(host, role)


def test_nothing_is_found_in_a_healthy_lab_with_or_without_asking_the_agents(healthy: Lab) -> None:
    done = edgectl(healthy, "doctor")
    assert done.returncode == 0, done.stdout
    assert "nothing found on 5 nodes" in done.stdout
    assert findings_on(healthy, "l4-1", Role.BALANCER) == []
    assert findings_on(healthy, "proxy-1", Role.REDIRECTOR) == []


@pytest.mark.parametrize(
    ("host", "mistake", "identities"),
    [
        ("l4-1", "ethtool -K eth0 tx on gro on", ("checksum_offload", "receive_offload")),
        ("proxy-2", "ethtool -K eth0 tx on", ("checksum_offload",)),
    ],
)
def test_what_is_safe_to_mend_is_mended_by_fix(
    healthy: Lab, host: str, mistake: str, identities: tuple[str, ...]
) -> None:
    shell(healthy, host, mistake)
    found = findings(healthy)
    for identity in identities:
        assert named(found, identity, host)["fixable"]
    findings(healthy, "--fix")
    settles(lambda: findings(healthy))


@pytest.mark.parametrize(
    ("identity", "host", "mistake"),
    [
        ("rp_filter", "proxy-1", "sysctl -qw net.ipv4.conf.eth0.rp_filter=1"),
        ("arp", "l4-1", "sysctl -qw net.ipv4.conf.all.arp_ignore=0"),
        ("vip_missing", "proxy-2", "ip address del 203.0.113.10/32 dev lo"),
        ("vip_missing", "l4-2", "ip address del 203.0.113.10/32 dev lo"),
        ("xdp", "proxy-3", "ip link set dev eth0 xdp off"),
        ("xdp", "l4-1", "ip link set dev eth0 xdp off"),
    ],
)
def test_what_the_agent_put_right_by_itself_is_named_for_a_while(
    healthy: Lab, identity: str, host: str, mistake: str
) -> None:
    shell(healthy, host, mistake)
    finding = appears(lambda: findings(healthy), identity, host)
    if finding["severity"] == "warning":  # else it was still as somebody left it
        assert "the agent put it right" in finding["seen"]
    settles(lambda: findings(healthy))


@pytest.mark.parametrize("host", ["l4-2", "proxy-1"])
def test_an_mtu_that_is_too_small_is_named_and_mended_by_the_command(healthy: Lab, host: str) -> None:
    shell(healthy, host, "ip link set dev eth0 mtu 1400")
    found = findings(healthy)
    finding = named(found, "mtu", host)
    assert not finding["fixable"]
    if host == "proxy-1":
        assert "proxy-1" in named(found, "path_mtu", "l4-1")["seen"], "full-sized packets do not reach it"
    shell(healthy, host, finding["mend"])
    settles(lambda: findings(healthy))


@pytest.mark.parametrize(
    ("identity", "mistake"),
    [
        ("rp_filter", "sysctl -qw net.ipv4.conf.eth0.rp_filter=1"),
        ("arp", "sysctl -qw net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0"),
        ("vip_missing", "ip address del 203.0.113.10/32 dev lo"),
    ],
)
def test_settings_are_named_on_the_host_and_mended_by_the_command(healthy: Lab, identity: str, mistake: str) -> None:
    with agent_killed(healthy, "proxy-1", Role.REDIRECTOR):
        shell(healthy, "proxy-1", mistake)
        silent = appears(lambda: findings(healthy), "agent_silent", "proxy-1")
        assert "edge-l4 doctor" in silent["advice"]
        on_host = findings_on(healthy, "proxy-1", Role.REDIRECTOR)
        named(on_host, "agent")
        shell(healthy, "proxy-1", named(on_host, identity)["mend"])
        assert [one["id"] for one in findings_on(healthy, "proxy-1", Role.REDIRECTOR)] == ["agent"]
    settles(lambda: findings(healthy))


def test_a_program_that_nobody_attaches_again_is_named_on_the_host(healthy: Lab) -> None:
    with agent_killed(healthy, "proxy-3", Role.REDIRECTOR):
        shell(healthy, "proxy-3", "ip link set dev eth0 xdp off")
        finding = named(findings_on(healthy, "proxy-3", Role.REDIRECTOR), "xdp")
        assert "start edge-l4 redirector" in finding["advice"]
    settles(lambda: findings(healthy))


def test_a_bird_that_stands_still_is_named_and_goes_on_by_the_command(healthy: Lab) -> None:
    pid = int((healthy.directory("l4-1") / "bird" / "bird.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        finding = appears(lambda: findings(healthy), "bird", "l4-1")
        assert finding["mend"] == f"kill -CONT {pid}"
        shell(healthy, "l4-1", finding["mend"])
    finally:
        os.kill(pid, signal.SIGCONT)
    settles(lambda: findings(healthy))


def test_a_bird_and_an_agent_that_are_gone_are_named_on_the_host(healthy: Lab) -> None:
    with agent_killed(healthy, "l4-1", Role.BALANCER):
        os.kill(int((healthy.directory("l4-1") / "bird" / "bird.pid").read_text()), signal.SIGKILL)
        appears(lambda: findings(healthy), "agent_silent", "l4-1")
        on_host = findings_on(healthy, "l4-1", Role.BALANCER)
        shell(healthy, "l4-1", named(on_host, "bird")["mend"])
        assert "bird" not in [one["id"] for one in findings_on(healthy, "l4-1", Role.BALANCER)]
    settles(lambda: findings(healthy))


def test_a_clock_five_minutes_ahead_is_named(healthy: Lab, tmp_path: Path) -> None:
    library = tmp_path / "clock_ahead.so"
    source = Path(__file__).with_name("clock_ahead.c")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", f"-DAHEAD_S={CLOCK_AHEAD_S}", "-o", str(library), str(source), "-ldl"],
        check=True,
    )
    record = healthy.process("l4-1", Role.BALANCER)

    def restart(*prefix: str) -> None:
        processes.stop(healthy.process("l4-1", Role.BALANCER))
        processes.start(healthy.directory("l4-1"), record.namespace, Role.BALANCER, [*prefix, *record.argv])

    restart("env", f"LD_PRELOAD={library}")
    try:
        finding = appears(lambda: findings(healthy), "clock", "l4-1")
        assert finding["severity"] == "failure"
        told = re.match(r"([\d.]+) s ahead, give or take ([\d.]+) s", finding["seen"])
        assert told, finding["seen"]
        assert abs(float(told[1]) - CLOCK_AHEAD_S) <= float(told[2]) + 0.2, finding["seen"]
    finally:
        restart()
    settles(lambda: findings(healthy))


def test_a_stale_snapshot_is_named_and_its_agent_goes_on_by_the_command(healthy: Lab) -> None:
    agent = healthy.process("proxy-2", Role.REDIRECTOR)
    processes.send_signal(agent, signal.SIGSTOP)
    try:
        assert edgectl(healthy, "guard", "block", "198.51.100.250/32").returncode == 0
        found = appears(lambda: findings(healthy), "agent_silent", "proxy-2")
        stale = named(findings(healthy), "stale_snapshot", "proxy-2")
        assert "redirector runs revision" in stale["seen"]
        assert "edge-l4 doctor" in found["advice"]
        stopped = named(findings_on(healthy, "proxy-2", Role.REDIRECTOR), "agent")
        assert "SIGSTOP" in stopped["seen"]
        shell(healthy, "proxy-2", stopped["mend"])
    finally:
        processes.send_signal(agent, signal.SIGCONT)
        edgectl(healthy, "guard", "remove", "198.51.100.250/32")
    settles(lambda: findings(healthy))
    assert checks.agents_are_up_to_date(healthy) is None


def test_a_firewall_that_blocks_the_tunnel_is_told_from_a_dead_host(healthy: Lab) -> None:
    router = healthy.topology.router.name
    member = next(proxy for proxy in healthy.topology.proxies if proxy.name == "proxy-3")
    rule = f"to {member.address} ipproto udp dport 6080 prohibit"
    shell(healthy, router, f"ip rule add {rule}")
    try:
        for node in healthy.topology.l4_nodes:
            finding = appears(lambda node=node: findings(healthy), "tunnel", node.name)  # type: ignore[misc]
            assert f"proxy-3 ({member.address}) answers pings, and nothing through the tunnel" in finding["seen"]
            assert "UDP to port 6080" in finding["advice"]
    finally:
        shell(healthy, router, f"ip rule del {rule}")
    settles(lambda: findings(healthy))
