"""Maps that both kernel programs have, and how maps are changed under traffic."""

import struct
from collections.abc import Iterable, Mapping

from l4.bpf_map import Map
from l4.entries import MemberEntry
from l4.pins import ProgramPins
from l4.program_loader import counter_names

U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")


class Members:
    """The members map, which both programs have, and which of its entries are in use."""

    def __init__(self, pins: ProgramPins) -> None:
        self._map = pins.open("members")
        values = self._map.read_array()
        none = bytes(MemberEntry.SIZE)
        self._present = {
            offset // MemberEntry.SIZE: value
            for offset in range(0, len(values), MemberEntry.SIZE)
            if (value := values[offset : offset + MemberEntry.SIZE]) != none
        }

    def set(self, members: Iterable[MemberEntry]) -> None:
        """Makes the members those given. Nothing changes for those that stay the same."""
        desired = {member.id: member.packed for member in members}
        for member_id, value in desired.items():
            if self._present.get(member_id) != value:
                self._map.update(U32.pack(member_id), value)
        for member_id in self._present.keys() - desired.keys():
            self._map.update(U32.pack(member_id), bytes(MemberEntry.SIZE))
        self._present = desired

    def read(self, member_id: int) -> MemberEntry | None:
        """A member as the kernel holds it; None if it is not known there."""
        value = self._map.lookup(U32.pack(member_id))
        return None if value is None else MemberEntry.unpack(member_id, value)

    def is_any_live(self, member_ids: Iterable[int]) -> bool:
        """Whether the live bit of any of them is set in the kernel now."""
        return any((member := self.read(member_id)) is not None and member.live for member_id in member_ids)

    def ids(self) -> list[int]:
        """Of the present members, in order."""
        return sorted(self._present)


class Counters:
    """The counters map, which both programs have, read by name."""

    def __init__(self, pins: ProgramPins, program: str) -> None:
        self._map = pins.open("counters")
        self.names = counter_names(program.upper())
        """By index."""

    def read(self) -> dict[str, int]:
        """All counters by name, summed over CPUs."""
        return {name: total(self._map.lookup(U32.pack(index))) for index, name in enumerate(self.names)}


def total(per_cpu: bytes | None) -> int:
    """Of the 64-bit values of all CPUs."""
    return sum(value for (value,) in _U64.iter_unpack(per_cpu or b""))


def reconcile(target: Map, desired: Mapping[bytes, bytes]) -> None:
    """Makes a hash map hold exactly `desired`: adds and updates first, then removes."""
    present = {key: target.lookup(key) for key in target.keys()}  # noqa: SIM118 (a kernel map is no dict)
    for key, value in desired.items():
        if present.get(key) != value:
            target.update(key, value)
    for key in present.keys() - desired.keys():
        target.delete(key)


def swap_inner_map(outer: Map, index: int, name: str, values: bytes, value_size: int, flags: int = 0) -> None:
    """Fills a new array aside and puts it into `outer` by one update, after which no packet sees the old one."""
    with Map.create_array(name, value_size, len(values) // value_size, flags) as inner:
        inner.write_array(values)
        outer.update(U32.pack(index), U32.pack(inner.descriptor))


def wait_for_packets() -> None:
    """Returns when every packet that a program was working on at the time of the call is through.

    The kernel waits for that (an RCU grace period) before an update of an array of maps returns: kernel/bpf/syscall.c,
    maybe_wait_bpf_programs.
    """
    with Map.create_array("any", 4, 1) as inner, Map.create_array_of_maps("wait", inner, 1) as outer:
        outer.update(U32.pack(0), U32.pack(inner.descriptor))
