"""What may come out of a tunnel: from whom, and of what shape. The rest is dropped by name."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Packet

from l4.redirector_program import RedirectorProgram
from tests.bpf.packets import FLOWS, Gue, inner_packet
from tests.bpf.program_run import Verdict
from tests.bpf.redirecting import judge, prepare
from tests.bpf.tunnel_frames import TAGGINGS, UNDERLAYS, Kind, Tunnel, in_frame

pytestmark = pytest.mark.kernel

SYN = inner_packet(FLOWS["ipv4"], "S", bytes(20))
DROPPED = Verdict.DROP
PASSED = Verdict.PASS


@pytest.fixture(scope="module", autouse=True)
def _host(redirector: RedirectorProgram) -> None:
    prepare(redirector)


@dataclass(frozen=True, slots=True)
class Case:
    """An outer header that is not what it should be."""

    name: str
    change: Callable[[Packet], object]
    counter: str | None = "malformed_outer"
    """None: passed to the kernel, untouched."""
    overs: tuple[str, ...] = tuple(UNDERLAYS)
    kinds: tuple[Kind, ...] = tuple(Kind)


V4, V6, GUE = ("over-ipv4",), ("over-ipv6",), (Kind.GUE,)


def put(layer: type[Packet] | int, **fields: object) -> Callable[[Packet], object]:
    """Sets fields of the outermost layer of this kind; 0 means the outer IP header itself."""

    def change(packet: Packet) -> None:
        target = packet if layer == 0 else packet[layer]
        for name, value in fields.items():
            target.setfieldval(name, value)

    return change


CASES = (
    Case("length past the frame", put(0, len=1000), overs=V4),
    Case("length of 65535", put(0, len=65535), overs=V4),
    Case("length of nothing", put(0, len=0), overs=V4),
    Case("length within the IP header", put(0, len=19), overs=V4),
    Case("length within the GUE header", put(0, len=43), overs=V4, kinds=GUE),
    Case("payload past the frame", put(0, plen=1000), overs=V6),
    Case("payload of 65535", put(0, plen=65535), overs=V6),
    Case("payload within the GUE header", put(0, plen=23), overs=V6, kinds=GUE),
    Case("UDP length too short", put(UDP, len=30), kinds=GUE),
    Case("UDP length too long", put(UDP, len=1000), kinds=GUE),
    Case("UDP length of nothing", put(UDP, len=0), kinds=GUE),
    Case("wrong version", put(0, version=5)),
    Case("first fragment", put(0, flags="MF"), overs=V4),
    Case("later fragment", put(0, frag=8), counter=None, overs=V4),
    Case("header of 4 words", put(0, ihl=4), counter=None, overs=V4),
    Case("header of 15 words", put(0, ihl=15), counter=None, overs=V4),
    Case("another port", put(UDP, dport=6081), counter=None, kinds=GUE),
    Case("another protocol", put(0, proto=47), counter=None, overs=V4),
    Case("another next header", put(0, nh=47), counter=None, overs=V6),
    *(
        Case(f"GUE {field} {value}", put(Gue, **{field: value}), counter="malformed_gue", kinds=GUE)
        for field, value in (
            *(("variant", 1), ("control", 1), ("hlen", 2), ("hlen", 4), ("flags", 1), ("flags", 0x8000)),
            *(("protocol", 6), ("protocol", 0), ("protocol", 59), ("version", 0), ("version", 2)),
            *(("next_hop", 4), ("next_hop", 255), ("hop_count", 4), ("hop_count", 255), ("reserved", 1)),
        )
    ),
)
MATRIX = [
    pytest.param(case, over, kind, id=f"{over}-{kind}-{case.name}")
    for case in CASES
    for over in case.overs
    for kind in case.kinds
]


def expect(redirector: RedirectorProgram, frame: bytes, counter: str | None) -> None:
    seen = judge(redirector, frame)
    if counter is None:
        assert seen == (PASSED, frame, {})
    else:
        assert seen == (DROPPED, frame, {counter: 1})


@pytest.mark.parametrize(("case", "over", "kind"), MATRIX)
def test_outer_header_that_is_not_as_it_should_be_is_dropped_by_name(
    redirector: RedirectorProgram, case: Case, over: str, kind: Kind
) -> None:
    for tags in TAGGINGS.values():
        tunnel = replace(Tunnel.to_here(UNDERLAYS[over]), kind=kind, tags=tags)
        packet = tunnel.packet(SYN)
        case.change(packet)
        expect(redirector, in_frame(packet, tags), case.counter)


@pytest.mark.parametrize("kind", Kind)
def test_extension_headers_of_the_outer_header_are_the_kernels(redirector: RedirectorProgram, kind: Kind) -> None:
    tunnel = replace(Tunnel.to_here(UNDERLAYS["over-ipv6"]), kind=kind)
    for extension in (IPv6ExtHdrDestOpt(), IPv6ExtHdrFragment(m=1), IPv6ExtHdrFragment(offset=8)):
        packet = tunnel.packet(SYN)
        extension.nh = packet.nh
        outer = IPv6(src=packet.src, dst=packet.dst) / extension / packet.payload
        expect(redirector, in_frame(outer), None)


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("kind", Kind)
def test_frame_cut_short_anywhere_is_never_taken(redirector: RedirectorProgram, over: str, kind: Kind) -> None:
    """As far as the tunnel can be told, it is dropped; before, it is the kernel's."""
    for tags in TAGGINGS.values():
        tunnel = replace(Tunnel.to_here(UNDERLAYS[over]), kind=kind, tags=tags)
        whole = tunnel.arriving(SYN)
        before = len(whole) - len(bytes(SYN)) - (12 + 4 if kind is Kind.GUE else 0)
        for size in range(14, len(whole)):
            expect(redirector, whole[:size], "malformed_outer" if size >= before else None)


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("slack", [-1, 1, 4])
def test_inner_packet_must_fill_the_outer_one(redirector: RedirectorProgram, over: str, kind: Kind, slack: int) -> None:
    tunnel = replace(Tunnel.to_here(UNDERLAYS[over]), kind=kind)
    octets = bytes(SYN)
    inside = octets + bytes(slack) if slack > 0 else octets[:slack]
    expect(redirector, tunnel.arriving(inside), "bad_ip_length")


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("kind", Kind)
def test_inner_packet_of_the_other_family_than_announced_is_dropped(
    redirector: RedirectorProgram, over: str, kind: Kind
) -> None:
    tunnel = replace(Tunnel.to_here(UNDERLAYS[over]), kind=kind)
    for family, announced in (("ipv4", 41), ("ipv6", 4)):
        packet = tunnel.packet(inner_packet(FLOWS[family], "S", bytes(20)))
        if kind is Kind.GUE:
            packet[Gue].protocol = announced
        else:
            packet.setfieldval("proto" if IP in packet and packet.version == 4 else "nh", announced)
        verdict, _, counted = judge(redirector, in_frame(packet))
        assert verdict is DROPPED
        assert counted in ({"bad_ip_header": 1}, {"bad_ip_length": 1})


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("tagging", TAGGINGS)
def test_stranger_may_not_write_to_the_tunnel(
    redirector: RedirectorProgram, over: str, kind: Kind, tagging: str
) -> None:
    underlay = UNDERLAYS[over]
    tunnel = replace(Tunnel.to_here(underlay), kind=kind, tags=TAGGINGS[tagging], source=underlay.member(99))
    expect(redirector, tunnel.arriving(SYN), "source_refused")
    redirector.set_tunnel_sources([underlay.member(99)])
    assert judge(redirector, tunnel.arriving(SYN))[::2] == (PASSED, {"local_syn": 1})
    prepare(redirector)
    expect(redirector, tunnel.arriving(SYN), "source_refused")


def test_source_of_one_family_is_not_taken_for_one_of_the_other(redirector: RedirectorProgram) -> None:
    """An IPv6 header may bear an IPv4 address mapped into IPv6 (RFC 4291): that is nobody of ours."""
    octets = bytes(Tunnel.to_here(UNDERLAYS["over-ipv6"]).packet(SYN))
    mapped = bytes(10) + b"\xff\xff" + UNDERLAYS["over-ipv4"].node.packed
    expect(redirector, in_frame(octets[:8] + mapped + octets[24:]), "source_refused")


def test_stranger_outside_the_tunnel_is_left_alone(redirector: RedirectorProgram) -> None:
    plain = IP(src="198.18.9.9", dst=str(UNDERLAYS["over-ipv4"].here)) / UDP(sport=1, dport=53) / bytes(40)
    expect(redirector, in_frame(plain), None)
