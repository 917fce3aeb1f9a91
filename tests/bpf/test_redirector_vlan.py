"""VLAN tags between real interfaces, native and generic: what is handed up with its tags reaches the kernel's TCP, and
what is sent on bears them.

Handed up is shown with tags of VLAN 0, which only bear a priority (IEEE 802.1Q, 6.9): for these the kernel needs no
VLAN device, but it reads the frame as it does for any other.
"""

import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from itertools import product

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from l4.attachment import XdpMode
from l4.redirector_program import RedirectorProgram
from tests.bpf.conftest import ip
from tests.bpf.open_flows import HALF_OPEN_CLIENTS, NETWORKS
from tests.bpf.packets import CLIENT_MAC, FLOWS, GUE_PORT, inner_packet
from tests.bpf.redirecting import members_on, prepare
from tests.bpf.tunnel_frames import TAGGINGS, UNDERLAYS, Kind, Tunnel
from tests.bpf.veth import CLIENT, NODE, wire

pytestmark = pytest.mark.kernel

PRIORITIES: dict[str, tuple[Packet, ...]] = {
    "untagged": (),
    "tagged": (Dot1Q(vlan=0, prio=5),),
    "double-tagged": (Dot1AD(vlan=0, prio=5), Dot1Q(vlan=0)),
}
MODES = [XdpMode.NATIVE, XdpMode.GENERIC]

_SOL_PACKET, _PACKET_AUXDATA = 263, 8  # packet(7)
_AUXDATA = struct.Struct("=IIIHHHH")
_STATUS_VLAN_VALID = 1 << 4


@pytest.fixture
def cable(pair: None, redirector: RedirectorProgram) -> Iterator[socket.socket]:
    """The far end, where clients of both families are."""
    for family, ends in FLOWS.items():
        ip(f"address add {ends.vip} dev lo")
        ip(f"route add {NETWORKS[family]} dev {NODE}")
        ip(f"neighbor add {HALF_OPEN_CLIENTS[family]} lladdr {CLIENT_MAC} dev {NODE}")
    prepare(redirector)
    with wire(CLIENT) as opened:
        opened.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        yield opened
    redirector.detach(NODE)
    for ends in FLOWS.values():
        ip(f"address del {ends.vip}/{ends.vip.max_prefixlen} dev lo")


def await_frame(cable: socket.socket, is_wanted: Callable[[Packet], bool]) -> tuple[bytes, int | None]:
    """The first wanted frame, without its outermost tag, and that tag's control field."""
    while True:
        frame, ancillary, _, _ = cable.recvmsg(2048, 256)
        if is_wanted(Ether(frame)):
            break
    tag = None
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status, *_, control, _ = _AUXDATA.unpack_from(data)
            tag = control if status & _STATUS_VLAN_VALID else None
    return frame, tag


@pytest.mark.parametrize("mode", MODES)
def test_kernel_reads_what_is_handed_up_with_its_tags(
    redirector: RedirectorProgram, cable: socket.socket, mode: XdpMode
) -> None:
    redirector.attach(NODE, mode)
    for over, kind, tagging in product(UNDERLAYS, Kind, PRIORITIES):
        tunnel = replace(Tunnel.to_here(UNDERLAYS[over]), kind=kind, tags=PRIORITIES[tagging])
        for family, usual in FLOWS.items():
            ends = replace(usual, client=ip_address(HALF_OPEN_CLIENTS[family]))
            kind_of_socket = socket.AF_INET6 if ends.is_ipv6 else socket.AF_INET
            with socket.create_server((str(ends.vip), ends.vip_port), family=kind_of_socket):
                cable.send(tunnel.arriving(inner_packet(ends, "S")))
                await_frame(cable, lambda seen: TCP in seen and seen[TCP].flags == "SA")


@pytest.mark.parametrize("mode", MODES)
def test_second_chance_leaves_with_its_tags(redirector: RedirectorProgram, cable: socket.socket, mode: XdpMode) -> None:
    redirector.attach(NODE, mode)
    data = inner_packet(FLOWS["ipv4"], "PA", b"of an unknown flow")
    for underlay, tags in product(UNDERLAYS.values(), TAGGINGS.values()):
        redirector.set_members(members_on(underlay, 22))
        tunnel = replace(Tunnel.to_here(underlay), tags=tags, hops=(22,))
        cable.send(tunnel.arriving(data))
        frame, tag = await_frame(cable, lambda seen: seen.dst == CLIENT_MAC and GUE_PORT.to_bytes(2) in bytes(seen))
        expected = tunnel.passed_on(underlay.here, underlay.member(22), 1).leaving(data)
        if tags:  # the kernel takes the outermost off as the frame arrives
            assert tag == int.from_bytes(expected[14:16])
            expected = expected[:12] + expected[16:]
        assert frame == expected
