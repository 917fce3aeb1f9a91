"""The tap: what the balancer has finished with is copied as asked, unchanged, and only while somebody asks."""

import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_network

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

from l4.balancer_program import BalancerProgram
from l4.entries import MemberEntry
from l4.guard_lists import Listing
from l4.program_loader import counter_names
from l4.tap import RING_PAGES, Tap, is_in_place
from l4.tap_records import TapPlan, TapRecord
from tests.bpf.packets import FLOWS, framed, host_vip, inner_packet, node_settings
from tests.bpf.program_run import Verdict, run

pytestmark = pytest.mark.kernel

VIP_ID = 7
MEMBERS = (11, 22, 33)
COUNTERS = counter_names("BALANCER")
FOREVER_NS = 2**62


def plan(**changes: object) -> TapPlan:
    usual = {
        "deadline_ns": FOREVER_NS,
        "packets": 1000,
        "vip_id": VIP_ID,
        "network": ip_network("203.0.113.10/32"),
        "sample": 1,
        "snap_length": 2048,
        "drops_only": False,
    }
    return TapPlan(**{**usual, **changes})  # type: ignore[arg-type]


@pytest.fixture
def tapped(balancer: BalancerProgram) -> Iterator[BalancerProgram]:
    """A balancer that shows what it has finished with, and counts on from zero."""
    balancer.set_members([MemberEntry(m, IPv4Address("198.18.0.0") + m, live=True) for m in MEMBERS])
    balancer.swap_table(3, struct.pack("=4H", *MEMBERS, 0) * balancer.rows)
    balancer.set_vips(
        [host_vip(ends.vip, ends.vip_port, VIP_ID + i, 3) for i, ends in enumerate(FLOWS.values())]
        + [host_vip(FLOWS["ipv4"].vip, 8443, 99, 3)]
    )
    balancer.set_settings(node_settings(balancer.rows))
    balancer.show_to_tap(True)
    yield balancer
    balancer.show_to_tap(False)
    Tap.clear(balancer.pins)


def captured(tap: Tap) -> list[TapRecord]:
    return list(tap.read(10_000))


@pytest.mark.parametrize("octets", [0, 1, 7, 8, 9, 500, 1350])
@pytest.mark.parametrize("family", FLOWS)
def test_a_forwarded_packet_is_copied_with_both_headers_as_it_leaves(
    tapped: BalancerProgram, family: str, octets: int
) -> None:
    ends = FLOWS[family]
    with Tap(tapped.pins, plan(vip_id=VIP_ID + [*FLOWS].index(family))) as tap:
        before = time.monotonic_ns()
        sent = run(tapped.descriptor, framed(inner_packet(ends, "PA", b"x" * octets)))
        (record,) = captured(tap)
    assert sent.verdict is Verdict.TX
    assert (record.octets, record.length) == (sent.frame, len(sent.frame))
    assert (record.note.verdict, record.note.reason) == (Verdict.TX, None)
    assert (record.note.hash, record.note.owner, record.note.rest) == (ends.hash(), MEMBERS[0], MEMBERS[1:])
    assert before <= record.at_ns <= time.monotonic_ns()


@pytest.mark.parametrize("snap_length", [64, 65, 100, 1000])
def test_no_more_than_the_snap_length_is_kept(tapped: BalancerProgram, snap_length: int) -> None:
    with Tap(tapped.pins, plan(snap_length=snap_length)) as tap:
        sent = run(tapped.descriptor, framed(inner_packet(FLOWS["ipv4"], "PA", b"x" * 1200)))
        (record,) = captured(tap)
    assert (record.octets, record.length) == (sent.frame[:snap_length], len(sent.frame))


def test_a_dropped_packet_is_copied_as_it_arrived_with_the_reason(tapped: BalancerProgram) -> None:
    frame = framed(inner_packet(FLOWS["ipv4"], "SF"))
    with Tap(tapped.pins, plan(drops_only=True)) as tap:
        assert run(tapped.descriptor, framed(inner_packet(FLOWS["ipv4"], "A"))).verdict is Verdict.TX
        assert run(tapped.descriptor, frame).verdict is Verdict.DROP
        (record,) = captured(tap)
    assert record.octets == frame
    assert record.note.reason is not None
    assert (record.note.verdict, COUNTERS[record.note.reason], record.note.owner) == (Verdict.DROP, "bad_tcp_flags", 0)


def test_what_the_guard_refuses_is_copied_with_the_reason(tapped: BalancerProgram) -> None:
    tapped.guard.set_lists({ip_network(FLOWS["ipv4"].client): Listing.BLOCKED})
    tapped.set_settings(node_settings(tapped.rows, lists_ipv4=True))
    try:
        with Tap(tapped.pins, plan()) as tap:
            assert run(tapped.descriptor, framed(inner_packet(FLOWS["ipv4"], "A"))).verdict is Verdict.DROP
            (record,) = captured(tap)
    finally:
        tapped.guard.set_lists({})
    assert record.note.reason is not None
    assert (COUNTERS[record.note.reason], record.note.vip_id) == ("blocked", VIP_ID)


