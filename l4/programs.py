"""The kernel programs as the agents see them: load, attach, feed, read.

Both programs follow one pattern. Making the object compiles and loads the program and takes up its pinned maps, with
whatever values they have; the maps can be fed before `attach`; the program and its maps stay when the process exits.
Not to be used by two threads at once.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from l4 import attachment
from l4.attachment import XdpMode
from l4.bpf_map import Map
from l4.pins import prepare_pins, remove_pins
from l4.program_error import ProgramError
from l4.program_loader import LoadedProgram, counter_names

__all__ = [
    "BalancerProgram",
    "MemberEntry",
    "ProgramError",
    "RedirectorProgram",
    "VipEntry",
    "XdpMode",
]

_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_PROTOCOL_TCP = 6
_ONLY_ENTRY = _U32.pack(0)

# The structures of l4/bpf/*.h, by the names they have there.
_SERVICE = struct.Struct("=16s2sBx")
_VIP = struct.Struct("=III")
_MEMBER = struct.Struct("=4sI")
_BALANCER_SETTINGS = struct.Struct("=16s4sHH")
_REDIRECTOR_SETTINGS = struct.Struct("=4s4x")
_TRAFFIC = struct.Struct("=QQ")
_OWNERS_OCTETS = 8
_VIP_FLOW_TABLE = 1
_MEMBER_LIVE = 1


@dataclass(frozen=True, slots=True)
class VipEntry:
    """A VIP as the balancer knows it."""

    address: IPv4Address | IPv6Address
    port: int
    vip_id: int
    """Index of its counters."""
    slot: int
    """Of its pool's table."""
    flow_table: bool
    """Whether established flows go by the flow table: for pools whose members run no redirector."""


