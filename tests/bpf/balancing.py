"""Running the balancer on one frame: what it decided, what came out, and what it counted; and what it is fed with."""

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from l4.balancer_program import BalancerProgram
from l4.entries import PROTOCOL_TCP, PROTOCOL_UDP, MemberEntry
from l4.flow_hash import HashKey, flow_hash, row_of, source_hash
from tests.bpf.packets import KEY, Address, Ends
from tests.bpf.program_run import Verdict, run

_HASH_KEY = HashKey.from_hex(KEY.hex())


class Judgement(NamedTuple):
    """The program's word on a frame."""

    verdict: Verdict
    frame: bytes
    counted: dict[str, int]

    @property
    def owner(self) -> int | None:
        """Id of the member that an untagged frame went to, in GUE over IPv4 from a node of our tests."""
        if self.verdict is not Verdict.TX:
            return None
        return int(IPv4Address(self.frame[30:34])) - int(address_of(0))


def judge(balancer: BalancerProgram, frame: bytes) -> Judgement:
    """Runs the program once."""
    before = balancer.counters()
    outcome = run(balancer.descriptor, frame)
    after = balancer.counters()
    changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    return Judgement(outcome.verdict, outcome.frame, changed)


def address_of(member: int) -> IPv4Address:
    """On the underlay."""
    return IPv4Address("198.18.0.0") + member


def members(*ids: int, live: bool = True) -> list[MemberEntry]:
    """With addresses of ours."""
    return [MemberEntry(member, address_of(member), live=live) for member in ids]


def one_owner(balancer: BalancerProgram, slot: int, owner: int) -> None:
    """All rows of the slot's table have this owner alone."""
    balancer.swap_table(slot, struct.pack("=4H", owner, 0, 0, 0) * balancer.rows)


def an_owner_for_each_row(balancer: BalancerProgram, slot: int) -> None:
    """Row n of the slot's table is owned by member n + 1: owners tell rows. Makes these the members."""
    balancer.set_members(members(*range(1, balancer.rows + 1)))
    balancer.swap_table(slot, b"".join(struct.pack("=4H", member, 0, 0, 0) for member in range(1, balancer.rows + 1)))


def owner_by_row(balancer: BalancerProgram, ends: Ends, protocol: int = PROTOCOL_TCP) -> int:
    """Of a flow, where each row has an owner of its own."""
    hashed = flow_hash(
        _HASH_KEY, ends.client.packed, ends.vip.packed, ends.client_port, ends.vip_port, protocol=protocol
    )
    return 1 + row_of(hashed, balancer.rows)


def owner_by_addresses(balancer: BalancerProgram, ends: Ends, protocol: int = PROTOCOL_UDP) -> int:
    """Of fragments, which have no ports."""
    return 1 + row_of(flow_hash(_HASH_KEY, ends.client.packed, ends.vip.packed, 0, 0, protocol), balancer.rows)


def owner_by_source(balancer: BalancerProgram, client: Address) -> int:
    """Of all that comes from one client, to a VIP that goes by that alone."""
    return 1 + row_of(source_hash(_HASH_KEY, client.packed), balancer.rows)


def datagram(ends: Ends, payload: bytes = b"", extensions: Sequence[Packet] = (), **ip: Any) -> Packet:
    """UDP from the client, from the IP header on."""
    packet = (IPv6 if ends.is_ipv6 else IP)(src=str(ends.client), dst=str(ends.vip), **ip)
    for extension in extensions:
        packet /= extension
    return packet / UDP(sport=ends.client_port, dport=ends.vip_port) / payload