@pytest.mark.parametrize("family", FLOWS)
def test_an_answer_of_the_balancer_s_own_is_copied(tapped: BalancerProgram, family: str) -> None:
    ends = FLOWS[family]
    ping = (
        (IPv6(src=str(ends.client), dst=str(ends.vip)) / ICMPv6EchoRequest())
        if ends.is_ipv6
        else (IP(src=str(ends.client), dst=str(ends.vip)) / ICMP())
    )
    with Tap(tapped.pins, plan(vip_id=VIP_ID + [*FLOWS].index(family), network=ip_network(ends.vip))) as tap:
        sent = run(tapped.descriptor, framed(ping))
        (record,) = captured(tap)
    assert record.note.reason is not None
    assert (COUNTERS[record.note.reason], record.octets) == ("echo_answered", sent.frame)


def test_other_vips_and_other_traffic_are_not_copied(tapped: BalancerProgram) -> None:
    ends = FLOWS["ipv4"]
    others = [
        framed(IP(src=str(ends.client), dst=str(ends.vip)) / TCP(dport=8443, flags="A")),
        framed(inner_packet(FLOWS["ipv6"], "A")),
        framed(inner_packet(FLOWS["ipv6"], "SF")),
        framed(IP(src="198.51.100.1", dst="198.51.100.2") / TCP(dport=443)),
    ]
    with Tap(tapped.pins, plan()) as tap:
        for frame in others:
            run(tapped.descriptor, frame)
        assert captured(tap) == []
        assert tap.counts().seen == 0


def test_verdicts_packets_and_counters_are_the_same_with_a_tap_and_without(tapped: BalancerProgram) -> None:
    frames = [framed(inner_packet(ends, flags)) for ends in FLOWS.values() for flags in ("S", "A", "SF", "R")]

    def outcomes() -> tuple[list[object], dict[str, int]]:
        before = tapped.counters()
        seen: list[object] = [run(tapped.descriptor, frame) for frame in frames]
        return seen, {name: value - before[name] for name, value in tapped.counters().items()}

    without = outcomes()
    with Tap(tapped.pins, plan()):
        assert outcomes() == without
    assert outcomes() == without


def test_the_budget_bounds_what_is_copied(tapped: BalancerProgram) -> None:
    with Tap(tapped.pins, plan(packets=5)) as tap:
        for _ in range(20):
            run(tapped.descriptor, framed(inner_packet(FLOWS["ipv4"], "A")))
        assert len(captured(tap)) == 5
        assert (tap.counts().seen, tap.counts().taken) == (20, 5)


def test_one_in_so_many_is_copied(tapped: BalancerProgram) -> None:
    with Tap(tapped.pins, plan(sample=10)) as tap:
        for _ in range(1000):
            run(tapped.descriptor, framed(inner_packet(FLOWS["ipv4"], "A")))
        assert 40 <= len(captured(tap)) <= 200  # 100 expected: six standard deviations
        assert tap.counts().seen == 1000


def test_after_the_deadline_nothing_is_copied_although_nobody_took_the_tap_away(tapped: BalancerProgram) -> None:
    with Tap(tapped.pins, plan(deadline_ns=time.monotonic_ns())) as tap:
        assert run(tapped.descriptor, framed(inner_packet(FLOWS["ipv4"], "A"))).verdict is Verdict.TX
        assert (captured(tap), tap.counts().seen) == ([], 0)


def test_without_the_settings_bit_nothing_is_shown(tapped: BalancerProgram) -> None:
    tapped.show_to_tap(False)
    with Tap(tapped.pins, plan()) as tap:
        run(tapped.descriptor, framed(inner_packet(FLOWS["ipv4"], "A")))
        assert captured(tap) == []


def test_a_full_buffer_loses_copies_and_no_packets_and_both_are_counted(tapped: BalancerProgram) -> None:
    frame = framed(inner_packet(FLOWS["ipv4"], "A", b"x" * 1400))
    with Tap(tapped.pins, plan(packets=10_000)) as tap:
        fits = RING_PAGES * 4096 // 1600
        for _ in range(fits):
            assert run(tapped.descriptor, frame).verdict is Verdict.TX
        lost = tap.counts().lost
        records = captured(tap)
        assert len(records) == fits - lost
        assert all(len(record.octets) == record.length for record in records)
        # What was read makes room, round the buffer's end as well.
        for _ in range(fits):
            run(tapped.descriptor, frame)
            assert len(captured(tap)) == 1
    assert lost < fits / 10


def test_what_a_dead_agent_left_is_cleared(tapped: BalancerProgram) -> None:
    tap = Tap(tapped.pins, plan())
    assert is_in_place(tapped.pins)
    Tap.clear(tapped.pins)
    assert not is_in_place(tapped.pins)
    run(tapped.descriptor, framed(inner_packet(FLOWS["ipv4"], "A")))
    assert captured(tap) == []
    tap.close()
