"""The index of VIPs: packets find in it what the agent put there, and past it what did not fit."""

import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from l4.balancer_program import BalancerProgram
from l4.entries import MemberEntry, VipEntry
from l4.vip_index_table import INDEX_BITS, index_of, place_of
from tests.bpf.packets import FLOWS, Ends, framed, host_vip, inner_packet, node_settings
from tests.bpf.program_run import Verdict, run
from tests.bpf.test_pinned_maps import MEMBER

pytestmark = pytest.mark.kernel


@pytest.fixture
def serving(balancer: BalancerProgram) -> Iterator[BalancerProgram]:
    """Without VIPs, but ready for some."""
    balancer.set_settings(node_settings(balancer.rows))
    balancer.set_members([MemberEntry(MEMBER.id, MEMBER.address, live=True)])
    balancer.swap_table(0, struct.pack("=4H", MEMBER.id, 0, 0, 0) * balancer.rows)
    yield balancer
    balancer.set_vips([])


def entry(ends: Ends, vip_id: int) -> VipEntry:
    return host_vip(ends.vip, ends.vip_port, vip_id, 0)


def service_of(ends: Ends) -> bytes:
    mapped = ends.vip.packed if ends.is_ipv6 else bytes(10) + b"\xff\xff" + ends.vip.packed
    return mapped + struct.pack("!HBx", ends.vip_port, 6)


def counted(balancer: BalancerProgram, ends: Ends) -> dict[int, int]:
    """Which VIPs a packet is counted for, and what becomes of it."""
    before = balancer.vip_counters()
    verdict = run(balancer.descriptor, framed(inner_packet(ends, "A"))).verdict
    after = balancer.vip_counters()
    found = {vip_id: packets - before[vip_id][0] for vip_id, (packets, _) in after.items()}
    assert verdict == (Verdict.TX if any(found.values()) else Verdict.PASS)
    return {vip_id: packets for vip_id, packets in found.items() if packets}


@pytest.mark.parametrize("port", [1, 443, 65535])
@pytest.mark.parametrize("family", FLOWS)
def test_the_program_looks_where_the_agent_put_it(serving: BalancerProgram, family: str, port: int) -> None:
    ends = replace(FLOWS[family], vip_port=port)
    serving.set_vips([entry(ends, 1), entry(replace(ends, vip_port=80), 2)])
    for name in ("vips", "vip_prefixes"):
        with serving._pins.open(name) as behind_the_index:
            behind_the_index.delete_many([key for key, _ in behind_the_index.items()])
    assert counted(serving, ends) == {1: 1}
    assert counted(serving, replace(ends, vip_port=81)) == {}


@pytest.mark.parametrize("family", FLOWS)
def test_two_that_fall_to_one_place_are_both_found(serving: BalancerProgram, family: str) -> None:
    first = FLOWS[family]
    place = place_of(service_of(first))
    second = next(
        other
        for other in (replace(first, vip_port=port) for port in range(1000, 65536))
        if place_of(service_of(other)) == place
    )
    serving.set_vips([entry(first, 1), entry(second, 2)])
    assert counted(serving, first) == {1: 1}
    assert counted(serving, second) == {2: 1}


def test_a_vip_that_is_gone_or_changed_is_so_in_the_index(serving: BalancerProgram) -> None:
    ends = FLOWS["ipv4"]
    serving.set_vips([entry(ends, 1)])
    serving.set_vips([entry(ends, 2)])
    assert counted(serving, ends) == {2: 1}
    serving.set_vips([])
    assert counted(serving, ends) == {}


def test_most_of_a_thousand_vips_are_in_the_index() -> None:
    """Two for each of 512 addresses, as they follow one another in a block."""
    octets = [198 << 24 | 18 << 16 | number for number in range(512)]
    services = [
        bytes(10) + b"\xff\xff" + address.to_bytes(4, "big") + struct.pack("!HBx", port, 6)
        for address in octets
        for port in (80, 443)
    ]
    index = index_of(dict.fromkeys(services, bytes(range(8))))
    assert len(index) == 32 << INDEX_BITS
    assert sum(service in index for service in services) >= 0.8 * len(services)
