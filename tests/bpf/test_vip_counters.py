"""What is counted by VIP: forwarded and dropped packets, and by which reason."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from l4.balancer_program import BalancerProgram
from l4.entries import MemberEntry
from tests.bpf.packets import FLOWS, framed, host_vip, inner_packet, node_settings
from tests.bpf.program_run import Verdict, run

pytestmark = pytest.mark.kernel

ROWS = 997
SERVED, WITHOUT_TABLE = 7, 8
TABLE = (1).to_bytes(8, "little") * ROWS


def vips() -> list[tuple[str, int, int]]:
    return [("ipv4", SERVED, 0), ("ipv6", WITHOUT_TABLE, 1)]


@pytest.fixture
def fed(fresh_bpffs: Path) -> BalancerProgram:
    program = BalancerProgram(fresh_bpffs, rows=ROWS)
    program.set_settings(node_settings(ROWS))
    program.set_members([MemberEntry(1, IPv4Address("198.18.2.11"), live=True)])
    program.swap_table(0, TABLE)
    program.set_vips([host_vip(FLOWS[name].vip, 443, vip_id, slot) for name, vip_id, slot in vips()])
    return program


def test_packets_are_counted_by_vip_and_reason(fed: BalancerProgram, fresh_bpffs: Path) -> None:
    served, dropped = (framed(inner_packet(FLOWS[name], "A")) for name in ("ipv4", "ipv6"))
    assert run(fed.descriptor, served).verdict is Verdict.TX
    for _ in range(3):
        assert run(fed.descriptor, dropped).verdict is Verdict.DROP
    fed.remove_table(0)
    assert run(fed.descriptor, served).verdict is Verdict.DROP
    fed.swap_table(0, bytes(8 * ROWS))
    assert run(fed.descriptor, served).verdict is Verdict.DROP
    assert fed.vip_counters() == {SERVED: (1, 40), WITHOUT_TABLE: (0, 0)}
    told = {(WITHOUT_TABLE, "no_table"): 3, (SERVED, "no_table"): 1, (SERVED, "empty_chain"): 1}
    assert fed.vip_drops() == told
    assert BalancerProgram(fresh_bpffs, rows=ROWS).vip_drops() == told, "they survive a restart"


def test_drops_of_vips_that_are_gone_make_room(fed: BalancerProgram) -> None:
    assert run(fed.descriptor, framed(inner_packet(FLOWS["ipv6"], "A"))).verdict is Verdict.DROP
    fed.set_vips([host_vip(FLOWS["ipv4"].vip, 443, SERVED, 0)])
    assert fed.vip_drops() == {}
