"""Who keeps a packet, whole packets compared: inner family x outer family x encapsulation x state of the flow, and for
each of these VLAN tags x kind of packet x place in the chain."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from itertools import product

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6

from l4.redirector_program import RedirectorProgram
from tests.bpf.open_flows import FlowState, OpenFlow, add_addresses, flow_in
from tests.bpf.packets import FLOWS, Ends, framed, inner_packet
from tests.bpf.program_run import Verdict
from tests.bpf.redirecting import OWNERS, Judgement, judge, members_on, prepare
from tests.bpf.tunnel_frames import TAGGINGS, UNDERLAYS, Kind, Tunnel, Underlay, in_frame

pytestmark = pytest.mark.kernel

ROUTER = {"ipv4": "192.0.2.1", "ipv6": "2001:db8:99::1"}
#: Places in a chain: (next hop, hop count).
PLACES = [(next_hop, count) for count in range(4) for next_hop in range(count + 1)]


@dataclass(frozen=True, slots=True)
class Sent:
    """A packet of a flow, and who keeps it."""

    name: str
    packet: bytes
    counter: str | None
    """For what reason it is kept here; None: it goes to the next owner."""
    also_counted: str | None = None


def packet_too_big(ends: Ends, family: str) -> bytes:
    """A router's answer to what the VIP sent to the client; the quote breaks off within TCP."""
    layer, header = (IPv6, 40) if ends.is_ipv6 else (IP, 20)
    kind = ICMPv6PacketTooBig(mtu=1400) if ends.is_ipv6 else ICMP(type=3, code=4, nexthopmtu=1400)
    sent = layer(src=str(ends.vip), dst=str(ends.client)) / TCP(sport=ends.vip_port, dport=ends.client_port)
    return bytes(layer(src=ROUTER[family], dst=str(ends.vip)) / kind / bytes(sent)[: header + 8])


def flagged(flow: OpenFlow, flags: str) -> bytes:
    """The flow's next packet with these flags instead of its own."""
    packet = flow.packet.copy()
    packet[TCP].flags = flags
    return bytes(packet)


def packets_of(flow: OpenFlow, family: str, state: FlowState) -> Iterator[Sent]:
    """All kinds, with the reason why this host keeps them or not."""
    socket = "local_socket" if state in {FlowState.ESTABLISHED, FlowState.TIME_WAIT, FlowState.SYN_RECEIVED} else None
    handshake = "local_syncookie" if state is FlowState.COOKIE else socket
    yield Sent("SYN", flagged(flow, "S"), "local_syn")
    yield Sent("ACK", bytes(flow.packet), handshake)
    yield Sent("FIN", flagged(flow, "FA"), handshake)
    yield Sent("RST", flagged(flow, "R"), socket)
    yield Sent("RST with ACK", flagged(flow, "RA"), socket)
    yield Sent("SYN with ACK", flagged(flow, "SA"), socket)
    yield Sent("ICMP error", packet_too_big(flow.ends, family), socket, "icmp_errors")


@pytest.fixture(scope="module", autouse=True)
def _host(redirector: RedirectorProgram) -> None:
    add_addresses()
    prepare(redirector)


def expected(sent: Sent, tunnel: Tunnel, underlay: Underlay) -> Judgement:
    """By docs/protocol.md."""
    reason = sent.counter
    if reason != "local_syn" and tunnel.kind is Kind.IPIP:
        reason = "local_ipip"
    if reason is None and tunnel.next_hop == len(tunnel.hops):
        reason = "chain_spent"
    counted = {name: 1 for name in (reason or "second_chance", sent.also_counted) if name}
    if reason:
        return Judgement(Verdict.PASS, tunnel.handed_up(sent.packet), counted)
    owner = underlay.member(tunnel.hops[tunnel.next_hop])
    passed_on = tunnel.passed_on(underlay.here, owner, tunnel.next_hop + 1)
    return Judgement(Verdict.TX, passed_on.leaving(sent.packet), counted)


@pytest.mark.parametrize("state", FlowState)
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("family", FLOWS)
def test_flow_stays_where_its_socket_is_and_else_goes_to_the_next_owner(
    redirector: RedirectorProgram, family: str, over: str, kind: Kind, state: FlowState
) -> None:
    underlay = UNDERLAYS[over]
    redirector.set_members(members_on(underlay, *OWNERS))
    places = PLACES if kind is Kind.GUE else [(0, 0)]
    with flow_in(state, family) as flow:
        for sent, (next_hop, count), tagging in product(packets_of(flow, family, state), places, TAGGINGS):
            tunnel = replace(
                Tunnel.to_here(underlay),
                kind=kind,
                tags=TAGGINGS[tagging],
                hops=OWNERS[:count],
                next_hop=next_hop,
                ttl=60,
                traffic_class=0xB8,
            )
            seen = judge(redirector, tunnel.arriving(sent.packet))
            assert seen == expected(sent, tunnel, underlay), (sent.name, tagging, next_hop, count)


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("family", FLOWS)
def test_padding_of_a_short_frame_is_left_to_the_kernel(redirector: RedirectorProgram, family: str, over: str) -> None:
    tunnel = Tunnel.to_here(UNDERLAYS[over])
    syn = inner_packet(FLOWS[family], "S")
    seen = judge(redirector, tunnel.arriving(syn) + bytes(6))
    assert seen == (Verdict.PASS, framed(syn) + bytes(6), {"local_syn": 1})


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("tagging", TAGGINGS)
def test_what_is_not_tunnelled_to_this_host_passes_untouched(
    redirector: RedirectorProgram, over: str, kind: Kind, tagging: str
) -> None:
    here = replace(Tunnel.to_here(UNDERLAYS[over]), kind=kind, tags=TAGGINGS[tagging])
    elsewhere = replace(here, destination=UNDERLAYS[over].member(99))
    inner = inner_packet(FLOWS["ipv4"], "S")
    tags = TAGGINGS[tagging]
    foreign_mac = in_frame(here.packet(inner), tags, destination="02:00:00:00:00:99")
    for frame in (elsewhere.arriving(inner), in_frame(inner, tags), foreign_mac):
        assert judge(redirector, frame) == (Verdict.PASS, frame, {})


def test_frames_are_told_apart_by_mac_only_if_the_own_one_is_known(redirector: RedirectorProgram) -> None:
    here = UNDERLAYS["over-ipv4"].here
    assert isinstance(here, IPv4Address)
    syn = inner_packet(FLOWS["ipv4"], "S")
    frame = in_frame(Tunnel.to_here(UNDERLAYS["over-ipv4"]).packet(syn), destination="02:00:00:00:00:99")
    redirector.set_settings(v4=here)
    assert judge(redirector, frame)[::2] == (Verdict.PASS, {"local_syn": 1})
    prepare(redirector)
    assert judge(redirector, frame) == (Verdict.PASS, frame, {})


@pytest.mark.parametrize("over", UNDERLAYS)
def test_nothing_is_taken_from_the_tunnel_before_the_host_knows_its_address(
    redirector: RedirectorProgram, over: str
) -> None:
    redirector.set_settings()
    nowhere = UNDERLAYS[over].here.__class__(0)
    frame = replace(Tunnel.to_here(UNDERLAYS[over]), destination=nowhere).arriving(inner_packet(FLOWS["ipv4"], "S"))
    assert judge(redirector, frame) == (Verdict.PASS, frame, {})
    prepare(redirector)
