"""`edgectl capture` and `edgectl trace-packet` against a real orchestrator, with agents that answer as told."""

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgReader

from orchestrator.cli import capture, trace_packet
from orchestrator.cli.main import main
from orchestrator.contract import inquiry
from orchestrator.contract.inquiry import (
    Capture,
    CapturedPacket,
    CapturePiece,
    OuterHeader,
    OwnerState,
    Question,
    Trace,
    TraceAnswer,
    TraceArrival,
    TraceArrivalAnswer,
    TracedStep,
    Verdict,
)
from orchestrator.contract.node import AgentRole
from orchestrator.contract.respondent import InquiryRefused, Post, Respondent
from tests.orchestrator.live_fleet import LiveFleet, agents, orchestrator
from tests.orchestrator.test_edgectl import all_up_to_date, eventually

AT_NS = 1_795_254_000_000_000_000
FRAME = bytes(
    Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    / IP(src="198.51.100.7", dst="203.0.113.10")
    / TCP(sport=40000, dport=443, flags="S")
)
SENT = bytes(
    Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    / IP(src="198.18.1.11", dst="198.18.2.11")
    / UDP(dport=6080)
    / (b"\0" * 60)
)


@dataclass
class Balancer:
    """Captures ten packets, every other one dropped; l4-2's are half a second later than l4-1's."""

    node: str

    async def respond(self, question: Question, post: Post) -> None:
        match question:
            case Capture(vip="endless"):
                await post(CapturePiece(packets=(self.packet(0),), until_ns=AT_NS, interface="eth0"))
                await trio.sleep_forever()
            case Capture(vip="web-v4"):
                for n in range(0, 10, 5):
                    packets = tuple(self.packet(number) for number in range(n, n + 5))
                    await post(CapturePiece(packets=packets, until_ns=packets[-1].at_ns, lost=3, interface="eth0"))
            case Capture():
                raise InquiryRefused("no_such_vip", "this node runs no such VIP", "`edgectl get vips` lists them")
            case Trace():
                await post(self.traced())

    def packet(self, number: int) -> CapturedPacket:
        at_ns = AT_NS + number * 10**9 + (self.node == "l4-2") * 5 * 10**8
        if number % 2:
            return CapturedPacket(
                at_ns=at_ns, length=len(FRAME), octets=FRAME, verdict=Verdict.DROPPED, reason="bad_tcp_flags"
            )
        return CapturedPacket(
            at_ns=at_ns,
            length=len(SENT),
            octets=SENT,
            verdict=Verdict.SENT,
            row=123,
            owner="proxy-1",
            chain=("proxy-2",),
        )

    def traced(self) -> TraceAnswer:
        return TraceAnswer(
            steps=(TracedStep(what="packet", words="a packet"), TracedStep(what="verdict", words="sent to proxy-1")),
            verdict=Verdict.SENT,
            reason="forwarded",
            counters={"forwarded": 1},
            vip="web-v4",
            row=123,
            chain=(OwnerState(id=1, name="proxy-1", address="198.18.2.11", live=True),),
            owner="proxy-1",
            outer=OuterHeader(kind="gue", source="198.18.1.11", destination="198.18.2.11", source_port=50000),
            frame=SENT,
        )


@dataclass
class Redirector:
    """proxy-1 passes everything on to proxy-2, which has the socket."""

    node: str

    async def respond(self, question: Question, post: Post) -> None:
        assert isinstance(question, TraceArrival)
        assert question.frame == SENT
        is_here = self.node != "proxy-1"
        await post(
            TraceArrivalAnswer(
                steps=(
                    TracedStep(what="packet", words="a packet"),
                    TracedStep(what="verdict", words="passed: local_socket" if is_here else "sent on"),
                ),
                verdict=Verdict.PASSED if is_here else Verdict.SENT,
                reason="local_socket" if is_here else "second_chance",
                counters={},
                next_owner=None if is_here else "proxy-2",
                frame=b"" if is_here else SENT,
            )
        )


def respondent(node: str, role: AgentRole) -> Respondent | None:
    if node == "proxy-3":
        return None  # of an older version
    if role is AgentRole.BALANCER:
        return Balancer(node)
    return Redirector(node) if role is AgentRole.REDIRECTOR else None


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    with orchestrator(tmp_path_factory.mktemp("fleet")) as made:
        made.respondent = respondent
        assert edgectl(made, "apply", str(made.configuration)).exit_code == 0
        with agents(made):
            eventually(lambda: all_up_to_date(made), "all agents are up to date")
            yield made


