"""What is counted by VIP: forwarded and dropped packets, and by which reason."""

from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest

from l4.attachment import XdpMode
from l4.balancer_program import BalancerProgram
from l4.entries import MemberEntry
from l4.guard_lists import Listing
from tests.bpf.packets import FLOWS, framed, host_vip, inner_packet, node_settings
from tests.bpf.program_run import Verdict, run
from tests.bpf.veth import NODE, feed, lost_during

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


def totals(program: BalancerProgram) -> tuple[int, int]:
    """Packets that were forwarded, and that were blocked."""
    counters = program.counters()
    return counters["forwarded"], counters["blocked"]


def send(program: BalancerProgram, packets: int, *, is_blocked: bool) -> None:
    client = FLOWS["ipv4"].client
    program.guard.set_lists({ip_network(client): Listing.BLOCKED} if is_blocked else {})
    program.set_settings(node_settings(ROWS, lists_ipv4=is_blocked))
    for _ in range(packets):
        verdict = run(program.descriptor, framed(inner_packet(FLOWS["ipv4"], "A"))).verdict
        assert verdict is (Verdict.DROP if is_blocked else Verdict.TX)


def test_totals_outlive_vips_and_restarts(fed: BalancerProgram, fresh_bpffs: Path) -> None:
    served = host_vip(FLOWS["ipv4"].vip, 443, SERVED, 0)
    send(fed, 3, is_blocked=False)
    send(fed, 2, is_blocked=True)
    assert totals(fed) == (3, 2)
    assert fed.vip_drops() == {(SERVED, "blocked"): 2}
    for _ in range(2):
        fed.set_vips([])
        assert totals(fed) == (3, 2)
        assert (fed.vip_counters(), fed.vip_drops()) == ({}, {})
    restarted = BalancerProgram(fresh_bpffs, rows=ROWS)
    assert totals(restarted) == (3, 2)
    restarted.set_vips([served])
    assert restarted.vip_counters() == {SERVED: (0, 0)}, "it begins anew"
    send(restarted, 5, is_blocked=True)
    send(restarted, 7, is_blocked=False)
    once_more = BalancerProgram(fresh_bpffs, rows=ROWS)
    for program in (restarted, once_more):
        assert totals(program) == (10, 7)
    once_more.set_vips([host_vip(FLOWS["ipv4"].vip, 443, SERVED + 1, 0)])
    assert totals(once_more) == (10, 7)
    assert once_more.vip_counters() == {SERVED + 1: (0, 0)}


def test_no_packet_is_missed_that_is_under_way_while_its_vip_goes(pair: None, fresh_bpffs: Path) -> None:
    program = BalancerProgram(fresh_bpffs, rows=ROWS)
    feed(program)
    program.attach(NODE, XdpMode.AUTO)

    def change_ids() -> None:
        for vip_id in range(2, 22):
            program.set_vips([host_vip(ends.vip, ends.vip_port, vip_id, 0) for ends in FLOWS.values()])

    sent, lost = lost_during(change_ids)
    assert (sent > 16, lost) == (True, 0)
    assert program.counters()["forwarded"] == sent
    BalancerProgram.detach(NODE)
