"""The redirector's decisions, whole packets: family x state of the flow x place in the chain."""

import time
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Packet

from l4.entries import MemberEntry
from l4.ingress import IngressMap, IngressUnavailable
from l4.redirector_program import RedirectorProgram
from tests.bpf.open_flows import FlowState, add_addresses, flow_in
from tests.bpf.packets import FLOWS, NODE_ADDRESS, Gue, framed, inner_packet, sent_back, tunnelled
from tests.bpf.program_run import Verdict, run

pytestmark = pytest.mark.kernel

HERE = IPv4Address("198.18.2.11")
OWNERS = (22, 33, 44)
L4_NODE = 0x0102
PLACES = [(next_hop, count) for count in range(4) for next_hop in range(count + 1)]
COUNTER_OF_STATE = {
    FlowState.ESTABLISHED: "local_socket",
    FlowState.TIME_WAIT: "local_socket",
    FlowState.SYN_RECEIVED: "local_socket",
    FlowState.COOKIE: "local_syncookie",
}


def address_of(member: int) -> IPv4Address:
    return IPv4Address("198.18.2.0") + member


@pytest.fixture(scope="module", autouse=True)
def _host(redirector: RedirectorProgram) -> None:
    add_addresses()
    redirector.set_settings(v4=HERE)
    redirector.set_tunnel_sources([NODE_ADDRESS, address_of(22)])


@pytest.fixture(autouse=True)
def _members(redirector: RedirectorProgram) -> None:
    redirector.set_members([MemberEntry(member, address_of(member), live=True) for member in OWNERS])


def arriving(inner: Packet, **changes: Any) -> Packet:
    outer: dict[str, Any] = {
        "source": NODE_ADDRESS,
        "destination": HERE,
        "source_port": 0xC123,
        "node_id": L4_NODE,
        "hops": OWNERS,
    }
    return tunnelled(inner, **{**outer, **changes})


