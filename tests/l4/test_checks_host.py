"""Mistakes on a host itself, each made in a real namespace: seen, explained, and mended by the very command shown."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from l4.checks import arp, kernel, listeners, loopback, mtu, offload, reverse_path, xdp
from l4.checks.checkup import run_mend
from l4.host_policy import HostPolicy, carry_out, look_at_host, plan
from l4.interface import OVERHEADS
from l4.vips import reconcile
from orchestrator.contract.checkup import CheckResult, Severity
from orchestrator.contract.pool import Encapsulation, Probe
from orchestrator.lab.fabric import attach_pass_program
from tests.l4.checkups import balancer, balancer_snapshot, balancer_status, make_uplink, redirector, seen
from tests.l4.edge import VIPS

pytestmark = pytest.mark.kernel

Inside = Callable[..., Any]
GUE = OVERHEADS[Encapsulation.GUE, 4]


def shell(command: str) -> None:
    assert run_mend(command) is None


@pytest.fixture
def host(inside: Inside) -> Inside:
    """A member's host as its agent leaves it."""
    inside(make_uplink)
    inside(shell, "ethtool -K eth0 tx off gro off")
    inside(shell, "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0")
    policy = HostPolicy("eth0", dict.fromkeys((vip.network for vip in VIPS), None), overhead=GUE)
    inside(lambda: carry_out(plan(policy, look_at_host(policy)).changes))
    return inside


