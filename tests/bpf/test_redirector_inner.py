"""Inner packets of every shape that the parser reads: who keeps them, whole packets compared."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Packet

from l4.redirector_program import RedirectorProgram
from tests.bpf.open_flows import FlowState, OpenFlow, add_addresses, flow_in
from tests.bpf.packets import FLOWS, Ends
from tests.bpf.program_run import Verdict
from tests.bpf.redirecting import OWNERS, Judgement, judge, members_on, prepare
from tests.bpf.tunnel_frames import UNDERLAYS, Kind, Tunnel

pytestmark = pytest.mark.kernel

TCP_OPTIONS = [("NOP", None), ("NOP", None), ("Timestamp", (7, 8)), ("NOP", None), ("NOP", None), ("SAck", (9, 10))]
MOST_TCP_OPTIONS = [("NOP", None)] * 40

Shape = Callable[[Packet], Packet]


def with_ip_options(count: int) -> Shape:
    def shape(packet: Packet) -> Packet:
        return IP(src=packet.src, dst=packet.dst, options=[IPOption_NOP()] * count) / packet[TCP]

    return shape


def with_route_recorded(packet: Packet) -> Packet:
    return IP(src=packet.src, dst=packet.dst, options=[IPOption_RR(routers=["0.0.0.0"] * 9)]) / packet[TCP]


def with_extensions(*headers: Packet) -> Shape:
    def shape(packet: Packet) -> Packet:
        shaped = IPv6(src=packet.src, dst=packet.dst)
        for header in headers:
            shaped /= header.copy()
        return shaped / packet[TCP]

    return shape


def with_tcp_options(options: Sequence[tuple[str, object]]) -> Shape:
    def shape(packet: Packet) -> Packet:
        shaped = packet.copy()
        shaped[TCP].options = list(options)
        return shaped

    return shape


LONG_OPTION = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(200))])
SHAPES: dict[str, dict[str, Shape]] = {
    "ipv4": {
        "a word of IP options": with_ip_options(4),
        "most IP options": with_ip_options(40),
        "route recorded": with_route_recorded,
        "TCP options": with_tcp_options(TCP_OPTIONS),
        "most TCP options": with_tcp_options(MOST_TCP_OPTIONS),
        "options of both": lambda packet: with_ip_options(40)(with_tcp_options(MOST_TCP_OPTIONS)(packet)),
    },
    "ipv6": {
        "hop-by-hop": with_extensions(IPv6ExtHdrHopByHop()),
        "destination options": with_extensions(IPv6ExtHdrDestOpt()),
        "long options": with_extensions(LONG_OPTION),
        "route at its end": with_extensions(IPv6ExtHdrRouting(segleft=0)),
        "atomic fragment": with_extensions(IPv6ExtHdrFragment()),
        "most headers": with_extensions(
            IPv6ExtHdrHopByHop(),
            LONG_OPTION,
            IPv6ExtHdrRouting(segleft=0),
            IPv6ExtHdrFragment(),
            IPv6ExtHdrDestOpt(),
        ),
        "TCP options": with_tcp_options(TCP_OPTIONS),
        "options and headers": lambda packet: with_extensions(IPv6ExtHdrHopByHop(), LONG_OPTION)(
            with_tcp_options(MOST_TCP_OPTIONS)(packet)
        ),
    },
}
COUNTERS = {
    FlowState.ESTABLISHED: "local_socket",
    FlowState.SYN_RECEIVED: "local_socket",
    FlowState.TIME_WAIT: "local_socket",
    FlowState.COOKIE: "local_syncookie",
    FlowState.WRONG_COOKIE: "second_chance",
    FlowState.LISTENER: "second_chance",
    FlowState.NOTHING: "second_chance",
}


@pytest.fixture(scope="module", autouse=True)
def _host(redirector: RedirectorProgram) -> None:
    add_addresses()
    prepare(redirector)


def expect(redirector: RedirectorProgram, over: str, inner: bytes, counter: str, *also: str) -> None:
    """Through GUE, with the first owner of the chain still to be asked."""
    underlay = UNDERLAYS[over]
    redirector.set_members(members_on(underlay, *OWNERS))
    tunnel = Tunnel.to_here(underlay)
    expected = Judgement(Verdict.PASS, tunnel.handed_up(inner), {counter: 1, **dict.fromkeys(also, 1)})
    if counter == "second_chance":
        passed_on = tunnel.passed_on(underlay.here, underlay.member(OWNERS[0]), 1)
        expected = expected._replace(verdict=Verdict.TX, frame=passed_on.leaving(inner))
    assert judge(redirector, tunnel.arriving(inner)) == expected


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("state", FlowState)
@pytest.mark.parametrize("family", FLOWS)
def test_headers_of_any_length_are_read_over(
    redirector: RedirectorProgram, family: str, state: FlowState, over: str
) -> None:
    """Cookies too are found behind them: of a handshake's end, a client may record the route or send options."""
    with flow_in(state, family) as flow:
        for shape in SHAPES[family].values():
            packet = shape(flow.packet)
            expect(redirector, over, bytes(packet), COUNTERS[state])
            syn = packet.copy()
            syn[TCP].flags = "S"
            expect(redirector, over, bytes(syn), "local_syn")


