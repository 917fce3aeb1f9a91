"""The packets that are measured: each row a program, as the product loads and feeds it, and a frame."""

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from random import Random

from scapy.layers.inet import IP, UDP
from scapy.packet import Packet

from l4.balancer_program import BalancerProgram
from l4.entries import PROTOCOL_UDP, EncapsulationKind, MemberEntry
from l4.guard import RateLimit, VipLimits
from l4.guard_lists import Listing
from l4.redirector_program import RedirectorProgram
from tests.bench.reference import ReferencePrograms
from tests.bpf.packets import FLOWS, NODE_ADDRESS, framed, host_vip, inner_packet, node_settings, tunnelled
from tests.bpf.program_run import run

ROWS = 65537
OWNERS = (11, 22, 33)
PROXY = IPv4Address("198.18.2.11")

IPIP = replace(FLOWS["ipv4"], vip_port=8443)
#: Their addresses differ in the last octet.
BLOCKED, NEIGHBOUR = IPv4Address("198.51.101.99"), IPv4Address("198.51.101.7")
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


def guarded_rows(program: BalancerProgram) -> list[Row]:
    """The same balancer with a long block list, and limits that nobody reaches."""
    program.set_settings(node_settings(ROWS, lists_ipv4=True, lists_ipv6=True))
    program.guard.set_lists(dict.fromkeys(block_list(), Listing.BLOCKED))
    plenty = RateLimit(per_second=1_000_000, burst=1_000_000)
    program.guard.set_limits(VipLimits(source=plenty, vip=plenty, node=plenty), {})
    frames = {
        "gue_tcp_established_10k_blocks": inner_packet(FLOWS["ipv4"], "A"),
        "gue_tcp_established_neighbour_blocked": inner_packet(replace(FLOWS["ipv4"], client=NEIGHBOUR), "A"),
        "gue_tcp6_established_10k_blocks": inner_packet(FLOWS["ipv6"], "A"),
        "syn_with_limits": inner_packet(FLOWS["ipv4"], "S"),
        "blocklist_drop": inner_packet(replace(FLOWS["ipv4"], client=BLOCKED), "A"),
    }
    return [Row(name, program.descriptor, framed(packet)) for name, packet in frames.items()]


def block_list() -> list[IPv4Network | IPv6Network]:
    """10,000 prefixes as such lists have them, drawn with a seed, none of a client but of the one that is `BLOCKED`."""
    random = Random(10_000)
    listed: set[IPv4Network | IPv6Network] = {IPv4Network(BLOCKED)}
    while len(listed) < 8_000:
        length = random.choice([16, 20, 22, 24, 24, 24, 28, 32, 32, 32, 32])
        network = IPv4Network((random.randrange(1 << 24, 224 << 24), length), strict=False)
        if not any(ends.client in network for ends in FLOWS.values()):
            listed.add(network)
    while len(listed) < 10_000:
        length = random.choice([32, 48, 56, 64, 64, 128])
        listed.add(IPv6Network((0x2A << 120 | random.randrange(1 << 120), length), strict=False))
    return sorted(listed, key=str)


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