@dataclass(frozen=True, slots=True)
class MemberEntry:
    """A member as both programs know it."""

    id: int
    address: IPv4Address
    live: bool


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
        self._max_vips = max_vips
        self._pins = prepare_pins(bpffs, self.NAME)
        self._tables_pin = f"tables-{rows}"
        definitions: dict[str, str | int] = {"ROWS": rows, "MAX_VIPS": max_vips, "TABLES_PIN": self._tables_pin}
        self._program = LoadedProgram("balancer.c", self.FUNCTION, self._pins, definitions)
        self._settings = Map.pinned(self._pins / "settings")
        self._vips = Map.pinned(self._pins / "vips")
        self._tables = Map.pinned(self._pins / self._tables_pin)
        self._vip_traffic = Map.pinned(self._pins / "vip_traffic")
        self._member_packets = Map.pinned(self._pins / "member_packets")
        self._members = _Members(self._pins)
        self._counters = _Counters(self._pins, self.NAME)

    @property
    def descriptor(self) -> int:
        """Of the loaded program."""
        return self._program.descriptor

    def attach(self, interface: str, mode: XdpMode) -> str:
        """Attaches to the interface, replacing an earlier balancer in one step. Returns "native" or "generic"."""
        used = attachment.attach(interface, self.descriptor, self.FUNCTION, mode)
        for name in self._pins.iterdir():
            if name.name.startswith("tables-") and name.name != self._tables_pin:
                name.unlink()  # of the program that has just been replaced
        return str(used)

    @staticmethod
    def detach(interface: str) -> bool:
        """Takes the balancer off the interface. False if none was there. Its maps stay pinned."""
        return attachment.detach(interface, BalancerProgram.FUNCTION)

    @staticmethod
    def remove_pins(bpffs: Path) -> None:
        """Forgets all maps: the next load starts empty, with counters at zero."""
        remove_pins(bpffs, BalancerProgram.NAME)

    def set_settings(self, *, node_id: int, hash_key: bytes, rows: int, source: IPv4Address, mtu: int) -> None:
        """Sets, as a whole and between two packets, what all VIPs share.

        `hash_key` is the 16 octets of the flow hash's key, `source` this node's address on the underlay, `mtu` that of
        the interface.
        """
        if rows != self.rows:
            raise ProgramError(
                f"this program was compiled for tables of {self.rows} rows, not {rows}: load a new one with {rows} "
                "rows, fill its tables, and attach it over this one"
            )
        if len(hash_key) != 16:
            raise ProgramError(f"the flow hash's key has 16 octets, not {len(hash_key)}")
        value = _BALANCER_SETTINGS.pack(hash_key, source.packed, node_id, mtu)
        _swap_inner_map(self._settings, 0, "settings", value, len(value))

    def set_vips(self, vips: Sequence[VipEntry]) -> None:
        """Makes the VIPs those given. What is new or changed comes first, what is gone goes last."""
        if len(vips) > self._max_vips:
            raise ProgramError(f"{len(vips)} VIPs, and the balancer was loaded for {self._max_vips}: raise max_vips")
        desired: dict[bytes, bytes] = {}
        for vip in vips:
            value = _VIP.pack(vip.vip_id, vip.slot, _VIP_FLOW_TABLE if vip.flow_table else 0)
            address = _mapped(vip.address)
            desired[_SERVICE.pack(address, vip.port.to_bytes(2, "big"), _PROTOCOL_TCP)] = value
            desired.setdefault(_SERVICE.pack(address, bytes(2), 0), _VIP.pack(0, 0, 0))
        _reconcile(self._vips, desired)

    def set_members(self, members: Sequence[MemberEntry]) -> None:
        """Makes the members those given, with their live bits. Nothing changes for those that stay the same."""
        self._members.set(members)

    def swap_table(self, slot: int, table: bytes) -> None:
        """Puts a whole new forwarding table in place of the slot's, between two packets.

        `table` is `rows` times 8 octets: four 16-bit member ids in the machine's order, newest owner first, 0 for none.
        """
        if len(table) != self.rows * _OWNERS_OCTETS:
            raise ProgramError(f"a table of {len(table)} octets for {self.rows} rows of {_OWNERS_OCTETS}")
        _swap_inner_map(self._tables, slot, f"table_{slot}", table, _OWNERS_OCTETS)

    def remove_table(self, slot: int) -> None:
        """Takes the slot's table away: packets of VIPs that still name it are dropped and counted as `no_table`."""
        self._tables.delete(_U32.pack(slot))

    def read_table(self, slot: int) -> bytes | None:
        """The slot's table as the kernel holds it, in the form that `swap_table` takes. None if there is none."""
        inner = self._tables.lookup(_U32.pack(slot))
        if inner is None:
            return None
        with Map.by_id(_U32.unpack(inner)[0]) as table:
            return table.read_array()

    def counters(self) -> dict[str, int]:
        """All counters by name, summed over CPUs. They survive restarts. docs/protocol.md says what each counts."""
        return self._counters.read()

    def vip_counters(self) -> dict[int, tuple[int, int]]:
        """Packets and octets (of inner IP packets) forwarded, by id of the present VIPs."""
        result = {}
        for key in self._vips.keys():  # noqa: SIM118 (a kernel map is no dict)
            value = self._vips.lookup(key)
            if value is None or not (vip_id := _VIP.unpack(value)[0]):
                continue  # removed meanwhile, or the entry for an address alone
            traffic = self._vip_traffic.lookup(_U32.pack(vip_id)) or b""
            per_cpu = list(_TRAFFIC.iter_unpack(traffic))
            result[vip_id] = (sum(packets for packets, _ in per_cpu), sum(octets for _, octets in per_cpu))
        return result

    def member_counters(self) -> dict[int, int]:
        """Packets sent to each present member, by its id."""
        return {member: _sum(self._member_packets.lookup(_U32.pack(member))) for member in self._members.ids()}


