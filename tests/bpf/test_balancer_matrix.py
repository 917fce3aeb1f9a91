"""The balancer's packets, whole: family x TCP flags x chain length x live bits, and the flow hash."""

import itertools
import random
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.l2 import Ether

from l4.balancer_program import BalancerProgram
from l4.entries import MemberEntry
from l4.flow_hash import row_of
from tests.bpf.packets import (
    FLOWS,
    GUE_PORT,
    NODE_ADDRESS,
    Ends,
    Gue,
    framed,
    host_vip,
    inner_packet,
    node_settings,
    sent_back,
    tunnelled,
)
from tests.bpf.program_run import Verdict, run

pytestmark = pytest.mark.kernel

NODE_ID = 0x1234
MEMBERS = (11, 22, 33, 44)
FLAGS = ("S", "A", "PA", "FA", "R", "RA")
CHAINS_AND_LIVE_BITS = [
    (MEMBERS[:length], live) for length in range(1, 5) for live in itertools.product((True, False), repeat=length)
]


def address_of(member: int) -> IPv4Address:
    return IPv4Address("198.18.0.0") + member


def set_up(balancer: BalancerProgram, *, flow_table: bool = False, mtu: int = 1500) -> None:
    balancer.set_settings(node_settings(balancer.rows, node_id=NODE_ID, mtu=mtu))
    balancer.set_vips(
        [
            host_vip(ends.vip, ends.vip_port, vip_id=index, slot=3, flow_table=flow_table)
            for index, ends in enumerate(FLOWS.values(), start=1)
        ]
    )


def set_chain(balancer: BalancerProgram, chain: tuple[int, ...], live: tuple[bool, ...]) -> None:
    row = struct.pack("=4H", *[*chain, 0, 0, 0, 0][:4])
    balancer.swap_table(3, row * balancer.rows)
    balancer.set_members(
        [MemberEntry(member, address_of(member), bit) for member, bit in zip(chain, live, strict=True)]
    )


