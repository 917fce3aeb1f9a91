"""`balancer.c` as the balancer agent sees it: load, attach, feed, read.

Making the object compiles and loads the program and takes up its pinned maps, with whatever values they have; the maps
can be fed before `attach`; the program and its maps stay when the process exits. Not to be used by two threads at once.
"""

import itertools
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from l4 import attachment
from l4.attachment import XdpMode
from l4.balancer_settings import SettingsMap
from l4.bpf_map import MAPPABLE, Map
from l4.entries import BalancerSettings, MemberEntry, VipEntry
from l4.guard import GuardMaps
from l4.pins import ProgramPins, prepare_pins, remove_pins
from l4.program_error import ProgramError
from l4.program_loader import LoadedProgram
from l4.shared_maps import U32, Counters, Members, swap_inner_map, total
from l4.vip_counters import VipCounters
from l4.vip_maps import VipMaps

_OWNERS = struct.Struct("=4H")
_OWNERS_OCTETS = _OWNERS.size


class BalancerProgram:
    """`balancer.c`, and its maps."""

    NAME = "balancer"
    FUNCTION = "edge_balancer"

    def __init__(self, bpffs: Path, *, rows: int, max_vips: int = 1024) -> None:
        """Compiles, loads, and takes up the maps pinned in `bpffs`. Raises ProgramError.

        Tables of another number of rows are left to the program that runs with them until `attach` replaces it: a
        changed `rows` takes a new BalancerProgram, filled and then attached.
        """
        self.rows = rows
        self._pins = prepare_pins(bpffs, self.NAME, {"tables": rows})
        self.definitions: dict[str, str | int] = {"ROWS": rows, "MAX_VIPS": max_vips}
        """With which it was compiled."""
        self._program = LoadedProgram("balancer.c", self.FUNCTION, self._pins, self.definitions)
        self._settings = SettingsMap(self._pins)
        self._current_settings: BalancerSettings | None = None
        self.is_tapped = False
        """Whether packets that are finished with are shown to the tap."""
        self._vips = VipMaps(self._pins, max_vips)
        self._tables = self._pins.open("tables")
        self._member_packets = self._pins.open("member_packets")
        self._members = Members(self._pins)
        self._counters = Counters(self._pins, self.NAME)
        self._vip_counters = VipCounters(self._pins, self._counters.names, self._vips.ids)
        self.guard = GuardMaps(self._pins, self._settings)

    @property
    def pins(self) -> ProgramPins:
        """Where its maps are pinned."""
        return self._pins

    @property
    def descriptor(self) -> int:
        """Of the loaded program."""
        return self._program.descriptor

    def attach(self, interface: str, mode: XdpMode) -> str:
        """Attaches to the interface, replacing an earlier balancer in one step. Returns "native" or "generic".

        Maps that only other versions or other numbers of rows use are forgotten then.
        """
        used = attachment.attach(interface, self.descriptor, self.FUNCTION, mode)
        self._pins.remove_leftovers()
        return str(used)

    @staticmethod
    def detach(interface: str) -> bool:
        """Takes the balancer off the interface. False if none was there. Its maps stay pinned."""
        return attachment.detach(interface, BalancerProgram.FUNCTION)

    @staticmethod
    def remove_pins(bpffs: Path) -> None:
        """Forgets all maps: the next load starts empty, with counters at zero."""
        remove_pins(bpffs, BalancerProgram.NAME)

    def set_settings(self, settings: BalancerSettings) -> None:
        """Sets, as a whole and between two packets, what all VIPs share."""
        if settings.rows != self.rows:
            raise ProgramError(
                f"this program was compiled for tables of {self.rows} rows, not {settings.rows}: load a new one with "
                f"{settings.rows} rows, fill its tables, and attach it over this one"
            )
        if len(settings.hash_key) != 16:
            raise ProgramError(f"the flow hash's key has 16 octets, not {len(settings.hash_key)}")
        self._settings.set(replace(settings, tap=self.is_tapped))
        self._current_settings = settings

    def show_to_tap(self, is_tapped: bool) -> None:
        """Whether packets that are finished with are shown to the tap (l4/tap.py), now and under later settings."""
        self.is_tapped = is_tapped
        if self._current_settings is not None:
            self.set_settings(self._current_settings)

    def set_vips(self, vips: Sequence[VipEntry]) -> None:
        """Makes the VIPs those given. Each packet finds its VIP as it was before or as it is now."""
        self._vips.set_vips(vips)
        self._vip_counters.forget_all_but(self._vips.ids)

    def set_quic_servers(self, servers: Mapping[tuple[int, int], int]) -> None:
        """Makes the members that QUIC connection ids can name those given: ids by slot and server id."""
        self._vips.set_quic_servers(servers)

    def set_members(self, members: Sequence[MemberEntry]) -> None:
        """Makes the members those given, with their live bits. Nothing changes for those that stay the same."""
        self._members.set(members)

    def swap_table(self, slot: int, table: bytes) -> None:
        """Puts a whole new forwarding table in place of the slot's, between two packets.

        `table` is `rows` times 8 octets: four 16-bit member ids in the machine's order, newest owner first, 0 for none.
        """
        if len(table) != self.rows * _OWNERS_OCTETS:
            raise ProgramError(f"a table of {len(table)} octets for {self.rows} rows of {_OWNERS_OCTETS}")
        swap_inner_map(self._tables, slot, f"table_{slot}", table, _OWNERS_OCTETS, MAPPABLE)

    def remove_table(self, slot: int) -> None:
        """Takes the slot's table away: packets of VIPs that still name it are dropped and counted as `no_table`."""
        self._tables.delete(U32.pack(slot))

    def read_table(self, slot: int) -> bytes | None:
        """The slot's table as the kernel holds it, in the form that `swap_table` takes. None if there is none."""
        inner = self._tables.lookup(U32.pack(slot))
        if inner is None:
            return None
        with Map.by_id(U32.unpack(inner)[0]) as table:
            return table.read_array()

    def read_row(self, slot: int, row: int) -> tuple[int, ...]:
        """The owners of one row of the slot's table, newest first; none if the row or the table is empty."""
        inner = self._tables.lookup(U32.pack(slot))
        if inner is None:
            return ()
        with Map.by_id(U32.unpack(inner)[0]) as table:
            owners = _OWNERS.unpack(table.lookup(U32.pack(row)) or bytes(_OWNERS_OCTETS))
        return tuple(itertools.takewhile(bool, owners))

    def read_member(self, member_id: int) -> MemberEntry | None:
        """A member as the kernel holds it; None if it is not known there."""
        return self._members.read(member_id)

    def is_any_live(self, member_ids: Iterable[int]) -> bool:
        """Whether the live bit of any of these members is set in the kernel now."""
        return self._members.is_any_live(member_ids)

    def counters(self) -> dict[str, int]:
        """All counters by name, summed over CPUs. They survive restarts. docs/protocol.md says what each counts."""
        totals = self._vip_counters.totals()
        return {name: value + totals.get(name, 0) for name, value in self._counters.read().items()}

    def vip_counters(self) -> dict[int, tuple[int, int]]:
        """Packets and octets (of inner IP packets) forwarded, by id of the present VIPs."""
        return self._vip_counters.forwarded()

    def vip_drops(self) -> dict[tuple[int, str], int]:
        """Packets to VIPs that were dropped, by the VIP's id and the name of the counter that says why."""
        return self._vip_counters.dropped()

    def member_counters(self) -> dict[int, int]:
        """Packets sent to each present member, by its id."""
        return {member: total(self._member_packets.lookup(U32.pack(member))) for member in self._members.ids()}