def edgectl(fleet: LiveFleet, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--context", str(fleet.operator), *arguments])


def answer(fleet: LiveFleet, *arguments: str) -> dict[str, Any]:
    result = edgectl(fleet, *arguments, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert isinstance(content, dict)
    return content


def test_limits_of_the_command_line_are_those_of_the_contract() -> None:
    assert (capture.DEFAULT_SNAP_LENGTH, capture.MAX_SNAP_LENGTH) == (
        inquiry.DEFAULT_SNAP_LENGTH,
        inquiry.MAX_SNAP_LENGTH,
    )
    assert (capture.MAX_SECONDS, capture.MAX_PACKETS, capture.MAX_SAMPLE) == (
        inquiry.MAX_CAPTURE_S,
        inquiry.MAX_CAPTURED_PACKETS,
        inquiry.MAX_SAMPLE,
    )
    assert trace_packet.FLAGS == inquiry.TCP_FLAGS


def test_a_capture_is_a_line_for_each_packet_in_order_of_time(fleet: LiveFleet) -> None:
    result = edgectl(fleet, "capture", "web-v4", "--for", "5s")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 20
    assert lines == sorted(lines)
    assert [line.split()[1] for line in lines] == ["l4-1", "l4-2"] * 10
    assert "forwarded to proxy-1, row 123, then proxy-2" in lines[0]
    assert "198.51.100.7:40000 > 203.0.113.10:443 TCP [S] 40  dropped: bad_tcp_flags" in lines[2]
    assert "3 lost" in result.stderr


def test_a_capture_file_is_private_and_whole(fleet: LiveFleet, tmp_path: Path) -> None:
    file = tmp_path / "web.pcapng"
    file.touch(0o644)
    said = answer(fleet, "capture", "web-v4", "-w", str(file))
    assert said["packets"] == 20
    assert said["nodes"] == {"l4-1": {"packets": 10, "lost": 3}, "l4-2": {"packets": 10, "lost": 3}}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with PcapNgReader(str(file)) as reader:
        packets = list(reader)
    assert [bytes(packet) for packet in packets] == [SENT, SENT, FRAME, FRAME] * 5
    assert [packet.comment for packet in packets[1:3]] == [
        b"forwarded to proxy-1, row 123, then proxy-2",
        b"dropped: bad_tcp_flags",
    ]
    assert "mode 0600" in edgectl(fleet, "capture", "web-v4", "-w", str(file)).stdout


def test_a_capture_ends_after_as_many_packets_as_were_asked_for(fleet: LiveFleet) -> None:
    assert answer(fleet, "capture", "web-v4", "--count", "7")["packets"] == 7


def test_a_capture_of_one_node_asks_no_other(fleet: LiveFleet) -> None:
    assert answer(fleet, "capture", "web-v4", "--node", "l4-2")["nodes"].keys() == {"l4-2"}


def test_a_capture_goes_down_a_pipe_whose_reader_may_leave(fleet: LiveFleet) -> None:
    """`edgectl capture web-v4 -w - | head -c 10`."""
    command = [
        sys.executable,
        "-m",
        "orchestrator.cli",
        "--context",
        str(fleet.operator),
        "capture",
        "web-v4",
        "-w",
        "-",
    ]
    whole = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    assert whole[:4] == b"\x0a\x0d\x0d\x0a"
    piped = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert piped.stdout is not None
    piped.stdout.close()
    _, errors = piped.communicate(timeout=60)
    assert piped.returncode == 0, errors
    assert b"Traceback" not in errors


def test_ctrl_c_leaves_a_whole_file(fleet: LiveFleet, tmp_path: Path) -> None:
    file = tmp_path / "web.pcapng"
    command = [sys.executable, "-m", "orchestrator.cli", "--context", str(fleet.operator)]
    command += ["capture", "endless", "-w", str(file), "--json"]
    capturing = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert capturing.stderr is not None
    assert capturing.stderr.readline()  # progress: the first packets are there
    capturing.send_signal(2)
    out, errors = capturing.communicate(timeout=30)
    assert capturing.returncode == 0, errors
    said = json.loads(out)
    assert said["interrupted"]
    with PcapNgReader(str(file)) as reader:
        assert len(list(reader)) == said["packets"] > 0


def test_what_all_nodes_refuse_fails_the_command_with_what_to_do(fleet: LiveFleet) -> None:
    result = edgectl(fleet, "capture", "no-such-vip")
    assert result.exit_code == 1
    assert "l4-1: this node runs no such VIP" in result.stderr
    assert "edgectl get vips" in result.stderr


def test_a_trace_follows_second_chances(fleet: LiveFleet) -> None:
    ends = ("--src", "198.51.100.7:40000", "--dst", "203.0.113.10:443")
    said = answer(fleet, "trace-packet", *ends)
    assert [node["node"] for node in said["nodes"]] == ["l4-1", "l4-2"]
    for node in said["nodes"]:
        assert [(hop["node"], hop["reason"]) for hop in node["hops"]] == [
            ("proxy-1", "second_chance"),
            ("proxy-2", "local_socket"),
        ]
    drawn = edgectl(fleet, "trace-packet", *ends, "--node", "l4-1").stdout
    assert drawn.index("l4-1") < drawn.index("proxy-1") < drawn.index("proxy-2") < drawn.index("local_socket")
    assert "l4-2" not in drawn


def test_a_trace_asks_a_proxy_by_name_and_says_so_if_it_cannot_answer(fleet: LiveFleet) -> None:
    ends = ("--src", "198.51.100.7:40000", "--dst", "203.0.113.10:443")
    (node,) = answer(fleet, "trace-packet", *ends, "--node", "proxy-2")["nodes"]
    assert [hop["node"] for hop in node["hops"]] == ["proxy-2"]
    (node,) = answer(fleet, "trace-packet", *ends, "--node", "proxy-3")["nodes"]
    assert "has asked for no questions" in node["hops"][0]["problem"]


def test_a_trace_on_an_unknown_node_is_refused(fleet: LiveFleet) -> None:
    result = edgectl(fleet, "trace-packet", "--src", "1.2.3.4:5", "--dst", "1.2.3.4:6", "--node", "l4-9")
    assert result.exit_code == 1
    assert "edgectl get nodes" in result.stderr