def change(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("family", FLOWS)
def test_packet_goes_to_the_first_live_owner_with_the_rest_of_the_chain(
    balancer: BalancerProgram, family: str, flags: str
) -> None:
    ends = FLOWS[family]
    set_up(balancer)
    inner = inner_packet(ends, flags, b"0123456789" if "P" in flags else b"")
    for chain, live in CHAINS_AND_LIVE_BITS:
        set_chain(balancer, chain, live)
        before = balancer.counters()
        outcome = run(balancer.descriptor, framed(inner))
        first = live.index(True) if True in live else 0
        expected = tunnelled(
            inner,
            source=NODE_ADDRESS,
            destination=address_of(chain[first]),
            source_port=0xC000 | (ends.hash() >> 32 & 0x3FFF),
            node_id=NODE_ID,
            hops=chain[first + 1 :],
        )
        assert (outcome.verdict, outcome.frame) == (Verdict.TX, sent_back(expected)), (chain, live)
        counted = {"forwarded": 1}
        if passed_over := (first if True in live else len(live)):
            counted["owner_not_live"] = passed_over
        if True not in live:
            counted["fail_open"] = 1
        assert change(before, balancer.counters()) == counted, (chain, live)


@pytest.mark.parametrize("family", FLOWS)
def test_flow_hash_is_the_one_that_tables_and_census_reckon_with(balancer: BalancerProgram, family: str) -> None:
    set_up(balancer)
    members = range(1, balancer.rows + 1)
    balancer.set_members([MemberEntry(member, address_of(member), live=True) for member in members])
    balancer.swap_table(3, b"".join(struct.pack("=4H", member, 0, 0, 0) for member in members))
    generator = random.Random(3)
    for _ in range(200):
        client = IPv6Address(generator.getrandbits(128)) if family == "ipv6" else IPv4Address(generator.getrandbits(32))
        ends = replace(FLOWS[family], client=client, client_port=generator.randrange(1, 65536))
        sent = Ether(run(balancer.descriptor, framed(inner_packet(ends, "A"))).frame)
        assert sent["IP"].dst == str(address_of(1 + row_of(ends.hash(), balancer.rows)))
        assert sent["UDP"].sport == 0xC000 | (ends.hash() >> 32 & 0x3FFF)


@pytest.mark.parametrize("family", FLOWS)
def test_class_of_service_is_copied_but_not_congestion_marks(balancer: BalancerProgram, family: str) -> None:
    set_up(balancer)
    set_chain(balancer, MEMBERS[:1], (True,))
    marked = inner_packet(FLOWS[family], "A")
    marked.setfieldval("tc" if family == "ipv6" else "tos", 0xBB)
    assert Ether(run(balancer.descriptor, framed(marked)).frame)["IP"].tos == 0xB8


@pytest.mark.parametrize("options", [4, 40])
def test_ipv4_options_are_read_over(balancer: BalancerProgram, options: int) -> None:
    set_up(balancer)
    set_chain(balancer, MEMBERS[:1], (True,))
    inner = inner_packet(FLOWS["ipv4"], "PA", b"payload", options=b"\x01" * options)
    outcome = run(balancer.descriptor, framed(inner))
    assert outcome.verdict is Verdict.TX
    assert outcome.frame[58:] == bytes(inner)


def test_padding_of_a_short_frame_does_not_count_as_payload(balancer: BalancerProgram) -> None:
    set_up(balancer)
    set_chain(balancer, MEMBERS[:1], (True,))
    inner = inner_packet(FLOWS["ipv4"], "A")
    sent = Ether(run(balancer.descriptor, framed(inner).ljust(60, b"\0")).frame)
    assert (sent["IP"].len, sent["UDP"].len) == (44 + len(inner), 24 + len(inner))


def test_what_is_not_for_a_vip_passes_untouched(balancer: BalancerProgram) -> None:
    set_up(balancer)
    set_chain(balancer, MEMBERS[:1], (True,))
    before = balancer.counters()
    ends = FLOWS["ipv4"]
    for other in (
        replace(ends, vip=IPv4Address("203.0.113.11")),
        replace(ends, vip_port=80),
        Ends(ends.client, IPv4Address("198.18.1.11"), vip_port=22),
    ):
        frame = framed(inner_packet(other, "S"))
        outcome = run(balancer.descriptor, frame)
        assert (outcome.verdict, outcome.frame) == (Verdict.PASS, frame)
    assert balancer.counters() == before


def test_row_without_owners_table_or_members_drops_by_name(balancer: BalancerProgram) -> None:
    set_up(balancer)
    frame = framed(inner_packet(FLOWS["ipv4"], "A"))

    set_chain(balancer, (), ())
    before = balancer.counters()
    assert run(balancer.descriptor, frame).verdict is Verdict.DROP
    assert change(before, balancer.counters()) == {"empty_chain": 1}

    set_chain(balancer, MEMBERS[:2], (True, True))
    balancer.set_members([])
    before = balancer.counters()
    assert run(balancer.descriptor, frame).verdict is Verdict.DROP
    assert change(before, balancer.counters()) == {"member_unknown": 2, "no_owner": 1}

    balancer.remove_table(3)
    assert balancer.read_table(3) is None
    before = balancer.counters()
    assert run(balancer.descriptor, frame).verdict is Verdict.DROP
    assert change(before, balancer.counters()) == {"no_table": 1}


def test_vips_and_members_are_counted(balancer: BalancerProgram) -> None:
    set_up(balancer)
    set_chain(balancer, MEMBERS[:1], (True,))
    vips, members = balancer.vip_counters(), balancer.member_counters()
    inner = inner_packet(FLOWS["ipv6"], "PA", b"x" * 100)
    for _ in range(3):
        run(balancer.descriptor, framed(inner))
    packets, octets = balancer.vip_counters()[2]
    assert (packets - vips[2][0], octets - vips[2][1]) == (3, 3 * len(inner))
    assert balancer.vip_counters()[1] == vips[1]
    assert balancer.member_counters()[MEMBERS[0]] - members[MEMBERS[0]] == 3


@pytest.mark.parametrize("family", FLOWS)
def test_flow_table_is_never_consulted_for_pools_with_redirectors(balancer: BalancerProgram, family: str) -> None:
    set_up(balancer, flow_table=False)
    set_chain(balancer, MEMBERS[:2], (True, True))
    before = balancer.counters()
    for flags in FLAGS:
        run(balancer.descriptor, framed(inner_packet(FLOWS[family], flags)))
    assert change(before, balancer.counters()) == {"forwarded": len(FLAGS)}, "who asks for unknown flows misses"


@pytest.mark.parametrize("family", FLOWS)
def test_flow_table_keeps_an_open_flow_where_it_was_and_not_a_new_one(balancer: BalancerProgram, family: str) -> None:
    set_up(balancer, flow_table=True)
    set_chain(balancer, MEMBERS[:1], (True,))
    syn, data = (framed(inner_packet(FLOWS[family], flags)) for flags in ("S", "PA"))

    def owner(frame: bytes) -> str:
        return str(Ether(run(balancer.descriptor, frame).frame)["IP"].dst)

    before = balancer.counters()
    assert owner(syn) == str(address_of(MEMBERS[0]))
    set_chain(balancer, MEMBERS[1:2], (True,))
    balancer.set_members([MemberEntry(member, address_of(member), live=True) for member in MEMBERS])
    assert owner(data) == str(address_of(MEMBERS[0]))
    balancer.set_members([MemberEntry(m, address_of(m), live=m != MEMBERS[0]) for m in MEMBERS])
    assert owner(data) == str(address_of(MEMBERS[1]))
    assert owner(syn) == str(address_of(MEMBERS[1]))
    counted = change(before, balancer.counters())
    assert counted["flow_table_misses"] == 1, "of two packets that asked"


def test_gue_header_reads_as_the_protocol_document_draws_it(balancer: BalancerProgram) -> None:
    set_up(balancer)
    set_chain(balancer, MEMBERS, (True,) * 4)
    frame = run(balancer.descriptor, framed(inner_packet(FLOWS["ipv4"], "S"))).frame
    assert frame[42:58].hex() == "0304000001000300123400160021002c"
    assert Ether(frame)["UDP"].dport == GUE_PORT
    assert Ether(frame)[Gue].hops == [22, 33, 44]