def change(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def judge(redirector: RedirectorProgram, frame: bytes) -> tuple[Verdict, bytes, dict[str, int]]:
    before = redirector.counters()
    outcome = run(redirector.descriptor, frame)
    return outcome.verdict, outcome.frame, change(before, redirector.counters())


@pytest.mark.parametrize("state", FlowState)
@pytest.mark.parametrize("family", FLOWS)
def test_flow_stays_where_its_socket_is_and_else_goes_to_the_next_owner(
    redirector: RedirectorProgram, family: str, state: FlowState
) -> None:
    with flow_in(state, family) as flow:
        for next_hop, count in PLACES:
            hops = OWNERS[:count]
            verdict, frame, counted = judge(
                redirector, framed(arriving(flow.packet, hops=hops, next_hop=next_hop, ttl=60))
            )
            here = (Verdict.PASS, framed(flow.packet))
            if state in COUNTER_OF_STATE:
                assert (verdict, frame) == here
                assert counted == {COUNTER_OF_STATE[state]: 1}
            elif next_hop == count:
                assert (verdict, frame) == here
                assert counted == {"chain_spent": 1}
            else:
                passed_on = arriving(
                    flow.packet,
                    source=HERE,
                    destination=address_of(hops[next_hop]),
                    hops=hops,
                    next_hop=next_hop + 1,
                    ttl=59,
                )
                assert (verdict, frame) == (Verdict.TX, sent_back(passed_on)), (next_hop, count)
                assert counted == {"second_chance": 1}


@pytest.mark.parametrize("flags", ["A", "PA", "FA", "R", "RA", "SA"])
def test_every_packet_of_an_unknown_flow_but_a_syn_is_passed_on(redirector: RedirectorProgram, flags: str) -> None:
    verdict, _, counted = judge(redirector, framed(arriving(inner_packet(FLOWS["ipv4"], flags))))
    assert (verdict, counted) == (Verdict.TX, {"second_chance": 1})


@pytest.mark.parametrize("family", FLOWS)
def test_syn_stays_and_tells_the_proxy_which_node_brought_it(
    redirector: RedirectorProgram, bpffs: Path, family: str
) -> None:
    ends = replace(FLOWS[family], client_port=50001)
    view = IngressMap.open(bpffs)
    assert view.lookup(ends.client, ends.client_port, ends.vip, ends.vip_port) is None
    syn = inner_packet(ends, "S")
    earliest = time.monotonic_ns()
    verdict, frame, counted = judge(redirector, framed(arriving(syn)))
    assert (verdict, frame, counted) == (Verdict.PASS, framed(syn), {"local_syn": 1})
    for form in (str, lambda address: address, lambda address: address.packed):
        record = view.lookup(form(ends.client), ends.client_port, form(ends.vip), ends.vip_port)
        assert record is not None
        assert record.node_id == L4_NODE
        assert earliest <= record.arrived_ns <= time.monotonic_ns()
    with pytest.raises(PermissionError):
        view._map.update(bytes(40), bytes(16))
    view.close()


def test_ingress_is_unavailable_where_no_redirector_ran(tmp_path: Path) -> None:
    with pytest.raises(IngressUnavailable, match="is a redirector running"):
        IngressMap.open(tmp_path)


def test_owners_unknown_or_unreachable_are_skipped_and_counted(redirector: RedirectorProgram) -> None:
    redirector.set_members([MemberEntry(33, address_of(33), live=False), MemberEntry(44, address_of(44), live=True)])
    inner = inner_packet(FLOWS["ipv4"], "A")
    verdict, frame, counted = judge(redirector, framed(arriving(inner)))
    expected = arriving(inner, source=HERE, destination=address_of(44), next_hop=3, ttl=63)
    assert (verdict, frame) == (Verdict.TX, sent_back(expected))
    assert counted == {"member_unknown": 1, "owner_not_live": 1, "second_chance": 1}


def test_packet_may_not_travel_for_ever(redirector: RedirectorProgram) -> None:
    inner = inner_packet(FLOWS["ipv4"], "A")
    assert judge(redirector, framed(arriving(inner, ttl=1)))[::2] == (Verdict.DROP, {"ttl_expired": 1})
    assert judge(redirector, framed(arriving(inner, ttl=2)))[0] is Verdict.TX


def test_stranger_may_not_write_to_the_tunnel(redirector: RedirectorProgram) -> None:
    stranger = framed(arriving(inner_packet(FLOWS["ipv4"], "S"), source=IPv4Address("198.18.1.99")))
    assert judge(redirector, stranger)[::2] == (Verdict.DROP, {"source_refused": 1})
    redirector.set_tunnel_sources([NODE_ADDRESS, IPv4Address("198.18.1.99")])
    assert judge(redirector, stranger)[0] is Verdict.PASS
    redirector.set_tunnel_sources([NODE_ADDRESS, address_of(22)])
    assert judge(redirector, stranger)[0] is Verdict.DROP


def test_what_is_not_tunnelled_to_this_host_passes_untouched(redirector: RedirectorProgram) -> None:
    inner = inner_packet(FLOWS["ipv4"], "S")
    plain = IP(src=str(NODE_ADDRESS), dst=str(HERE)) / UDP(sport=1, dport=53) / bytes(40)
    for packet in (
        inner,
        inner_packet(FLOWS["ipv6"], "S"),
        plain,
        arriving(inner, destination=IPv4Address("198.18.2.12")),
    ):
        frame = framed(packet)
        assert judge(redirector, frame) == (Verdict.PASS, frame, {})


def test_nothing_is_taken_from_the_tunnel_before_the_host_knows_its_address(redirector: RedirectorProgram) -> None:
    redirector.set_settings(v4=None)
    frame = framed(arriving(inner_packet(FLOWS["ipv4"], "S"), destination=IPv4Address("0.0.0.0")))
    assert judge(redirector, frame) == (Verdict.PASS, frame, {})
    redirector.set_settings(v4=HERE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("variant", 1),
        ("control", 1),
        ("hlen", 2),
        ("hlen", 4),
        ("protocol", 6),
        ("flags", 1),
        ("version", 0),
        ("version", 2),
        ("next_hop", 4),
        ("hop_count", 4),
        ("reserved", 1),
    ],
)
def test_tunnel_header_of_another_kind_is_dropped_by_name(
    redirector: RedirectorProgram, field: str, value: int
) -> None:
    packet = arriving(inner_packet(FLOWS["ipv4"], "S"))
    packet[Gue].setfieldval(field, value)
    assert judge(redirector, framed(packet))[::2] == (Verdict.DROP, {"malformed_gue": 1})
