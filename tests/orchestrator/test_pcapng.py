"""Capture files are read by the programs that operators read them with."""

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgReader

from orchestrator.cli.pcapng import Direction, PcapngWriter

AT_NS = 1_795_254_000_123_456_789
FRAMES = [
    bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="198.51.100.7", dst="203.0.113.10")
        / TCP(sport=40000 + n, dport=443)
        / (b"x" * n)
    )
    for n in range(5)
]
COMMENTS = ["forwarded to proxy-1, row 123, chain proxy-2", "", "dropped: bad_tcp_flags", "später", "x" * 70000]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Five packets on two interfaces; the last one is cut."""
    path = tmp_path / "test.pcapng"
    with path.open("wb") as opened:
        writer = PcapngWriter(opened, "edgectl test")
        first, second = writer.add_interface("l4-1:eth0", 2048), writer.add_interface("l4-2:eth0", 2048)
        for number, (frame, comment) in enumerate(zip(FRAMES, COMMENTS, strict=True)):
            kept = frame[:50] if number == 4 else frame
            at_ns = AT_NS + number * 1_000_000_001
            direction = Direction.OUTBOUND if number % 2 else Direction.INBOUND
            writer.add_packet(second if number % 2 else first, at_ns, kept, len(frame), direction, comment)
        writer.add_statistics(first, AT_NS, 3, 7)
    return path


def test_scapy_reads_packets_stamps_lengths_and_comments(file: Path) -> None:
    with PcapNgReader(str(file)) as reader:
        packets = list(reader)
    assert [bytes(packet) for packet in packets[:4]] == FRAMES[:4]
    assert bytes(packets[4]) == FRAMES[4][:50]
    assert packets[4].wirelen == len(FRAMES[4])
    assert [int(packet.time * 10**9) for packet in packets] == [AT_NS + n * 1_000_000_001 for n in range(5)]
    assert [packet.sniffed_on for packet in packets[:2]] == ["l4-1:eth0", "l4-2:eth0"]
    assert packets[0].comment == COMMENTS[0].encode()
    assert packets[3].comment == COMMENTS[3].encode()


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="no tcpdump")
def test_tcpdump_reads_it_with_nanoseconds(file: Path) -> None:
    command = ["tcpdump", "-nn", "-tt", "--nano", "-r", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("1795254000.123456789 IP 198.51.100.7.40000 > 203.0.113.10.443: Flags [S]")
    assert lines[1].startswith("1795254001.123456790 ")


@pytest.mark.skipif(shutil.which("tshark") is None, reason="no tshark")
def test_tshark_reads_comments_interfaces_and_directions(file: Path) -> None:
    fields = ["frame.comment", "frame.interface_name", "frame.time_epoch", "frame.packet_flags_direction", "frame.len"]
    command = ["tshark", "-r", str(file), "-T", "fields", *(part for name in fields for part in ("-e", name))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == 5
    assert rows[0][0] == COMMENTS[0]
    assert rows[0][1] == "l4-1:eth0"
    assert rows[0][2] == "1795254000.123456789"
    assert rows[4][4] == str(len(FRAMES[4]))


def test_a_file_that_ends_after_any_packet_is_whole(tmp_path: Path) -> None:
    """Ctrl-C, a full disk: what is there can be read."""
    memory = io.BytesIO()
    writer = PcapngWriter(memory, "edgectl test")
    interface = writer.add_interface("l4-1:eth0", 64)
    for number in range(3):
        frame = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP() / UDP(sport=number))
        writer.add_packet(interface, AT_NS, frame, len(frame), Direction.OUTBOUND, "")
        path = tmp_path / f"{number}.pcapng"
        path.write_bytes(memory.getvalue())
        with PcapNgReader(str(path)) as reader:
            assert len(list(reader)) == number + 1
