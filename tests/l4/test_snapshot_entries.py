"""From snapshots to kernel entries: what contradicts itself is refused before anything is touched."""

from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest

from l4.attachment import XdpMode
from l4.balancer import BalancerAgent
from l4.bird import Bird
from l4.entries import MemberEntry, VipEntry
from l4.redirector import RedirectorAgent
from l4.snapshot_entries import member_entries, vip_entries
from orchestrator.contract.client import SnapshotRefused
from orchestrator.contract.pool import Generation, Member, MemberState, PoolForwarding
from tests.l4.edge import ACTIVE, SETTINGS, VIPS, balancer_snapshot, redirector_snapshot


def pool(name: str, slot: int, *members: tuple[int, str, bool], redirectors: bool = True) -> PoolForwarding:
    return PoolForwarding(
        name=name,
        slot=slot,
        redirectors=redirectors,
        members=tuple(
            Member(id=i, name=f"m-{i}", address=IPv4Address(a), state=MemberState.ACTIVE, reachable=r)
            for i, a, r in members
        ),
        generations=(Generation(number=1, members=()),),
    )


EDGE = pool("edge", 3, (2, "198.18.2.12", True), (1, "198.18.2.11", False), redirectors=False)


def test_vips_name_their_pools_slot_and_need_the_flow_table_without_redirectors() -> None:
    assert vip_entries(VIPS[:1], [EDGE]) == [
        VipEntry(ip_network("203.0.113.10"), 443, 443, vip_id=1, slot=3, flow_table=True)
    ]
    assert not vip_entries(VIPS[:1], [ACTIVE])[0].flow_table


def test_a_member_of_two_pools_is_one_entry() -> None:
    other = pool("other", 4, (2, "198.18.2.12", True))
    assert member_entries([EDGE, other]) == [
        MemberEntry(id=1, address=IPv4Address("198.18.2.11"), live=False),
        MemberEntry(id=2, address=IPv4Address("198.18.2.12"), live=True),
    ]


def test_one_id_for_two_hosts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"member id 2 is both 198.18.2.12 and 198.18.2.99"):
        member_entries([EDGE, pool("other", 4, (2, "198.18.2.99", True))])


def test_a_vip_of_an_unknown_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="VIP web-v4 forwards to pool edge, which"):
        vip_entries(VIPS, [])


def balancer(directory: Path) -> BalancerAgent:
    return BalancerAgent(interface="none", bpffs=directory, xdp_mode=XdpMode.AUTO, bird=Bird(directory / "bird"))


async def test_agents_refuse_a_table_that_cannot_be_built_without_touching_anything(tmp_path: Path) -> None:
    rows = SETTINGS.model_copy(update={"rows": 4098})
    agent = balancer(tmp_path)
    with pytest.raises(SnapshotRefused, match="prime number of rows, and 4098 is not: try 4099"):
        await agent.apply(balancer_snapshot(1, ACTIVE).model_copy(update={"forwarding": rows}))
    status = await agent.status()
    assert (status.xdp_mode, status.tables, status.announced) == ("detached", (), ())
    assert status.counters["snapshots_refused"] == 1
    redirector = RedirectorAgent(interface="none", bpffs=tmp_path, xdp_mode=XdpMode.AUTO)
    with pytest.raises(SnapshotRefused, match="prime"):
        await redirector.apply(redirector_snapshot(1, 1, ACTIVE).model_copy(update={"forwarding": rows}))


async def test_agents_refuse_each_others_snapshots(tmp_path: Path) -> None:
    with pytest.raises(SnapshotRefused, match="a balancer cannot run a snapshot for a redirector"):
        await balancer(tmp_path).apply(redirector_snapshot(1, 1, ACTIVE))


async def test_a_directory_that_is_no_bpffs_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SnapshotRefused, match="is not a bpffs; mount one there"):
        await balancer(tmp_path).apply(balancer_snapshot(1, ACTIVE))
