"""Limits of new flows: bursts, rates, who is refused by what, and the reserve for those who ask again.

Time does not pass in these tests but as they say: they put the state in the maps into the past.
"""

import re
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.packet import Packet

from l4.balancer_program import BalancerProgram
from l4.entries import PROTOCOL_UDP
from l4.guard import RateLimit, VipLimits
from l4.guard_lists import Listing
from tests.bpf.guarding import VIP_IDS, counted, refused, serve_all
from tests.bpf.packets import FLOWS, Ends, framed, host_vip, inner_packet
from tests.bpf.program_run import Verdict, run

pytestmark = pytest.mark.kernel

#: Slow enough that none is due again while a test runs.
PER_SECOND = 0.001
ONE_INTERVAL_S = 1 / PER_SECOND
SLOW = RateLimit(PER_SECOND, burst=3)
PLENTY = RateLimit(per_second=1_000_000, burst=1_000_000)

FAMILIES = tuple(FLOWS)
SAME_PREFIX = {"ipv4": "198.51.100.8", "ipv6": "2001:db8:51:ff::7"}
OTHER_PREFIX = {"ipv4": "198.51.101.7", "ipv6": "2001:db8:51:100::7"}

#: Units of a refusal's time: 2^20 ns.
UNIT_S = (1 << 20) / 1e9


@pytest.fixture
def guarded(balancer: BalancerProgram) -> Iterator[BalancerProgram]:
    """All buckets full, no limits, nobody listed."""
    serve_all(balancer)
    balancer.guard.set_lists({})
    balancer.guard.set_limits(VipLimits(), {})
    clear(balancer, "refusals")
    yield balancer
    balancer.guard.set_limits(VipLimits(), {})


def clear(balancer: BalancerProgram, map_name: str) -> None:
    with balancer._pins.open(map_name) as array:
        array.write_array(bytes(array.shape.max_entries * array.shape.value_size))


def pass_time(balancer: BalancerProgram, seconds: float) -> None:
    """Puts the buckets into the past."""
    for map_name in ("source_buckets", "vip_buckets", "node_buckets"):
        with balancer._pins.open(map_name) as array:
            octets = bytearray(array.read_array())
            for place in words_in_use(octets):
                (due,) = struct.unpack_from("=Q", octets, place)
                struct.pack_into("=Q", octets, place, max(0, due - int(seconds * 1e9)))
            array.write_array(bytes(octets))


def date_refusals(balancer: BalancerProgram, seconds: float) -> None:
    """Makes all refusals that are remembered so old."""
    with balancer._pins.open("refusals") as array:
        octets = bytearray(array.read_array())
        places = words_in_use(octets)
        at = int((time.monotonic() - seconds) / UNIT_S) & 0xFFFF_FFFF  # last: finding the places takes its time
        for place in places:
            struct.pack_into("=I", octets, place + 4, at)
        array.write_array(bytes(octets))


def words_in_use(octets: bytes | bytearray) -> list[int]:
    return sorted({match.start() & ~7 for match in re.finditer(rb"[^\0]", octets)})


def syn(ends: Ends, **changes: Any) -> Packet:
    return inner_packet(replace(ends, **changes), "S")


def verdicts(balancer: BalancerProgram, *packets: Packet) -> str:
    """T for each packet that went to a member, D for each that was dropped."""
    return "".join({Verdict.TX: "T", Verdict.DROP: "D"}[run(balancer.descriptor, framed(p)).verdict] for p in packets)


def flows(ends: Ends, number: int, first: int = 40_000) -> list[Packet]:
    """SYNs of so many flows of one client."""
    return [syn(ends, client_port=first + index) for index in range(number)]


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_limited_before_limits_are_set(guarded: BalancerProgram, family: str) -> None:
    assert verdicts(guarded, *flows(FLOWS[family], 50)) == "T" * 50


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("limited", "reason"), [("source", "syn_source_limit"), ("vip", "syn_vip_limit"), ("node", "new_flow_limit")]
)
def test_burst_passes_and_then_the_rate(guarded: BalancerProgram, family: str, limited: str, reason: str) -> None:
    guarded.guard.set_limits(VipLimits(**{limited: SLOW}), {})
    before, of_vip = guarded.counters(), refused(guarded, family, reason)
    assert verdicts(guarded, *flows(FLOWS[family], 5)) == "TTTDD"
    pass_time(guarded, ONE_INTERVAL_S)
    assert verdicts(guarded, *flows(FLOWS[family], 2, 41_000)) == "TD"
    pass_time(guarded, 100 * ONE_INTERVAL_S)
    assert verdicts(guarded, *flows(FLOWS[family], 4, 42_000)) == "TTTD"
    assert counted(before, guarded.counters())[reason] == 4
    assert refused(guarded, family, reason) - of_vip == 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flags", ["A", "PA", "FA", "R", "SA"])
def test_open_flows_are_not_limited(guarded: BalancerProgram, family: str, flags: str) -> None:
    guarded.guard.set_limits(VipLimits(SLOW, SLOW, SLOW), {})
    assert verdicts(guarded, *flows(FLOWS[family], 4)) == "TTTD"
    packet = inner_packet(FLOWS[family], flags)
    assert verdicts(guarded, *[packet] * 20) == "T" * 20


