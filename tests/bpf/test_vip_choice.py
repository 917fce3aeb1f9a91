"""Which VIP a packet is for: blocks of addresses, ranges of ports, both protocols; and whose frames are looked at."""

import random
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest

from l4.balancer_program import BalancerProgram
from l4.entries import PROTOCOL_TCP, PROTOCOL_UDP, VipEntry
from tests.bpf.balancing import datagram, judge, members, one_owner
from tests.bpf.packets import FLOWS, NODE_MAC, Address, Ends, framed, host_vip, inner_packet, node_settings
from tests.bpf.program_run import Verdict

pytestmark = pytest.mark.kernel

OTHER_MAC = bytes.fromhex("02000000ff02")
CLIENTS = {4: FLOWS["ipv4"].client, 6: FLOWS["ipv6"].client}


@dataclass(frozen=True, slots=True)
class Choice:
    """A VIP among others. Its slot, its id and its only member have the same number."""

    number: int
    network: IPv4Network | IPv6Network
    ports: tuple[int, int]
    protocol: int = PROTOCOL_TCP

    def fits(self, address: Address, port: int, protocol: int) -> bool:
        return address in self.network and self.ports[0] <= port <= self.ports[1] and protocol == self.protocol

    @property
    def entry(self) -> VipEntry:
        flow_table = self.protocol == PROTOCOL_UDP
        return VipEntry(self.network, *self.ports, self.number, self.number, self.protocol, flow_table=flow_table)


CHOICES = (
    Choice(1, ip_network("203.0.113.0/24"), (1, 65535)),
    Choice(2, ip_network("203.0.113.0/24"), (8000, 8999)),
    Choice(3, ip_network("203.0.113.0/24"), (443, 443)),
    Choice(4, ip_network("203.0.113.64/26"), (1000, 8500)),
    Choice(5, ip_network("203.0.113.70/32"), (80, 90)),
    Choice(6, ip_network("203.0.113.70/32"), (443, 443)),
    Choice(7, ip_network("203.0.113.70/32"), (443, 443), PROTOCOL_UDP),
    Choice(8, ip_network("203.0.113.64/26"), (1, 65535), PROTOCOL_UDP),
    Choice(9, ip_network("2001:db8:203::/64"), (1, 65535)),
    Choice(10, ip_network("2001:db8:203::40/122"), (443, 450)),
    Choice(11, ip_network("2001:db8:203::46/128"), (443, 443)),
    Choice(12, ip_network("192.0.2.0/31"), (5000, 6000)),
)
ADDRESSES: tuple[Address, ...] = (
    *(IPv4Address("203.0.113.0") + n for n in (0, 1, 63, 64, 69, 70, 71, 127, 128, 255)),
    IPv4Address("203.0.112.255"),
    IPv4Address("203.0.114.0"),
    *(IPv4Address("192.0.2.0") + n for n in range(3)),
    *(IPv6Address("2001:db8:203::") + n for n in (0, 0x3F, 0x40, 0x46, 0x47, 0x7F, 0x80)),
    IPv6Address("2001:db8:204::"),
)
PORTS = (
    1,
    79,
    80,
    85,
    90,
    91,
    442,
    443,
    444,
    450,
    451,
    999,
    1000,
    4999,
    5000,
    6000,
    6001,
    7999,
    8000,
    8500,
    8501,
    9000,
)


@pytest.fixture(autouse=True)
def _state(balancer: BalancerProgram) -> None:
    balancer.set_settings(node_settings(balancer.rows))
    numbers = [choice.number for choice in CHOICES]
    balancer.set_members(members(*numbers))
    for number in numbers:
        one_owner(balancer, number, number)


def expected(address: Address, port: int, protocol: int) -> int | None:
    """Of the VIPs that fit, the one with the most specific addresses, then the one with the fewest ports."""
    fitting = [choice for choice in CHOICES if choice.fits(address, port, protocol)]
    best = min(fitting, key=lambda c: (-c.network.prefixlen, c.ports[1] - c.ports[0]), default=None)
    return best.number if best else None


def chosen(
    balancer: BalancerProgram, address: Address, port: int, protocol: int, client_port: int = 40000
) -> int | None:
    ends = Ends(CLIENTS[address.version], address, client_port, port)
    judgement = judge(balancer, framed(inner_packet(ends, "A") if protocol == PROTOCOL_TCP else datagram(ends)))
    assert judgement.verdict in (Verdict.TX, Verdict.PASS)
    return judgement.owner


@pytest.mark.parametrize("protocol", [PROTOCOL_TCP, PROTOCOL_UDP], ids=["tcp", "udp"])
def test_most_specific_address_and_then_the_narrowest_range_wins(balancer: BalancerProgram, protocol: int) -> None:
    balancer.set_vips([choice.entry for choice in CHOICES])
    generator = random.Random(protocol)
    random_ports = [generator.randrange(1, 65536) for _ in range(20)]
    for address in ADDRESSES:
        for port in (*PORTS, *random_ports):
            assert chosen(balancer, address, port, protocol) == expected(address, port, protocol), (address, port)


def test_vips_are_counted_apart(balancer: BalancerProgram) -> None:
    balancer.set_vips([choice.entry for choice in CHOICES])
    before = balancer.vip_counters()
    chosen(balancer, IPv4Address("203.0.113.65"), 2000, PROTOCOL_TCP)
    chosen(balancer, IPv4Address("203.0.113.70"), 443, PROTOCOL_TCP)
    after = balancer.vip_counters()
    assert {number for number in after if after[number] != before.get(number, (0, 0))} == {4, 6}


@pytest.mark.parametrize("family", FLOWS)
def test_frames_for_other_machines_are_left_alone(balancer: BalancerProgram, family: str) -> None:
    ends = FLOWS[family]
    balancer.set_vips([host_vip(ends.vip, ends.vip_port, 1, 1)])
    frame = framed(inner_packet(ends, "A"))
    balancer.set_settings(node_settings(balancer.rows, mac=OTHER_MAC))
    assert judge(balancer, frame) == (Verdict.PASS, frame, {})
    balancer.set_settings(node_settings(balancer.rows, mac=bytes.fromhex(NODE_MAC.replace(":", ""))))
    assert judge(balancer, frame).verdict is Verdict.TX


@pytest.mark.parametrize("family", FLOWS)
def test_drops_are_counted_by_vip_and_reason(balancer: BalancerProgram, family: str) -> None:
    ends = FLOWS[family]
    balancer.set_vips([host_vip(ends.vip, ends.vip_port, 7, slot=99)])
    before = balancer.vip_drops().get((7, "no_table"), 0)
    for _ in range(3):
        assert judge(balancer, framed(inner_packet(ends, "A")))[::2] == (Verdict.DROP, {"no_table": 1})
    assert balancer.vip_drops()[7, "no_table"] == before + 3
