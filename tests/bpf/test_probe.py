"""Probes leave as clients' packets do: every encapsulation, inner and outer family, read by scapy."""

import ctypes
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from l4.balancer_program import BalancerProgram
from l4.bpf_call import Command, attributes, bpf
from l4.entries import EncapsulationKind, MemberEntry
from l4.probes.mark import MAGIC, probe_mark
from l4.probes.program import ProbeProgram
from tests.bpf.packets import CLIENT_MAC, FLOWS, NODE_ADDRESS, NODE_MAC, Ends, Gue, inner_packet, node_settings
from tests.bpf.veth import NODE

pytestmark = pytest.mark.kernel

NODE_V6 = IPv6Address("2001:db8:1::11")
MEMBER = 0x0B16
MEMBERS = {
    "over-ipv4": MemberEntry(MEMBER, IPv4Address("198.18.2.22"), live=False, mac=bytes.fromhex("020000000022")),
    "over-ipv6": MemberEntry(MEMBER, IPv6Address("2001:db8:2::22"), live=False, mac=bytes.fromhex("020000000022")),
}
UNSPEC, OK, SHOT = -1, 0, 2
KINDS = {kind.name.lower(): kind for kind in EncapsulationKind}
SETTINGS: dict[str, Any] = {"source_v6": NODE_V6}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the frame, and its mark."""

    verdict: int
    frame: bytes
    mark: int


#: `struct __sk_buff`: the mark is its third field.
_SKB_OCTETS = 192
_MARK_OFFSET = 8


def run(descriptor: int, frame: bytes, mark: int) -> Outcome:
    """The classifier, on one marked frame."""
    source, result = ctypes.create_string_buffer(frame, len(frame)), ctypes.create_string_buffer(4096)
    context_in = ctypes.create_string_buffer(_SKB_OCTETS)
    struct.pack_into("=I", context_in, _MARK_OFFSET, mark)
    context_out = ctypes.create_string_buffer(_SKB_OCTETS)
    call = attributes(
        struct.pack(
            "=IIIIQQIIIIQQII",
            *(descriptor, 0, len(frame), 4096),
            *(ctypes.addressof(source), ctypes.addressof(result)),
            *(1, 0, _SKB_OCTETS, _SKB_OCTETS),
            *(ctypes.addressof(context_in), ctypes.addressof(context_out)),
            *(0, 0),
        )
    )
    bpf(Command.PROG_TEST_RUN, call)
    verdict, _, size = struct.unpack_from("=iII", call, 4)
    return Outcome(verdict, result.raw[:size], struct.unpack_from("=I", context_out, _MARK_OFFSET)[0])


@pytest.fixture(scope="module")
def probe(balancer: BalancerProgram) -> Iterator[ProbeProgram]:
    """On the balancer's maps."""
    loaded = ProbeProgram(balancer.pins, balancer.definitions)
    yield loaded
    loaded.close()


@pytest.fixture(autouse=True)
def settings(balancer: BalancerProgram) -> None:
    balancer.set_settings(node_settings(balancer.rows, **SETTINGS))


def sent(ends: Ends, **ip: Any) -> Packet:
    """What the kernel is about to send: a SYN to the VIP, by way of a router."""
    return Ether(src=NODE_MAC, dst=CLIENT_MAC) / inner_packet(ends, "S", **ip)


def told(probe: ProbeProgram, before: dict[str, int]) -> dict[str, int]:
    return {name: number - before[name] for name, number in probe.outcomes().items() if number != before[name]}


@pytest.mark.parametrize("over", MEMBERS)
@pytest.mark.parametrize("flow", FLOWS)
def test_gue_with_an_empty_chain(balancer: BalancerProgram, probe: ProbeProgram, flow: str, over: str) -> None:
    balancer.set_members([MEMBERS[over]])
    ends, before = FLOWS[flow], probe.outcomes()
    frame = sent(ends, **({"tc": 0xB9} if ends.is_ipv6 else {"tos": 0xB9}))
    outcome = run(probe.descriptor, bytes(frame), probe_mark(MEMBER, EncapsulationKind.GUE))
    assert (outcome.verdict, outcome.mark, told(probe, before)) == (OK, 0, {"sent": 1})
    left = Ether(outcome.frame)
    assert (left.src, left.dst) == (NODE_MAC, CLIENT_MAC)
    check_outer(left, over, frame[IPv6 if ends.is_ipv6 else IP])
    assert (left[UDP].dport, left[UDP].chksum) == (6080, 0)
    assert left[UDP].sport >= 49152
    assert left[UDP].len == len(bytes(left[UDP]))
    gue = left[Gue]
    assert (gue.hlen, gue.version, gue.next_hop, gue.hop_count, gue.reserved) == (3, 1, 0, 0, 0)
    assert (gue.protocol, gue.l4_node, gue.hops) == (41 if ends.is_ipv6 else 4, 1, [0, 0, 0])
    assert bytes(gue.payload) == bytes(frame.payload)