class RedirectorProgram:
    """`redirect.c`, and its maps."""

    NAME = "redirector"
    FUNCTION = "edge_redirector"

    def __init__(self, bpffs: Path) -> None:
        """Compiles, loads, and takes up the maps pinned in `bpffs`. Raises ProgramError."""
        self._pins = prepare_pins(bpffs, self.NAME)
        self._program = LoadedProgram("redirect.c", self.FUNCTION, self._pins, {})
        self._settings = Map.pinned(self._pins / "settings")
        self._sources = Map.pinned(self._pins / "tunnel_sources")
        self._members = _Members(self._pins)
        self._counters = _Counters(self._pins, self.NAME)

    @property
    def descriptor(self) -> int:
        """Of the loaded program."""
        return self._program.descriptor

    def attach(self, interface: str, mode: XdpMode) -> str:
        """Attaches to the interface, replacing an earlier redirector in one step. Returns "native" or "generic"."""
        return str(attachment.attach(interface, self.descriptor, self.FUNCTION, mode))

    @staticmethod
    def detach(interface: str) -> bool:
        """Takes the redirector off the interface. False if none was there. Its maps stay pinned."""
        return attachment.detach(interface, RedirectorProgram.FUNCTION)

    @staticmethod
    def remove_pins(bpffs: Path) -> None:
        """Forgets all maps: the next load starts empty, with counters at zero."""
        remove_pins(bpffs, RedirectorProgram.NAME)

    def set_settings(self, *, address: IPv4Address) -> None:
        """Sets this host's address on the underlay: the tunnel's end here. Before that, all packets pass by."""
        self._settings.update(_ONLY_ENTRY, _REDIRECTOR_SETTINGS.pack(address.packed))

    def set_members(self, members: Sequence[MemberEntry]) -> None:
        """Makes the members those given: whom a second chance can go to."""
        self._members.set(members)

    def set_tunnel_sources(self, sources: Sequence[IPv4Address]) -> None:
        """Makes the hosts whose encapsulated packets are accepted those given."""
        limit = self._sources.shape.max_entries
        if len(sources) > limit // 2:
            raise ProgramError(f"{len(sources)} tunnel sources, and at most {limit // 2} are supported")
        _reconcile(self._sources, {source.packed: _U32.pack(1) for source in sources})

    def counters(self) -> dict[str, int]:
        """All counters by name, summed over CPUs. They survive restarts. docs/protocol.md says what each counts."""
        return self._counters.read()


class _Members:
    """The members map, which both programs have, and which of its entries are in use."""

    def __init__(self, pins: Path) -> None:
        self._map = Map.pinned(pins / "members")
        values = self._map.read_array()
        none = bytes(_MEMBER.size)
        self._present = {
            offset // _MEMBER.size: value
            for offset in range(0, len(values), _MEMBER.size)
            if (value := values[offset : offset + _MEMBER.size]) != none
        }

    def set(self, members: Iterable[MemberEntry]) -> None:
        desired = {
            member.id: _MEMBER.pack(member.address.packed, _MEMBER_LIVE if member.live else 0) for member in members
        }
        for member_id, value in desired.items():
            if self._present.get(member_id) != value:
                self._map.update(_U32.pack(member_id), value)
        for member_id in self._present.keys() - desired.keys():
            self._map.update(_U32.pack(member_id), bytes(_MEMBER.size))
        self._present = desired

    def ids(self) -> list[int]:
        return sorted(self._present)


class _Counters:
    """The counters map, which both programs have, read by name."""

    def __init__(self, pins: Path, program: str) -> None:
        self._map = Map.pinned(pins / "counters")
        self._names = counter_names(program.upper())

    def read(self) -> dict[str, int]:
        return {name: _sum(self._map.lookup(_U32.pack(index))) for index, name in enumerate(self._names)}


def _sum(per_cpu: bytes | None) -> int:
    """Of the 64-bit values of all CPUs."""
    return sum(value for (value,) in _U64.iter_unpack(per_cpu or b""))


def _reconcile(target: Map, desired: Mapping[bytes, bytes]) -> None:
    """Makes a hash map hold exactly `desired`: adds and updates first, then removes."""
    present = {key: target.lookup(key) for key in target.keys()}  # noqa: SIM118 (a kernel map is no dict)
    for key, value in desired.items():
        if present.get(key) != value:
            target.update(key, value)
    for key in present.keys() - desired.keys():
        target.delete(key)


def _swap_inner_map(outer: Map, index: int, name: str, values: bytes, value_size: int) -> None:
    """Fills a new array aside and puts it into `outer` by one update, after which no packet sees the old one."""
    with Map.create_array(name, value_size, len(values) // value_size) as inner:
        inner.write_array(values)
        outer.update(_U32.pack(index), _U32.pack(inner.descriptor))


def _mapped(address: IPv4Address | IPv6Address) -> bytes:
    """16 octets; an IPv4 address mapped into IPv6 (RFC 4291 section 2.5.5.2)."""
    return bytes(10) + b"\xff\xff" + address.packed if isinstance(address, IPv4Address) else address.packed
