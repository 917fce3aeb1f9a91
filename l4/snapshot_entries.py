"""From a snapshot to the entries that the kernel programs take."""

from collections.abc import Iterable, Sequence

from l4.entries import PROTOCOL_TCP, PROTOCOL_UDP, EncapsulationKind, MemberEntry, VipEntry
from orchestrator.contract.pool import Encapsulation, Member, PoolForwarding
from orchestrator.contract.vip import FlowHash, Protocol, Vip

_PROTOCOLS = {Protocol.TCP: PROTOCOL_TCP, Protocol.UDP: PROTOCOL_UDP}
_ENCAPSULATIONS = {
    Encapsulation.GUE: EncapsulationKind.GUE,
    Encapsulation.IPIP: EncapsulationKind.IPIP,
    Encapsulation.L2: EncapsulationKind.L2,
}


def vip_entries(vips: Iterable[Vip], pools: Sequence[PoolForwarding]) -> list[VipEntry]:
    """One entry per VIP. Raises ValueError for a VIP whose pool is not in the snapshot."""
    pool_of_name = {pool.name: pool for pool in pools}
    entries = []
    for vip in vips:
        pool = pool_of_name.get(vip.pool)
        if pool is None:
            raise ValueError(f"VIP {vip.name} forwards to pool {vip.pool}, which the snapshot does not describe")
        entries.append(
            VipEntry(
                network=vip.network,
                first_port=vip.ports[0],
                last_port=vip.ports[1],
                vip_id=vip.id,
                slot=pool.slot,
                protocol=_PROTOCOLS[vip.protocol],
                flow_table=uses_flow_table(vip, pool),
                hash_source=vip.flow_hash is FlowHash.SOURCE,
                quic=vip.quic,
                encapsulation=_ENCAPSULATIONS[pool.encapsulation],
            )
        )
    return entries


def uses_flow_table(vip: Vip, pool: PoolForwarding) -> bool:
    """Whether the VIP's open flows go by the flow table: no redirector could find them again."""
    return not pool.redirectors or vip.protocol is Protocol.UDP


def member_entries(pools: Iterable[PoolForwarding]) -> list[MemberEntry]:
    """One entry per member of any pool, by id. Raises ValueError if one id stands for two hosts."""
    members: dict[int, Member] = {}
    for member in (member for pool in pools for member in pool.members):
        known = members.setdefault(member.id, member)
        if known.address != member.address:
            raise ValueError(f"member id {member.id} is both {known.address} and {member.address}")
    return [
        MemberEntry(id=member.id, address=member.address, live=member.reachable)
        for _, member in sorted(members.items())
    ]
