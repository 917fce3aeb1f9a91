"""What the kernel's tap takes and gives, in Python and as the octets that `l4/bpf/tap.h` and `l4/bpf/tap.c` lay out."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from l4.entries import mapped

_PLAN = struct.Struct("=QQ16s16sIIII")
_COUNTS = struct.Struct("=QQQ")
_NOTE = struct.Struct("=QQIHBB")
_RECORD_HEAD = struct.Struct("=Q24sII")

_IPV4_BITS_BEFORE = 96
"""Of an IPv4 address mapped into IPv6."""
_ALL_ONES = (1 << 128) - 1
_OWNERS_BEHIND = 3


@dataclass(frozen=True, slots=True)
class TapPlan:
    """`struct tap_plan`: what to copy."""

    deadline_ns: int
    """By CLOCK_MONOTONIC; nothing is copied after it, whatever happens to the agent."""
    packets: int
    vip_id: int
    network: IPv4Network | IPv6Network
    """The VIP's addresses: for packets whose VIP cannot be told, as their ports cannot be read."""
    sample: int
    snap_length: int
    drops_only: bool

    @property
    def packed(self) -> bytes:
        before = _IPV4_BITS_BEFORE if self.network.version == 4 else 0
        host_bits = 128 - before - self.network.prefixlen
        mask = (_ALL_ONES >> host_bits << host_bits).to_bytes(16, "big")
        return _PLAN.pack(
            self.deadline_ns,
            self.packets,
            mapped(self.network.network_address),
            mask,
            self.vip_id,
            self.sample,
            self.snap_length,
            self.drops_only,
        )


@dataclass(frozen=True, slots=True)
class TapCounts:
    """`struct tap_counts`: what came of a capture so far."""

    seen: int
    """Packets that the plan is about, sampled or not."""
    taken: int
    """Of these, copied, or lost."""
    lost: int
    """Those that found the ring buffer full."""

    SIZE = _COUNTS.size

    @classmethod
    def unpack(cls, octets: bytes) -> "TapCounts":
        return cls(*_COUNTS.unpack(octets))


@dataclass(frozen=True, slots=True)
class TapNote:
    """`struct tap_note`: what the balancer noted about a packet that it had finished with."""

    hash: int
    """Of the flow; 0 if it was not forwarded."""
    rest: tuple[int, ...]
    """Ids of the owners behind the one that it went to."""
    vip_id: int
    """0 if it could not be told."""
    owner: int
    """Member id; 0 if the packet was not forwarded."""
    verdict: int
    """`enum xdp_action`."""
    reason: int | None
    """Index of the counter that says why the packet was not forwarded."""

    SIZE = _NOTE.size

    @classmethod
    def unpack(cls, octets: bytes) -> "TapNote":
        hashed, rest, vip_id, owner, verdict, reason = _NOTE.unpack(octets)
        behind = tuple(rest >> 16 * position & 0xFFFF for position in range(_OWNERS_BEHIND))
        return cls(
            hash=hashed,
            rest=tuple(member for member in behind if member),
            vip_id=vip_id,
            owner=owner,
            verdict=verdict,
            reason=reason - 1 if reason else None,
        )

    @classmethod
    def of_all_cpus(cls, values: bytes) -> "TapNote | None":
        """The one note in the values of all CPUs; None if no packet was noted."""
        notes = (values[start : start + cls.SIZE] for start in range(0, len(values), cls.SIZE))
        return next((cls.unpack(note) for note in notes if any(note)), None)


@dataclass(frozen=True, slots=True)
class TapRecord:
    """`struct tap_record`: one packet, and what the balancer noted about it."""

    at_ns: int
    """CLOCK_MONOTONIC."""
    note: TapNote
    length: int
    octets: bytes

    @classmethod
    def unpack(cls, record: bytes) -> "TapRecord":
        at_ns, note, length, kept = _RECORD_HEAD.unpack_from(record)
        head = _RECORD_HEAD.size
        return cls(at_ns=at_ns, note=TapNote.unpack(note), length=length, octets=record[head : head + kept])
