"""Looking inside a fleet that serves: captures during traffic, traces of real flows, and nothing left behind."""

import json
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest
from scapy.layers.inet import IP, UDP
from scapy.utils import PcapNgReader

from orchestrator.lab import VIP_PORT, VIP_V4, Lab, checks
from orchestrator.lab.commands import program
from orchestrator.lab.processes import Role

pytestmark = pytest.mark.lab

PATIENCE_S = 60.0


def command(lab: Lab, *arguments: str) -> list[str]:
    return [str(program("edgectl")), "--context", str(lab.operator), *arguments]


def answer(lab: Lab, *arguments: str) -> str:
    done = subprocess.run(command(lab, *arguments), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def traffic(lab: Lab) -> Iterator[None]:
    """Requests, one after the other, from all of the client's addresses."""
    over = threading.Event()

    def fetch() -> None:
        client = lab.topology.client
        while not over.is_set():
            for address in client.v4:
                checks.request(lab, client, address.ip, VIP_V4)

    thread = threading.Thread(target=fetch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_capture_during_traffic_holds_packets_of_all_l4_nodes_in_order(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "vip.pcapng"
    with traffic(lab):
        said = json.loads(answer(lab, "capture", "web-v4", "--for", "20s", "--count", "300", "-w", str(file), "--json"))
    assert said["packets"] == 300
    assert file.stat().st_mode & 0o777 == 0o600
    assert {node for node, one in said["nodes"].items() if one["packets"]} == {n.name for n in lab.topology.l4_nodes}
    with PcapNgReader(str(file)) as reader:
        packets = list(reader)
    assert len(packets) == 300
    stamps = [packet.time for packet in packets]
    assert stamps == sorted(stamps)
    members = {str(proxy.address): proxy.name for proxy in lab.topology.proxies}
    for packet in packets:
        outer = packet[IP]
        assert packet[UDP].dport == 6080
        assert packet.comment.decode().startswith(f"forwarded to {members[outer.dst]}, row ")


def test_ctrl_c_leaves_a_whole_file_and_no_tap(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "vip.pcapng"
    with traffic(lab):
        capture = subprocess.Popen(
            command(lab, "capture", "web-v4", "--for", "10m", "--count", "1000000", "-w", str(file), "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        eventually("packets in the file", lambda: file.exists() and file.stat().st_size > 5000)
        capture.send_signal(signal.SIGINT)
        out, errors = capture.communicate(timeout=PATIENCE_S)
        assert capture.returncode == 0, errors
        assert json.loads(out)["interrupted"]
        with PcapNgReader(str(file)) as reader:
            assert len(list(reader)) == json.loads(out)["packets"]
        # The nodes are free for the next capture.
        again = json.loads(answer(lab, "capture", "web-v4", "--for", "10s", "--count", "5", "--json"))
    assert again["packets"] == 5
    assert not again["failures"]


def test_an_agent_that_dies_while_it_captures_leaves_no_tap(lab: Lab) -> None:
    node = lab.topology.l4_nodes[0]
    with traffic(lab):
        capture = subprocess.Popen(
            command(lab, "capture", "web-v4", "--node", node.name, "--for", "60s", "--count", "1000000"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert capture.stdout is not None
        assert capture.stdout.readline(), "a packet: the capture runs"
        lab.kill_process(node.name, Role.BALANCER, signal.SIGKILL)
        lab.restart_process(node.name, Role.BALANCER)
        _, errors = capture.communicate(timeout=PATIENCE_S)
        assert "silent" in errors or "gone" in errors, errors
        eventually("agent is back", lambda: checks.agents_are_up_to_date(lab) is None)
        done = json.loads(
            answer(lab, "capture", "web-v4", "--node", node.name, "--for", "3s", "--count", "5", "--json")
        )
    assert not done["failures"]


def test_a_trace_follows_an_open_flow_to_the_proxy_that_has_it(lab: Lab) -> None:
    client = lab.topology.client
    with open_connection(lab) as (address, port):
        told = json.loads(
            answer(lab, "trace-packet", "--src", f"{address}:{port}", "--dst", f"{VIP_V4}:{VIP_PORT}", "--json")
        )
        drawn = answer(lab, "trace-packet", "--src", f"{address}:{port}", "--dst", f"{VIP_V4}:{VIP_PORT}")
    assert client.v4
    assert [node["node"] for node in told["nodes"]] == [node.name for node in lab.topology.l4_nodes]
    for node in told["nodes"]:
        assert (node["verdict"], node["vip"], node["reason"]) == ("sent", "web-v4", "forwarded")
        assert node["hops"][-1]["reason"] == "local_socket"
        assert node["hops"][-1]["node"] == node["owner"]
    assert "an open socket of this flow" in drawn
    # A flow that nobody has: the chain is spent.
    unknown = json.loads(
        answer(lab, "trace-packet", "--src", f"{address}:1", "--dst", f"{VIP_V4}:{VIP_PORT}", "--json")
    )
    assert {node["hops"][-1]["reason"] for node in unknown["nodes"]} == {"chain_spent"}


@contextmanager
def open_connection(lab: Lab) -> Iterator[tuple[str, int]]:
    """A TCP connection of the client's to the VIP; its own address and port."""
    client = lab.topology.client
    script = (
        "import socket, sys; "
        f"s = socket.create_connection(({str(VIP_V4)!r}, {VIP_PORT}), 5, ({str(client.v4[0].ip)!r}, 0)); "
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        ["ip", "netns", "exec", client.namespace, "python3", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        match = re.fullmatch(r"(\d+)\n", holder.stdout.readline())
        assert match
        yield str(client.v4[0].ip), int(match[1])
    finally:
        holder.communicate("", timeout=10)


def eventually(what: str, holds: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE_S
    while not holds():
        assert monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        sleep(0.1)