def ip(ends: Ends, **fields: object) -> Packet:
    layer = IPv6 if ends.is_ipv6 else IP
    return layer(src=str(ends.client), dst=str(ends.vip), **fields)


def datagram(ends: Ends, payload: bytes = b"payload") -> Packet:
    return ip(ends) / UDP(sport=ends.client_port, dport=ends.vip_port) / payload


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("family", FLOWS)
@pytest.mark.parametrize("payload", [b"", b"x", b"\x40" + bytes(30), b"\xc0" + bytes(1000)])
def test_udp_stays(redirector: RedirectorProgram, over: str, family: str, payload: bytes) -> None:
    """QUIC among it: the balancer has read its connection id, and nobody else need."""
    expect(redirector, over, bytes(datagram(FLOWS[family], payload)), "local_udp")


def fragments(ends: Ends, *, protocol: int) -> list[Packet]:
    pieces = [(True, 0), (True, 8), (False, 16)]
    if ends.is_ipv6:
        return [
            ip(ends) / IPv6ExtHdrFragment(nh=protocol, m=more, offset=offset, id=7) / bytes(64)
            for more, offset in pieces
        ]
    return [ip(ends, proto=protocol, flags="MF" if more else 0, frag=offset) / bytes(64) for more, offset in pieces]


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("family", FLOWS)
@pytest.mark.parametrize("protocol", [6, 17])
def test_fragments_stay_all_of_them(redirector: RedirectorProgram, over: str, family: str, protocol: int) -> None:
    with flow_in(FlowState.LISTENER, family):
        for piece in fragments(FLOWS[family], protocol=protocol):
            expect(redirector, over, bytes(piece), "local_fragment")


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("family", FLOWS)
def test_echo_request_stays(redirector: RedirectorProgram, over: str, family: str) -> None:
    ends = FLOWS[family]
    echo = ICMPv6EchoRequest(id=1, seq=2) if ends.is_ipv6 else ICMP(type=8, id=1, seq=2)
    expect(redirector, over, bytes(ip(ends) / echo / b"probe"), "local_echo")


def error_about(flow: OpenFlow, sent: Packet, octets: int = 8) -> bytes:
    """A router's answer to a packet from the VIP to the client: `sent` as its IP payload, cut short."""
    ends = flow.ends
    router = "2001:db8:99::1" if ends.is_ipv6 else "192.0.2.1"
    quoted = bytes(ip(replace(ends, client=ends.vip, vip=ends.client)) / sent)
    header = len(quoted) - len(bytes(sent))
    kind = ICMPv6PacketTooBig(mtu=1280) if ends.is_ipv6 else ICMP(type=3, code=4, nexthopmtu=1280)
    return bytes(ip(replace(ends, client=ends.client.__class__(router))) / kind / quoted[: header + octets])


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("family", FLOWS)
@pytest.mark.parametrize(
    ("state", "counter"), [(FlowState.ESTABLISHED, "local_socket"), (FlowState.NOTHING, "second_chance")]
)
def test_error_follows_the_flow_that_it_quotes(
    redirector: RedirectorProgram, over: str, family: str, state: FlowState, counter: str
) -> None:
    with flow_in(state, family) as flow:
        ports = {"sport": flow.ends.vip_port, "dport": flow.ends.client_port}
        expect(redirector, over, error_about(flow, TCP(**ports)), counter, "icmp_errors")
        expect(redirector, over, error_about(flow, UDP(**ports)), "local_udp", "icmp_errors")


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("family", FLOWS)
def test_ip_in_ip_takes_all_of_these_in(redirector: RedirectorProgram, over: str, family: str) -> None:
    tunnel = replace(Tunnel.to_here(UNDERLAYS[over]), kind=Kind.IPIP)
    ends = FLOWS[family]
    with flow_in(FlowState.NOTHING, family) as flow:
        cases = [(bytes(shape(flow.packet)), "local_ipip") for shape in SHAPES[family].values()]
    cases += [(bytes(datagram(ends)), "local_udp")]
    cases += [(bytes(piece), "local_fragment") for piece in fragments(ends, protocol=17)]
    for inner, counter in cases:
        assert judge(redirector, tunnel.arriving(inner)) == (Verdict.PASS, tunnel.handed_up(inner), {counter: 1})
