"""The guard's maps: the operator's lists and limits brought to the kernel under traffic.

Limits and IPv4's lists change as a whole, between two packets. IPv6's change prefix by prefix: what is new comes first,
what is gone goes last.
Not to be used by two threads at once.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from l4.balancer_settings import SettingsMap
from l4.bpf_map import MAPPABLE, Map
from l4.guard_halves import ListHalves
from l4.guard_lists import Listing, Network, compile_lists
from l4.pins import ProgramPins
from l4.shared_maps import U32, swap_inner_map

#: Why the guard refuses a packet, by the names of the counters (`GUARD_REASONS`).
REASONS = ("blocked", "syn_source_limit", "syn_vip_limit", "new_flow_limit")

_LIMIT = struct.Struct("=QQ")
_NANOSECONDS = 1_000_000_000
_IDENTIFIERS = 65536


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`struct limit`."""

    per_second: float
    burst: int
    """So many may come at once after a pause."""

    @property
    def packed(self) -> bytes:
        interval = max(1, int(_NANOSECONDS / self.per_second))
        return _LIMIT.pack(interval, (self.burst - 1) * interval)


@dataclass(frozen=True, slots=True)
class VipLimits:
    """`struct guard_limits`: None for no limit."""

    source: RateLimit | None = None
    """SYNs of one /24 or /56."""
    vip: RateLimit | None = None
    """SYNs to the VIP."""
    node: RateLimit | None = None
    """New flows of the L4 node, TCP and UDP each."""

    @property
    def packed(self) -> bytes:
        limits = (self.source, self.vip, self.node)
        return b"".join(limit.packed if limit else bytes(_LIMIT.size) for limit in limits)


class GuardMaps:
    """What the guard of a loaded balancer reads."""

    def __init__(self, pins: ProgramPins, settings: SettingsMap) -> None:
        """Opens the maps, and reads what they hold. `settings` are the program's."""
        self._ipv4 = ListHalves(pins, settings)
        self._ipv6 = pins.open("guard_ipv6")
        self._filter = pins.open("guard_ipv6_filter")
        self._limits = pins.open("guard_limits")
        self._buckets = tuple(pins.open(name) for name in ("source_buckets", "vip_buckets", "node_buckets"))
        self._ipv6_present: Mapping[bytes, bytes] = dict(self._ipv6.items())
        self._listed: dict[Network, Listing] | None = None
        self._limits_present = self._read_limits()

    def set_lists(self, listed: Mapping[Network, Listing]) -> None:
        """Makes the lists those given, the most specific prefix deciding. Raises ValueError if they do not fit."""
        if listed == self._listed:
            return
        desired = compile_lists(listed)
        self._listed = None  # if this fails half-way, whatever is asked for next is a change
        self._ipv4.put(desired.ipv4)
        # What the filter leads to is there before, and goes after.
        self._ipv6.update_many(_changed(self._ipv6_present, desired.ipv6))
        self._filter.write_array(desired.ipv6_filter)
        for key in self._ipv6_present.keys() - desired.ipv6.keys():
            self._ipv6.delete(key)
        self._ipv6_present, self._listed = desired.ipv6, dict(listed)

    def set_limits(self, usual: VipLimits, by_vip: Mapping[int, VipLimits]) -> None:
        """Makes the limits those given, of all VIPs and of some by their ids. New limits begin with full bursts."""
        value = usual.packed
        values = bytearray(value * _IDENTIFIERS)
        for vip_id, limits in by_vip.items():
            values[vip_id * len(value) : (vip_id + 1) * len(value)] = limits.packed
        desired = bytes(values)
        if desired == self._limits_present:
            return
        swap_inner_map(self._limits, 0, "guard_limits", desired, len(value), MAPPABLE)
        # A bucket that ran dry at a low rate would stay so for its whole old burst.
        for buckets in self._buckets:
            buckets.write_array(bytes(buckets.shape.max_entries * buckets.shape.value_size))
        self._limits_present = desired

    def _read_limits(self) -> bytes | None:
        inner = self._limits.lookup(U32.pack(0))
        if inner is None:
            return None
        with Map.by_id(U32.unpack(inner)[0]) as limits:
            return limits.read_array()


def _changed(present: Mapping[bytes, bytes], desired: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {key: value for key, value in desired.items() if present.get(key) != value}