@pytest.mark.parametrize("over", MEMBERS)
@pytest.mark.parametrize("flow", FLOWS)
def test_ip_in_ip(balancer: BalancerProgram, probe: ProbeProgram, flow: str, over: str) -> None:
    balancer.set_members([MEMBERS[over]])
    ends = FLOWS[flow]
    frame = sent(ends)
    outcome = run(probe.descriptor, bytes(frame), probe_mark(MEMBER, EncapsulationKind.IPIP))
    assert (outcome.verdict, outcome.mark) == (OK, 0)
    left = Ether(outcome.frame)
    check_outer(left, over, frame[IPv6 if ends.is_ipv6 else IP])
    outer = left.payload
    assert (outer.nh if over == "over-ipv6" else outer.proto) == (41 if ends.is_ipv6 else 4)
    assert bytes(outer.payload) == bytes(frame.payload)


@pytest.mark.parametrize("flow", FLOWS)
def test_l2_goes_to_the_members_own_address(balancer: BalancerProgram, probe: ProbeProgram, flow: str) -> None:
    balancer.set_members([MEMBERS["over-ipv4"]])
    frame = sent(FLOWS[flow])
    outcome = run(probe.descriptor, bytes(frame), probe_mark(MEMBER, EncapsulationKind.L2))
    assert (outcome.verdict, outcome.mark) == (OK, 0)
    frame.dst = "02:00:00:00:00:22"
    assert outcome.frame == bytes(frame)


def check_outer(left: Packet, over: str, inner: Packet) -> None:
    traffic_class = (inner.tc if isinstance(inner, IPv6) else inner.tos) & 0xFC
    outer = left.payload
    if over == "over-ipv6":
        assert (left.type, outer.src, outer.dst) == (0x86DD, str(NODE_V6), "2001:db8:2::22")
        assert (outer.tc, outer.hlim, outer.plen) == (traffic_class, 64, len(bytes(outer.payload)))
        assert outer.fl
        return
    assert (left.type, outer.src, outer.dst) == (0x0800, str(NODE_ADDRESS), "198.18.2.22")
    assert (outer.tos, outer.ttl, outer.flags, outer.len) == (traffic_class, 64, "DF", len(bytes(outer)))
    checksum = outer.chksum
    del outer.chksum
    assert IP(bytes(outer)).chksum == checksum


@pytest.mark.parametrize("mark", [0, 1, MEMBER, (MAGIC - 4) << 16 | MEMBER, (MAGIC + 4) << 16 | MEMBER, 0xFFFFFFFF])
def test_what_is_not_marked_as_a_probe_is_left_alone(balancer: BalancerProgram, probe: ProbeProgram, mark: int) -> None:
    balancer.set_members([MEMBERS["over-ipv4"]])
    frame = bytes(sent(FLOWS["ipv4"]))
    before = probe.outcomes()
    outcome = run(probe.descriptor, frame, mark)
    assert (outcome.verdict, outcome.frame, outcome.mark) == (UNSPEC, frame, mark)
    assert told(probe, before) == {}


@pytest.mark.parametrize(
    ("changes", "member", "kind", "reason"),
    {
        "unknown member": ({}, None, "gue", "member_unknown"),
        "no IPv6 source": ({"source_v6": None}, "over-ipv6", "gue", "no_source"),
        "no route": ({"fib": True}, "over-ipv4", "gue", "no_route"),
    }.values(),
)
def test_what_finds_no_way_is_dropped_and_counted(
    balancer: BalancerProgram, probe: ProbeProgram, changes: dict[str, Any], member: str | None, kind: str, reason: str
) -> None:
    balancer.set_settings(node_settings(balancer.rows, **SETTINGS | changes))
    balancer.set_members([MEMBERS[member]] if member else [])
    before = probe.outcomes()
    outcome = run(probe.descriptor, bytes(sent(FLOWS["ipv4"])), probe_mark(MEMBER, KINDS[kind]))
    assert (outcome.verdict, told(probe, before)) == (SHOT, {reason: 1})


def test_an_l2_member_whose_address_is_not_known_yet(balancer: BalancerProgram, probe: ProbeProgram) -> None:
    balancer.set_members([MemberEntry(MEMBER, IPv4Address("198.18.2.22"), live=True)])
    before = probe.outcomes()
    outcome = run(probe.descriptor, bytes(sent(FLOWS["ipv4"])), probe_mark(MEMBER, EncapsulationKind.L2))
    assert (outcome.verdict, told(probe, before)) == (SHOT, {"no_mac": 1})


def test_it_stands_beside_the_filters_of_others(probe: ProbeProgram, pair: None) -> None:
    def filters() -> str:
        return subprocess.run(
            ["tc", "filter", "show", "dev", NODE, "egress"], capture_output=True, text=True, check=True
        ).stdout

    assert not ProbeProgram.is_attached(NODE)
    assert not ProbeProgram.detach(NODE)
    subprocess.run(["tc", "qdisc", "add", "dev", NODE, "clsact"], check=True)
    with IPRoute() as netlink:
        netlink.tc(
            "add-filter",
            "bpf",
            socket.if_nametoindex(NODE),
            parent=0xFFFFFFF3,
            prio=7,
            protocol=3,
            fd=probe.descriptor,
            name="foreign",
            direct_action=True,
        )
    foreign = filters()
    for _ in range(2):  # once more replaces it
        probe.attach(NODE)
        assert ProbeProgram.is_attached(NODE)
        assert filters().count("handle 0x1 edge_probe") == 1
    assert ProbeProgram.detach(NODE)
    assert not ProbeProgram.is_attached(NODE)
    assert filters() == foreign
