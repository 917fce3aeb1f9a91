"""ICMP errors go where the flow that they quote goes."""

from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from l4.balancer_program import BalancerProgram
from l4.entries import MemberEntry
from l4.flow_hash import row_of
from l4.redirector_program import RedirectorProgram
from tests.bpf.open_flows import FlowState, add_addresses, flow_in
from tests.bpf.packets import FLOWS, NODE_ADDRESS, Ends, framed, host_vip, node_settings, tunnelled
from tests.bpf.program_run import Verdict, run

pytestmark = pytest.mark.kernel

HERE = IPv4Address("198.18.2.11")
NEXT = IPv4Address("198.18.2.22")
ROUTER = {"ipv4": "192.0.2.1", "ipv6": "2001:db8:99::1"}


def address_of(member: int) -> IPv4Address:
    return IPv4Address("198.18.0.0") + member


def error_about(ends: Ends, family: str, kind: Packet, quoted_octets: int = 8) -> Packet:
    """What a router on the way to the client answers to the VIP; the quote breaks off within TCP."""
    layer = IPv6 if ends.is_ipv6 else IP
    quoted = layer(src=str(ends.vip), dst=str(ends.client)) / TCP(
        sport=ends.vip_port, dport=ends.client_port, flags="A"
    )
    header = 40 if ends.is_ipv6 else 20
    return layer(src=ROUTER[family], dst=str(ends.vip)) / kind / bytes(quoted)[: header + quoted_octets]


ERRORS = [
    pytest.param("ipv4", ICMP(type=3, code=4, nexthopmtu=1400), id="ipv4-too-big"),
    pytest.param("ipv4", ICMP(type=3, code=1), id="ipv4-unreachable"),
    pytest.param("ipv4", ICMP(type=11), id="ipv4-time-exceeded"),
    pytest.param("ipv6", ICMPv6PacketTooBig(mtu=1400), id="ipv6-too-big"),
    pytest.param("ipv6", ICMPv6DestUnreach(), id="ipv6-unreachable"),
]


@pytest.fixture(scope="module", autouse=True)
def _settings(balancer: BalancerProgram, redirector: RedirectorProgram) -> None:
    balancer.set_settings(node_settings(balancer.rows, node_id=1))
    balancer.set_vips([host_vip(ends.vip, ends.vip_port, 1, 0, flow_table=False) for ends in FLOWS.values()])
    members = range(1, balancer.rows + 1)
    balancer.set_members([MemberEntry(member, address_of(member), live=True) for member in members])
    balancer.swap_table(0, b"".join(member.to_bytes(2, "little") + bytes(6) for member in members))
    add_addresses()
    redirector.set_settings(v4=HERE)
    redirector.set_tunnel_sources([NODE_ADDRESS])
    redirector.set_members([MemberEntry(22, NEXT, live=True)])


@pytest.mark.parametrize(("family", "kind"), ERRORS)
def test_balancer_sends_it_where_the_quoted_flow_goes(balancer: BalancerProgram, family: str, kind: Packet) -> None:
    ends = FLOWS[family]
    error = error_about(ends, family, kind)
    before = balancer.counters()["icmp_errors"]
    outcome = run(balancer.descriptor, framed(error))
    assert outcome.verdict is Verdict.TX
    assert Ether(outcome.frame)["IP"].dst == str(address_of(1 + row_of(ends.hash(), balancer.rows)))
    assert outcome.frame[58:] == bytes(error)
    assert balancer.counters()["icmp_errors"] == before + 1


@pytest.mark.parametrize(("family", "kind"), ERRORS)
@pytest.mark.parametrize(
    ("state", "verdict", "counter"),
    [
        (FlowState.ESTABLISHED, Verdict.PASS, "local_socket"),
        (FlowState.LISTENER, Verdict.TX, "second_chance"),
        (FlowState.NOTHING, Verdict.TX, "second_chance"),
    ],
)
def test_redirector_keeps_it_where_the_quoted_flow_is(
    redirector: RedirectorProgram, family: str, kind: Packet, state: FlowState, verdict: Verdict, counter: str
) -> None:
    with flow_in(state, family) as flow:
        error = error_about(flow.ends, family, kind)
        outer = tunnelled(error, source=NODE_ADDRESS, destination=HERE, source_port=1, node_id=1, hops=(22,))
        before = redirector.counters()
        outcome = run(redirector.descriptor, framed(outer))
        after = redirector.counters()
        assert outcome.verdict is verdict
        assert {name for name in after if after[name] != before[name]} == {counter, "icmp_errors"}
        if verdict is Verdict.PASS:
            assert outcome.frame == framed(error)


@pytest.mark.parametrize(("family", "kind"), ERRORS)
def test_quote_that_is_cut_short_or_not_of_a_vip_is_dropped_by_name(
    balancer: BalancerProgram, family: str, kind: Packet
) -> None:
    ends = FLOWS[family]
    foreign = error_about(Ends(ends.client, ends.client), family, kind)
    foreign.dst = str(ends.vip)
    for packet, counter in (
        (error_about(ends, family, kind, 3), "truncated"),
        (error_about(ends, family, kind, -1), "truncated"),
        (foreign, "foreign_quote"),
    ):
        before = balancer.counters()
        assert run(balancer.descriptor, framed(packet)).verdict is Verdict.DROP
        after = balancer.counters()
        assert {name for name in after if after[name] != before[name]} == {counter}


def test_other_icmp_is_left_to_the_kernel(balancer: BalancerProgram) -> None:
    ipv4, ipv6 = FLOWS["ipv4"], FLOWS["ipv6"]
    for packet in (
        IP(src=str(ipv4.client), dst=str(ipv4.vip)) / ICMP(type=0),
        IPv6(src=str(ipv6.client), dst=str(ipv6.vip)) / ICMPv6EchoReply(),
    ):
        frame = framed(packet)
        outcome = run(balancer.descriptor, frame)
        assert (outcome.verdict, outcome.frame) == (Verdict.PASS, frame)
