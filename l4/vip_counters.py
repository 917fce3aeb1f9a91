"""What the balancer counts by VIP: packets and octets forwarded, and packets dropped, by the reason."""

import struct
from collections.abc import Container, Iterable

from l4.pins import ProgramPins
from l4.shared_maps import U32, total

_TRAFFIC = struct.Struct("=QQ")
_VIP_DROP = struct.Struct("=II")


class VipCounters:
    """`vip_traffic` and `vip_drops`. Not to be used by two threads at once."""

    def __init__(self, pins: ProgramPins, reasons: tuple[str, ...]) -> None:
        """`reasons` are the program's counters by index."""
        self._reasons = reasons
        self._traffic = pins.open("vip_traffic")
        self._drops = pins.open("vip_drops")

    def forwarded(self, vip_ids: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Packets and octets (of inner IP packets), by VIP."""
        result = {}
        for vip_id in vip_ids:
            per_cpu = list(_TRAFFIC.iter_unpack(self._traffic.lookup(U32.pack(vip_id)) or b""))
            result[vip_id] = (sum(packets for packets, _ in per_cpu), sum(octets for _, octets in per_cpu))
        return result

    def dropped(self) -> dict[tuple[int, str], int]:
        """Packets, by VIP and by the name of the counter that says why."""
        return {
            (vip_id, self._reasons[reason]): total(value)
            for key, value in self._drops.items()
            for vip_id, reason in (_VIP_DROP.unpack(key),)
            if reason < len(self._reasons)
        }

    def forget_all_but(self, vip_ids: Container[int]) -> None:
        """Makes room in the map, which is bounded: VIPs come and go, and their ids are not used again."""
        gone = [key for key, _ in self._drops.items() if _VIP_DROP.unpack(key)[0] not in vip_ids]
        self._drops.delete_many(gone)