@pytest.mark.parametrize("family", FAMILIES)
def test_a_source_prefix_is_limited_as_one_and_others_are_not(guarded: BalancerProgram, family: str) -> None:
    guarded.guard.set_limits(VipLimits(source=SLOW), {})
    ends = FLOWS[family]
    assert verdicts(guarded, *flows(ends, 3)) == "TTT"
    assert verdicts(guarded, syn(ends, client=ip_address(SAME_PREFIX[family]))) == "D"
    assert verdicts(guarded, syn(ends, client=ip_address(OTHER_PREFIX[family]))) == "T"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_flood_from_one_prefix_leaves_nearly_all_others_alone(guarded: BalancerProgram, family: str) -> None:
    guarded.guard.set_limits(VipLimits(source=SLOW), {})
    ends = FLOWS[family]
    verdicts(guarded, *flows(ends, 10))
    step = 1 << 8 if family == "ipv4" else 1 << 72
    others = [syn(ends, client=type(ends.client)(int(ends.client) + number * step)) for number in range(1, 301)]
    assert verdicts(guarded, *others) == "T" * 300


@pytest.mark.parametrize("family", FAMILIES)
def test_allowed_sources_are_exempt(guarded: BalancerProgram, family: str) -> None:
    guarded.guard.set_limits(VipLimits(SLOW, SLOW, SLOW), {})
    guarded.guard.set_lists({ip_network(FLOWS[family].client): Listing.ALLOWED})
    assert verdicts(guarded, *flows(FLOWS[family], 20)) == "T" * 20
    assert verdicts(guarded, *flows(replace(FLOWS[family], client=ip_address(OTHER_PREFIX[family])), 4)) == "TTTD"


def test_one_vip_may_have_limits_of_its_own(guarded: BalancerProgram) -> None:
    guarded.guard.set_limits(VipLimits(), {VIP_IDS["ipv4"]: VipLimits(vip=SLOW)})
    assert verdicts(guarded, *flows(FLOWS["ipv4"], 5)) == "TTTDD"
    assert verdicts(guarded, *flows(FLOWS["ipv6"], 5)) == "TTTTT"


def test_a_dry_vip_leaves_the_others_alone(guarded: BalancerProgram) -> None:
    guarded.guard.set_limits(VipLimits(vip=SLOW), {})
    assert verdicts(guarded, *flows(FLOWS["ipv4"], 5)) == "TTTDD"
    assert verdicts(guarded, *flows(FLOWS["ipv6"], 5)) == "TTTDD"


def test_what_one_limit_refuses_the_next_is_not_charged_for(guarded: BalancerProgram) -> None:
    guarded.guard.set_limits(VipLimits(source=SLOW, vip=RateLimit(PER_SECOND, 4)), {})
    assert verdicts(guarded, *flows(FLOWS["ipv4"], 50)) == "TTT" + "D" * 47
    assert verdicts(guarded, syn(FLOWS["ipv4"], client=IPv4Address("192.0.2.7"))) == "T"


def test_raised_limits_hold_at_once(guarded: BalancerProgram) -> None:
    guarded.guard.set_limits(VipLimits(vip=RateLimit(PER_SECOND, 1000)), {})
    verdicts(guarded, *flows(FLOWS["ipv4"], 1000))
    guarded.guard.set_limits(VipLimits(vip=PLENTY), {})
    assert verdicts(guarded, *flows(FLOWS["ipv4"], 100)) == "T" * 100


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("limited", ["vip", "node"])
@pytest.mark.parametrize(("seconds", "expected"), [(0.0, "D"), (0.6, "T"), (1.0, "T"), (7.0, "T"), (11.0, "D")])
def test_who_asks_again_in_due_time_is_admitted_from_the_reserve(
    guarded: BalancerProgram, family: str, limited: str, seconds: float, expected: str
) -> None:
    guarded.guard.set_limits(VipLimits(**{limited: SLOW}), {})
    verdicts(guarded, *flows(FLOWS[family], 3))
    late = syn(FLOWS[family], client_port=50_000)
    assert verdicts(guarded, late) == "D"
    date_refusals(guarded, seconds)
    before = guarded.counters()
    assert verdicts(guarded, late) == expected
    assert counted(before, guarded.counters()).get("syn_retransmissions", 0) == (expected == "T")
    assert verdicts(guarded, syn(FLOWS[family], client_port=50_001)) == "D"


def test_the_reserve_is_as_large_as_the_limit(guarded: BalancerProgram) -> None:
    guarded.guard.set_limits(VipLimits(vip=SLOW), {})
    verdicts(guarded, *flows(FLOWS["ipv4"], 3))
    late = [syn(FLOWS["ipv4"], client_port=50_000 + number) for number in range(5)]
    assert verdicts(guarded, *late) == "DDDDD"
    date_refusals(guarded, 1.0)
    assert verdicts(guarded, *late) == "TTTDD"


def test_flow_table_remembers_no_more_flows_than_the_limit_but_forwards_all(guarded: BalancerProgram) -> None:
    ends = FLOWS["ipv4"]
    guarded.set_vips([host_vip(ends.vip, ends.vip_port, 1, 0, protocol=PROTOCOL_UDP, flow_table=True)])
    guarded.guard.set_limits(VipLimits(node=SLOW), {})
    before = guarded.counters()
    datagrams = []
    for number in range(5):
        packet = inner_packet(ends, "A").copy()
        packet.remove_payload()
        datagrams.append(packet / UDP(sport=20_000 + number, dport=ends.vip_port) / b"hello")
    assert verdicts(guarded, *datagrams) == "TTTTT"
    assert verdicts(guarded, *datagrams) == "TTTTT"
    change = counted(before, guarded.counters())
    assert change["flow_table_misses"] == 5 + 2
    assert change["flows_not_remembered"] == 4
