"""The mark by which the kernel knows a probe's packets, and the member that they are for (SO_MARK, socket(7)).

Upper half: a magic number, whose lowest two bits are the encapsulation; lower half: the member's id. `l4/bpf/probe.c`
reads it, and takes it off again. Rules for other marks on an L4 node (ip-rule(8) fwmark, nftables) leave these alone
unless they match on them: docs/health.md names the range.
"""

from typing import Final

from l4.entries import EncapsulationKind

MAGIC: Final = 0xED60


def probe_mark(member_id: int, encapsulation: EncapsulationKind) -> int:
    """Of packets that shall go to this member as its pool's packets do."""
    return (MAGIC | encapsulation) << 16 | member_id