MISTAKES = {
    "rp_filter": (reverse_path.look, "sysctl -qw net.ipv4.conf.eth0.rp_filter=1"),
    "rp_filter everywhere": (reverse_path.look, "sysctl -qw net.ipv4.conf.all.rp_filter=1"),
    "arp": (arp.look, "sysctl -qw net.ipv4.conf.all.arp_ignore=0"),
    "arp, announced": (arp.look, "sysctl -qw net.ipv4.conf.all.arp_announce=0 net.ipv4.conf.all.arp_ignore=0"),
    "checksum_offload": (offload.look, "ethtool -K eth0 tx on"),
    "receive_offload": (offload.look, "ethtool -K eth0 gro on"),
    "vip_elsewhere": (loopback.look, "ip address add 203.0.113.10/32 dev eth0"),
    "mss": (mtu.look, "ip route replace default via 198.18.2.1"),
    "mss, too large": (mtu.look, "ip route replace default via 198.18.2.1 advmss 1460"),
    "mtu": (mtu.look, "ip route del default; ip link set dev eth0 mtu 1300"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_seen_and_mended_by_the_command_shown(host: Inside, mistake: str) -> None:
    look, command = MISTAKES[mistake]
    identity = mistake.partition(" ")[0].rstrip(",")
    before: CheckResult = host(seen, look, redirector())[identity]
    assert before.severity is Severity.OK, before
    host(shell, command)
    found: CheckResult = host(seen, look, redirector())[identity]
    assert found.severity is Severity.FAILURE
    assert found.seen
    assert found.expected
    assert found.why
    assert found.mend is not None
    assert host(run_mend, found.mend) is None
    after: CheckResult = host(seen, look, redirector())[identity]
    assert after.severity is Severity.OK, after


def test_an_l4_node_that_probes_takes_packets_from_its_own_addresses(host: Inside) -> None:
    host(shell, "sysctl -qw net.ipv4.conf.all.accept_local=0 net.ipv4.conf.eth0.accept_local=0")
    assert "accept_local" not in host(seen, reverse_path.look, balancer()), "it does not probe"
    snapshot = balancer_snapshot()
    probed = snapshot.pools[0].model_copy(update={"probe": Probe()})
    subject = balancer(snapshot=snapshot.model_copy(update={"pools": (probed,)}))
    found: CheckResult = host(seen, reverse_path.look, subject)["accept_local"]
    assert (found.severity, found.mend) == (Severity.FAILURE, "sysctl -w net.ipv4.conf.eth0.accept_local=1")
    assert host(run_mend, found.mend) is None
    assert host(seen, reverse_path.look, subject)["accept_local"].severity is Severity.OK


def test_a_vip_that_is_missing_is_named(host: Inside) -> None:
    assert host(seen, loopback.look, redirector())["vip_missing"].severity is Severity.OK
    host(shell, "ip address del 203.0.113.10/32 dev lo")
    found: CheckResult = host(seen, loopback.look, redirector())["vip_missing"]
    assert found.severity is Severity.FAILURE
    assert found.seen == "203.0.113.10/32 missing (web-v4)"
    assert found.mend == "edge-l4 vips restore --state /nonexistent --interface eth0"
    asked = host(seen, loopback.look, redirector(is_agent=True))["vip_missing"]
    assert asked.mend == "edge-l4 redirector reload --interface eth0"


def test_a_vip_that_an_l4_node_withholds_is_not_missed(host: Inside, tmp_path: Path) -> None:
    host(shell, "ip address del 203.0.113.10/32 dev lo")
    attach_stranger(tmp_path)
    assert host(seen, loopback.look, balancer())["vip_missing"].severity is Severity.FAILURE
    withheld = balancer(status=balancer_status(web_v4="pool edge has no reachable member"))
    assert host(seen, loopback.look, withheld)["vip_missing"].severity is Severity.OK


def test_an_l4_node_without_a_program_is_to_have_no_vips(host: Inside) -> None:
    host(reconcile, set())
    assert host(seen, loopback.look, balancer())["vip_missing"].severity is Severity.UNKNOWN
    assert host(seen, xdp.look, balancer())["xdp"].severity is Severity.FAILURE


def attach_stranger(workspace: Path) -> None:
    """Somebody else's program, which passes everything."""
    attach_pass_program(f"l4-agent-test-{os.getpid()}", ["eth0"], workspace)


def test_a_program_that_is_not_ours_is_named(host: Inside, tmp_path: Path) -> None:
    attach_stranger(tmp_path)
    found: CheckResult = host(seen, xdp.look, redirector())["xdp"]
    assert found.severity is Severity.FAILURE
    assert "eth0 runs 'pass'" in found.seen
    assert found.mend == "ip link set dev eth0 xdp off && edge-l4 redirector reload --interface eth0"
    assert not found.fixable, "somebody may want it"


def test_gro_on_a_veth_is_a_finding_whatever_runs_there(host: Inside) -> None:
    assert host(seen, offload.look, balancer())["receive_offload"].severity is Severity.OK
    host(shell, "ethtool -K eth0 gro on")
    assert host(seen, offload.look, balancer())["receive_offload"].mend == "ethtool -K eth0 gro off"


def test_nobody_who_listens_is_a_finding(host: Inside) -> None:
    found: CheckResult = host(seen, listeners.look, redirector())["listener"]
    assert found.severity is Severity.FAILURE
    assert "web-v4 (203.0.113.10:443), web-v6 ([2001:db8:203::10]:443)" in found.seen
    script = (
        "import socket, sys\n"
        "s = socket.create_server(('203.0.113.10', 443)); t = socket.create_server(('::', 443), family=socket.AF_INET6)"
        "\nprint('up', flush=True); sys.stdin.read()"
    )

    def listener() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    process = host(listener)
    try:
        assert process.stdout.readline() == b"up\n"
        assert host(seen, listeners.look, redirector())["listener"].severity is Severity.OK
    finally:
        process.communicate(b"", timeout=10)


def test_an_old_kernel_and_a_directory_that_is_no_bpffs_are_named(inside: Inside, tmp_path: Path) -> None:
    assert kernel.version_check("6.1.0-13-amd64").severity is Severity.OK
    assert kernel.version_check("5.10.0").severity is Severity.FAILURE
    assert kernel.version_check("unheard-of").severity is Severity.UNKNOWN
    place = replace(redirector().place, bpffs=tmp_path)
    found = inside(seen, kernel.look, redirector(place=place))["bpffs"]
    assert found.severity is Severity.FAILURE
    assert found.mend == f"mkdir -p {tmp_path} && mount -t bpf bpf {tmp_path}"
