"""The packets that are measured: each row a program, as the product loads and feeds it, and a frame."""

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.packet import Packet

from l4.balancer_program import BalancerProgram
from l4.entries import PROTOCOL_UDP, EncapsulationKind, MemberEntry
from l4.redirector_program import RedirectorProgram
from tests.bench.reference import ReferencePrograms
from tests.bpf.packets import FLOWS, NODE_ADDRESS, framed, host_vip, inner_packet, node_settings, tunnelled
from tests.bpf.program_run import run

ROWS = 65537
OWNERS = (11, 22, 33)
PROXY = IPv4Address("198.18.2.11")

IPIP = replace(FLOWS["ipv4"], vip_port=8443)
DATAGRAMS = replace(FLOWS["ipv4"], vip_port=53)


@dataclass(frozen=True, slots=True)
class Row:
    """What is measured under this name."""

    name: str
    descriptor: int
    frame: bytes


def reference_rows(programs: ReferencePrograms) -> list[Row]:
    frame = framed(inner_packet(FLOWS["ipv4"], "A"))
    return [Row(name, descriptor, frame) for name, descriptor in programs.descriptors.items()]


def load_balancer(bpffs: Path) -> BalancerProgram:
    """A balancer whose every row has a chain of three owners, with a VIP for each kind of flow."""
    program = BalancerProgram(bpffs, rows=ROWS)
    program.set_settings(node_settings(ROWS))
    program.set_members([MemberEntry(owner, IPv4Address("198.18.2.0") + owner, live=True) for owner in OWNERS])
    program.swap_table(0, struct.pack("=4H", *OWNERS, 0) * ROWS)
    program.set_vips(
        [
            *(host_vip(ends.vip, ends.vip_port, number, 0) for number, ends in enumerate(FLOWS.values(), 1)),
            host_vip(IPIP.vip, IPIP.vip_port, 3, 0, flow_table=True, encapsulation=EncapsulationKind.IPIP),
            host_vip(DATAGRAMS.vip, DATAGRAMS.vip_port, 4, 0, protocol=PROTOCOL_UDP, flow_table=True),
        ]
    )
    # Flows that the flow table knows.
    run(program.descriptor, framed(inner_packet(IPIP, "S")))
    run(program.descriptor, framed(datagram()))
    return program


def datagram() -> Packet:
    header = IP(src=str(DATAGRAMS.client), dst=str(DATAGRAMS.vip))
    return header / UDP(sport=DATAGRAMS.client_port, dport=DATAGRAMS.vip_port) / bytes(12)


def balancer_rows(program: BalancerProgram) -> list[Row]:
    ipv4, ipv6 = FLOWS["ipv4"], FLOWS["ipv6"]
    return [
        Row("gue_tcp_established", program.descriptor, framed(inner_packet(ipv4, "A"))),
        Row("ipip_tcp_established", program.descriptor, framed(inner_packet(IPIP, "A"))),
        Row("gue_tcp6_established", program.descriptor, framed(inner_packet(ipv6, "A"))),
        Row("syn", program.descriptor, framed(inner_packet(ipv4, "S"))),
        Row("udp_known", program.descriptor, framed(datagram())),
    ]


def load_redirector(bpffs: Path) -> RedirectorProgram:
    """A redirector that knows one L4 node, and whom to send second chances to."""
    program = RedirectorProgram(bpffs)
    program.set_settings(v4=PROXY)
    program.set_tunnel_sources([NODE_ADDRESS])
    program.set_members([MemberEntry(owner, IPv4Address("198.18.2.0") + owner, live=True) for owner in OWNERS])
    return program


def redirector_rows(program: RedirectorProgram, local: bytes) -> list[Row]:
    """`local` is the frame of a flow whose socket is here."""
    elsewhere = inner_packet(replace(FLOWS["ipv4"], client_port=50000), "A")
    return [
        Row("redirect_local", program.descriptor, local),
        Row("redirect_next", program.descriptor, through_the_tunnel(elsewhere)),
    ]


def through_the_tunnel(inner: Packet) -> bytes:
    return framed(
        tunnelled(inner, source=NODE_ADDRESS, destination=PROXY, source_port=0xC123, node_id=1, hops=OWNERS[1:])
    )
