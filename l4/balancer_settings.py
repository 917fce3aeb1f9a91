"""The balancer's settings in the kernel: changed as a whole, between two packets.

They are read back from the kernel where they matter: an agent that was restarted did not set them, and while one
program takes over from another, both are fed.
"""

from l4.bpf_map import Map
from l4.entries import BalancerSettings, lists_half_of, with_lists_half
from l4.pins import ProgramPins
from l4.shared_maps import U32, swap_inner_map


class SettingsMap:
    """`settings`. Not to be used by two threads at once."""

    def __init__(self, pins: ProgramPins) -> None:
        self._map = pins.open("settings")

    def set(self, settings: BalancerSettings) -> None:
        """Makes the settings those given; the guard's lists stay."""
        self._put(with_lists_half(settings.packed, self.lists_half() or 0))

    def lists_half(self) -> int | None:
        """In which half of `guard_ipv4` packets look sources up. None if there are no settings, so none does."""
        present = self._read()
        return None if present is None else lists_half_of(present)

    def name_lists_half(self, half: int) -> None:
        """Lets packets look sources up in that half of `guard_ipv4`. Without settings, the first will name half 0."""
        present = self._read()
        if present is not None:
            self._put(with_lists_half(present, half))

    def _read(self) -> bytes | None:
        inner = self._map.lookup(U32.pack(0))
        if inner is None:
            return None
        with Map.by_id(U32.unpack(inner)[0]) as settings:
            return settings.lookup(U32.pack(0))

    def _put(self, value: bytes) -> None:
        swap_inner_map(self._map, 0, "settings", value, len(value))
