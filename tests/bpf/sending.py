"""A balancer whose every flow goes to one member, by one encapsulation over one family."""

import struct
from typing import Any

from l4.balancer_program import BalancerProgram
from l4.entries import PROTOCOL_TCP, PROTOCOL_UDP, EncapsulationKind, MemberEntry
from tests.bpf.packets import FLOWS, host_vip, node_settings
from tests.bpf.program_run import Outcome, run
from tests.bpf.tunnel_frames import L4_NODE, UNDERLAYS, Underlay

MEMBER = 11
CHAIN = (MEMBER, 22, 33)
MEMBER_MAC = "02:00:00:00:00:11"
SLOT = 3
#: What each encapsulation puts before the inner packet, by the outer family.
OVERHEADS = {
    (EncapsulationKind.GUE, "over-ipv4"): 44,
    (EncapsulationKind.GUE, "over-ipv6"): 64,
    (EncapsulationKind.IPIP, "over-ipv4"): 20,
    (EncapsulationKind.IPIP, "over-ipv6"): 40,
    (EncapsulationKind.L2, "over-ipv4"): 0,
    (EncapsulationKind.L2, "over-ipv6"): 0,
}


def feed(balancer: BalancerProgram, kind: EncapsulationKind, underlay: str, **settings: Any) -> Underlay:
    """VIPs for TCP and UDP of both families, and the one member that takes all of their rows."""
    addresses = UNDERLAYS[underlay]
    node = {"node_id": L4_NODE, "source_v6": UNDERLAYS["over-ipv6"].node, **settings}
    balancer.set_settings(node_settings(balancer.rows, **node))
    balancer.swap_table(SLOT, struct.pack("=4H", *CHAIN, 0) * balancer.rows)
    mac = bytes.fromhex(MEMBER_MAC.replace(":", ""))
    balancer.set_members([MemberEntry(member, addresses.member(member), live=True, mac=mac) for member in CHAIN])
    balancer.set_vips(
        [
            host_vip(ends.vip, ends.vip_port, number, SLOT, protocol=protocol, encapsulation=kind)
            for number, (ends, protocol) in enumerate(
                ((ends, protocol) for ends in FLOWS.values() for protocol in (PROTOCOL_TCP, PROTOCOL_UDP)), start=1
            )
        ]
    )
    return addresses


def outcome_of(balancer: BalancerProgram, frame: bytes) -> tuple[Outcome, dict[str, int]]:
    """What became of the frame, and what was counted meanwhile."""
    before = balancer.counters()
    outcome = run(balancer.descriptor, frame)
    after = balancer.counters()
    return outcome, {name: after[name] - before[name] for name in after if after[name] != before[name]}
