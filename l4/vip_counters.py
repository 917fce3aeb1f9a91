"""What the balancer counts by VIP: packets and octets forwarded, and packets dropped, by the reason.

Packets that are forwarded, and those that the guard refuses, are counted by VIP alone: it saves each a counter. Their
totals are sums over VIPs. So that these never fall, what was counted of VIPs that are gone is added to nobody's entry.
"""

import struct
from collections.abc import Collection

from l4.bpf_map import Map
from l4.guard import REASONS
from l4.pins import ProgramPins
from l4.shared_maps import U32, total, wait_for_packets

#: No VIP has this id: the entry of those that are gone.
_NOBODY = 0

#: Counters that are sums over VIPs and not in the map of all counters, or not as a whole.
SUMMED_OVER_VIPS = ("forwarded", *REASONS)

_WORD = struct.Struct("=Q")
_VIP_DROP = struct.Struct("=II")


class VipCounters:
    """`vip_traffic`, `vip_refusals` and `vip_drops`. Not to be used by two threads at once."""

    def __init__(self, pins: ProgramPins, reasons: tuple[str, ...], vip_ids: Collection[int]) -> None:
        """`reasons` are the program's counters by index, `vip_ids` the present VIPs'."""
        self._reasons = reasons
        self._vip_ids = vip_ids
        self._traffic = pins.open("vip_traffic")
        self._refusals = pins.open("vip_refusals")
        self._drops = pins.open("vip_drops")

    def forwarded(self) -> dict[int, tuple[int, int]]:
        """Packets and octets (of inner IP packets), by VIP."""
        return {vip_id: self._forwarded(vip_id) for vip_id in self._vip_ids}

    def dropped(self) -> dict[tuple[int, str], int]:
        """Packets, by VIP and by the name of the counter that says why."""
        dropped = {
            (vip_id, self._reasons[reason]): total(value)
            for key, value in self._drops.items()
            for vip_id, reason in (_VIP_DROP.unpack(key),)
            if reason < len(self._reasons)
        }
        for vip_id in self._vip_ids:
            refused = zip(REASONS, _totals(self._refusals, vip_id), strict=True)
            dropped |= {(vip_id, reason): packets for reason, packets in refused if packets}
        return dropped

    def totals(self) -> dict[str, int]:
        """Packets that were counted by VIP alone, by the counter's name: of all VIPs that there ever were."""
        entries = (_NOBODY, *self._vip_ids)
        refused = zip(*(_totals(self._refusals, entry) for entry in entries), strict=True)
        return {
            "forwarded": sum(self._forwarded(entry)[0] for entry in entries),
            **{reason: sum(packets) for reason, packets in zip(REASONS, refused, strict=True)},
        }

    def forget_all_but(self, vip_ids: Collection[int]) -> None:
        """The VIPs are now these, and the maps by which packets find them say so already.

        What was counted of others stays in the totals, and makes room in the map that is bounded: VIPs come and go, and
        their ids are not used again.
        """
        gone = set(self._vip_ids) - set(vip_ids)
        if gone:
            wait_for_packets()  # nobody counts for them any more
        self._vip_ids = vip_ids
        for vip_id in gone:
            _add_to_nobody(self._traffic, vip_id)
            _add_to_nobody(self._refusals, vip_id)
        self._drops.delete_many([key for key, _ in self._drops.items() if _VIP_DROP.unpack(key)[0] not in vip_ids])

    def _forwarded(self, vip_id: int) -> tuple[int, int]:
        packets, octets = _totals(self._traffic, vip_id)
        return packets, octets


def _words(octets: bytes) -> list[int]:
    return [word for (word,) in _WORD.iter_unpack(octets)]


def _totals(counted: Map, vip_id: int) -> list[int]:
    """The values of an entry, each summed over CPUs."""
    words = _words(counted.lookup(U32.pack(vip_id)) or bytes(counted.value_octets))
    values = counted.shape.value_size // _WORD.size
    return [sum(words[value::values]) for value in range(values)]


def _add_to_nobody(counted: Map, vip_id: int) -> None:
    """CPU by CPU. In this order, so that whoever dies in between has lost nothing."""
    none = bytes(counted.value_octets)
    values = counted.lookup(U32.pack(vip_id)) or none
    if values != none:
        before = counted.lookup(U32.pack(_NOBODY)) or none
        sums = (one + other for one, other in zip(_words(before), _words(values), strict=True))
        counted.update(U32.pack(_NOBODY), b"".join(map(_WORD.pack, sums)))
        counted.update(U32.pack(vip_id), none)
