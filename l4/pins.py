"""Where a program's maps are pinned, and which layout each of them has.

`<bpffs>/edgefleet/<program>/<map>-<layout>`: maps stay there when the agent that made them exits, and the next load
takes up those of its own layouts with their values. A map whose layout has changed is made anew beside the old one,
which the running program goes on using: the new program is loaded, its maps are filled, it replaces the running one in
one step, and only then does `remove_leftovers` forget what it does not use. A downgrade goes the same way. So the names
alone decide, no map is ever read in another layout than its own, and a crash half-way leaves at most a leftover.
"""

import ctypes
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from l4.bpf_call import open_pinned, pin
from l4.bpf_map import Map
from l4.program_error import ProgramError

#: Layout of each pinned map, by program: of its key, its value, its size, and of what they mean. To be raised by one
#: with every change of these in `l4/bpf/`. A map that is not listed here has no pin, and the C does not compile.
LAYOUTS: Mapping[str, Mapping[str, int]] = {
    "balancer": {
        "counters": 5,
        "settings": 3,
        "vips": 2,
        "vip_index": 1,
        "vip_prefixes": 1,
        "vip_ports": 1,
        "vip_drops": 2,
        "quic_servers": 1,
        "vip_traffic": 1,
        "member_packets": 1,
        "members": 2,
        "tables": 2,
        "flow_table_ipv4": 1,
        "flow_table_ipv6": 1,
        "tap_note": 2,
        "tap_programs": 1,
        "guard_ipv4": 3,
        "guard_ipv6": 1,
        "guard_ipv6_filter": 2,
        "guard_limits": 1,
        "source_buckets": 1,
        "vip_buckets": 1,
        "node_buckets": 1,
        "refusals": 1,
        "vip_refusals": 1,
    },
    "redirector": {
        "counters": 4,
        "settings": 3,
        "tunnel_sources": 2,
        "members": 2,
        "ingress": 3,
    },
}

# Before maps had layouts of their own, all had one, told by a map of this name; their pins bore plain names.
_SHARED_LAYOUT_PIN = "layout"
_SHARED_LAYOUT = 1

_BPF_FS_MAGIC = 0xCAFE4A11
_NUMBER = struct.Struct("=I")


def pin_directory(bpffs: Path, program: str) -> Path:
    """Where `program` ("balancer", "redirector") keeps its maps in a bpffs."""
    return bpffs / "edgefleet" / program


def pin_path(bpffs: Path, program: str, map_name: str) -> Path:
    """Where one map of this version is pinned, if its program has been loaded."""
    return pin_directory(bpffs, program) / f"{map_name}-{LAYOUTS[program][map_name]}"


@dataclass(frozen=True, slots=True)
class ProgramPins:
    """The pins of one program of this version."""

    directory: Path
    files: Mapping[str, str]
    """Name in the directory, by name of the map."""

    def path(self, map_name: str) -> Path:
        """Of a map's pin."""
        return self.directory / self.files[map_name]

    def open(self, map_name: str) -> Map:
        """Opens a map that loading the program has pinned."""
        return Map.pinned(self.path(map_name))

    def macros(self) -> dict[str, str]:
        """What `PIN(name)` of pin.h becomes, for each map."""
        return {f"PIN_{name}": str(self.path(name)) for name in self.files}

    def remove_leftovers(self) -> None:
        """Unpins what other versions left. For after the attachment: until then a running program may need them."""
        for present in self.directory.iterdir():
            if present.name not in self.files.values():
                present.unlink()


def prepare_pins(bpffs: Path, program: str, variants: Mapping[str, object] | None = None) -> ProgramPins:
    """Makes the directory and names the pins in it. Raises ProgramError.

    `variants` sets maps apart that are the same but for a size which an operator chooses: by map, what tells them
    apart. It becomes a part of the pin's name.
    """
    if not is_bpffs(bpffs):
        raise ProgramError(f"{bpffs} is not a bpffs; mount one there: mkdir -p {bpffs} && mount -t bpf bpf {bpffs}")
    directory = pin_directory(bpffs, program)
    for level in (directory.parent, directory):
        level.mkdir(mode=0o700, exist_ok=True)
    suffixes = {name: f"-{variant}" for name, variant in (variants or {}).items()}
    layouts = LAYOUTS[program]
    if _shared_layout(directory) == _SHARED_LAYOUT:
        for name in (name for name, layout in layouts.items() if layout == _SHARED_LAYOUT):
            suffix = suffixes.get(name, "")
            _pin_again(directory / f"{name}{suffix}", directory / f"{name}-{_SHARED_LAYOUT}{suffix}")
    files = {name: f"{name}-{layout}{suffixes.get(name, '')}" for name, layout in layouts.items()}
    return ProgramPins(directory, files)


def is_bpffs(path: Path) -> bool:
    """Whether a BPF file system is mounted there."""
    return path.is_dir() and _filesystem_magic(path) == _BPF_FS_MAGIC


def remove_pins(bpffs: Path, program: str) -> None:
    """Unpins all maps of `program`, of whatever version. An attached program holds on to its maps until it is taken
    off."""
    directory = pin_directory(bpffs, program)
    if not directory.is_dir():
        return
    for name in directory.iterdir():
        name.unlink()
    directory.rmdir()


def _shared_layout(directory: Path) -> int | None:
    try:
        descriptor = open_pinned(directory / _SHARED_LAYOUT_PIN)
    except FileNotFoundError:
        return None
    with Map(descriptor) as layout:
        value = layout.lookup(_NUMBER.pack(0))
    return None if value is None else int(_NUMBER.unpack(value)[0])


def _pin_again(present: Path, name: Path) -> None:
    """Gives a pinned map, if it is there, a second name, if that is free."""
    if not present.exists() or name.exists():
        return
    with Map(open_pinned(present)) as adopted:
        pin(adopted.descriptor, name)


def _filesystem_magic(path: Path) -> int:
    """`f_type` of statfs(2), which Python's os.statvfs leaves out."""
    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return int.from_bytes(buffer.raw[:4], "little")
