"""Where a program's maps are pinned, and which layout they have.

`<bpffs>/edgefleet/<program>/<map>`: maps stay there when the agent that made them exits, and the next load takes them
up with their values. The layout number tells what the values mean; maps of another layout are refused, not misread.
"""

import ctypes
import os
import struct
from pathlib import Path

from l4.bpf_call import open_pinned, pin
from l4.bpf_map import Map
from l4.program_error import ProgramError

#: Of keys, values and counter order in `l4/bpf/`. To be raised when a present map changes its meaning.
LAYOUT_VERSION = 2

_LAYOUT_PIN = "layout"
_BPF_FS_MAGIC = 0xCAFE4A11
_NUMBER = struct.Struct("=I")


def pin_directory(bpffs: Path, program: str) -> Path:
    """Where `program` ("balancer", "redirector") keeps its maps in a bpffs."""
    return bpffs / "edgefleet" / program


def prepare_pins(bpffs: Path, program: str) -> Path:
    """Makes the directory, or checks that what it holds has this version's layout. Raises ProgramError."""
    if not bpffs.is_dir() or _filesystem_magic(bpffs) != _BPF_FS_MAGIC:
        raise ProgramError(f"{bpffs} is not a bpffs; mount one there: mkdir -p {bpffs} && mount -t bpf bpf {bpffs}")
    directory = pin_directory(bpffs, program)
    for level in (directory.parent, directory):
        level.mkdir(mode=0o700, exist_ok=True)
    present = _layout_of(directory)
    if present is None and not any(directory.iterdir()):
        with Map.create_array(_LAYOUT_PIN, _NUMBER.size, 1) as layout:
            layout.update(_NUMBER.pack(0), _NUMBER.pack(LAYOUT_VERSION))
            pin(layout.descriptor, directory / _LAYOUT_PIN)
    elif present != LAYOUT_VERSION:
        raise ProgramError(
            f"the maps in {directory} have layout {present}, this version reads layout {LAYOUT_VERSION}; "
            f"drain this node, then start anew: edge-l4 {program} detach"
        )
    return directory


def remove_pins(bpffs: Path, program: str) -> None:
    """Unpins all maps of `program`. An attached program holds on to its maps until it is taken off."""
    directory = pin_directory(bpffs, program)
    if not directory.is_dir():
        return
    for name in directory.iterdir():
        name.unlink()
    directory.rmdir()


def _layout_of(directory: Path) -> int | None:
    try:
        descriptor = open_pinned(directory / _LAYOUT_PIN)
    except FileNotFoundError:
        return None
    with Map(descriptor) as layout:
        value = layout.lookup(_NUMBER.pack(0))
    return None if value is None else int(_NUMBER.unpack(value)[0])


def _filesystem_magic(path: Path) -> int:
    """`f_type` of statfs(2), which Python's os.statvfs leaves out."""
    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return int.from_bytes(buffer.raw[:4], "little")
