"""The flow table: flows that no redirector could find again stay where they began."""

import struct
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.packet import Packet

from l4.balancer_program import BalancerProgram
from l4.bpf_map import Map
from l4.entries import PROTOCOL_TCP, PROTOCOL_UDP
from tests.bpf.balancing import datagram, judge, members, one_owner
from tests.bpf.packets import FLOWS, Ends, framed, host_vip, inner_packet, node_settings

pytestmark = pytest.mark.kernel

SLOT = 4
OLD, NEW = 11, 22
IDLE_S = 300
_OWNER = struct.Struct("=HHI")


@pytest.fixture
def table(balancer: BalancerProgram, family: str) -> Map:
    """The program's own, of the family that the test is about."""
    return balancer.pins.open(f"flow_table_{family}")


@pytest.fixture(autouse=True)
def _state(balancer: BalancerProgram, table: Map) -> None:
    balancer.set_settings(node_settings(balancer.rows))
    balancer.set_members(members(OLD, NEW))
    one_owner(balancer, SLOT, OLD)
    balancer.set_vips(
        [
            host_vip(ends.vip, ends.vip_port, number + protocol, SLOT, protocol=protocol, flow_table=True)
            for number, ends in enumerate(FLOWS.values(), 100)
            for protocol in (PROTOCOL_TCP, PROTOCOL_UDP)
        ]
    )
    for key, _ in [*table.items()]:
        table.delete(key)


def only_entry(table: Map) -> tuple[int, int]:
    """The remembered flow's owner, and when it was last seen, in seconds."""
    ((_, value),) = table.items()
    owner, zero, last_seen = _OWNER.unpack(value)
    assert not zero
    return owner, last_seen


def let_pass(table: Map, seconds: int) -> None:
    """As if the remembered flow had been silent for so long."""
    ((key, value),) = table.items()
    owner, zero, last_seen = _OWNER.unpack(value)
    table.update(key, _OWNER.pack(owner, zero, last_seen - seconds))


def owner(balancer: BalancerProgram, packet: Packet) -> int | None:
    return judge(balancer, framed(packet)).owner


def error_about(ends: Ends, quoted: Callable[[Ends], Packet]) -> Packet:
    back = Ends(ends.vip, ends.client, ends.vip_port, ends.client_port)
    if ends.is_ipv6:
        return IPv6(src=str(ends.client), dst=str(ends.vip)) / ICMPv6DestUnreach() / bytes(quoted(back))[:48]
    return IP(src=str(ends.client), dst=str(ends.vip)) / ICMP(type=3, code=1) / bytes(quoted(back))[:28]


@pytest.mark.parametrize("family", FLOWS)
def test_udp_flow_stays_where_it_began_and_a_new_one_goes_by_the_new_table(
    balancer: BalancerProgram, table: Map, family: str
) -> None:
    ends = FLOWS[family]
    first = judge(balancer, framed(datagram(ends)))
    assert (first.owner, first.counted) == (OLD, {"forwarded": 1, "flow_table_misses": 1})
    one_owner(balancer, SLOT, NEW)
    second = judge(balancer, framed(datagram(ends, b"more")))
    assert (second.owner, second.counted) == (OLD, {"forwarded": 1})
    assert owner(balancer, datagram(replace(ends, client_port=1))) == NEW


@pytest.mark.parametrize("family", FLOWS)
@pytest.mark.parametrize(("silence", "expected"), [(IDLE_S - 1, OLD), (IDLE_S + 2, NEW)])
def test_udp_flow_that_was_silent_for_long_is_a_new_one(
    balancer: BalancerProgram, table: Map, family: str, silence: int, expected: int
) -> None:
    owner(balancer, datagram(FLOWS[family]))
    one_owner(balancer, SLOT, NEW)
    let_pass(table, silence)
    assert owner(balancer, datagram(FLOWS[family])) == expected
    member, last_seen = only_entry(table)
    assert member == expected
    assert abs(time.monotonic() - last_seen) < 3


@pytest.mark.parametrize("family", FLOWS)
def test_error_follows_a_udp_flow_but_keeps_it_no_younger(balancer: BalancerProgram, table: Map, family: str) -> None:
    ends = FLOWS[family]
    owner(balancer, datagram(ends))
    one_owner(balancer, SLOT, NEW)
    let_pass(table, 100)
    before = only_entry(table)
    assert owner(balancer, error_about(ends, datagram)) == OLD
    assert only_entry(table) == before


@pytest.mark.parametrize("family", FLOWS)
def test_tcp_flow_stays_for_ever_and_a_syn_begins_another(balancer: BalancerProgram, table: Map, family: str) -> None:
    ends = FLOWS[family]
    assert owner(balancer, inner_packet(ends, "S")) == OLD
    one_owner(balancer, SLOT, NEW)
    # The clock is not read for TCP: the stamp stays 0, which is longer ago than any time-out, 64 idle hours included.
    assert only_entry(table) == (OLD, 0)
    for flags in ("A", "PA", "FA", "R"):
        assert owner(balancer, inner_packet(ends, flags)) == OLD
    assert owner(balancer, inner_packet(ends, "S")) == NEW
    assert owner(balancer, inner_packet(ends, "A")) == NEW


@pytest.mark.parametrize("family", FLOWS)
def test_tcp_flow_that_another_node_brought_before_survives_the_next_change_too(
    balancer: BalancerProgram, family: str
) -> None:
    assert owner(balancer, inner_packet(FLOWS[family], "A")) == OLD
    one_owner(balancer, SLOT, NEW)
    assert owner(balancer, inner_packet(FLOWS[family], "A")) == OLD


@pytest.mark.parametrize("family", FLOWS)
def test_what_ends_a_flow_or_is_about_it_begins_none(balancer: BalancerProgram, table: Map, family: str) -> None:
    ends = FLOWS[family]
    for packet in (
        inner_packet(ends, "R"),
        inner_packet(ends, "RA"),
        inner_packet(ends, "FA"),
        error_about(ends, lambda back: inner_packet(back, "A")),
        error_about(ends, datagram),
    ):
        assert owner(balancer, packet) == OLD
    assert not [*table.items()]


@pytest.mark.parametrize("family", FLOWS)
@pytest.mark.parametrize("make", [datagram, lambda ends: inner_packet(ends, "A")], ids=["udp", "tcp"])
def test_flow_whose_member_is_gone_begins_anew(
    balancer: BalancerProgram, family: str, make: Callable[[Ends], Packet]
) -> None:
    assert owner(balancer, make(FLOWS[family])) == OLD
    one_owner(balancer, SLOT, NEW)
    balancer.set_members([*members(OLD, live=False), *members(NEW)])
    assert owner(balancer, make(FLOWS[family])) == NEW
    balancer.set_members(members(OLD, NEW))
    assert owner(balancer, make(FLOWS[family])) == NEW
