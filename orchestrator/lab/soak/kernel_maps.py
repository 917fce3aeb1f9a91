"""How many entries the kernel maps have that an agent has pinned: counted key by key, by bpf(2).

Of hash tables and tries, whose entries the agents make. Arrays have always the same number, and tables that forget by
themselves (LRU) as many as there is traffic.
"""

import ctypes
import os
import platform
from pathlib import Path
from typing import Final

from orchestrator.lab.errors import LabError

#: bpf(2) has no wrapper in libc. asm/unistd.h
_SYS_BPF: Final = {"x86_64": 321, "aarch64": 280}

#: enum bpf_cmd and enum bpf_map_type (linux/bpf.h).
_MAP_GET_NEXT_KEY: Final = 4
_OBJ_GET: Final = 7
_COUNTED_TYPES: Final = frozenset({1, 5, 11, 13})
"""HASH, PERCPU_HASH, LPM_TRIE, HASH_OF_MAPS."""


class _ObjectAttributes(ctypes.Structure):
    _fields_ = (("pathname", ctypes.c_uint64), ("bpf_fd", ctypes.c_uint32), ("file_flags", ctypes.c_uint32))


class _ElementAttributes(ctypes.Structure):
    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("next_key", ctypes.c_uint64),
    )


def entries(bpffs: Path) -> int:
    """Of all counted maps that are pinned anywhere in a bpffs. Raises LabError."""
    return sum(_entries_of(path) for path in sorted(bpffs.rglob("*")) if path.is_file())


def _entries_of(path: Path) -> int:
    pathname = ctypes.create_string_buffer(os.fsencode(path))
    try:
        descriptor = _bpf(_OBJ_GET, _ObjectAttributes(pathname=ctypes.addressof(pathname)))
    except FileNotFoundError:  # it was replaced meanwhile
        return 0
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from error
    try:
        info = dict(
            line.split(":", 1)
            for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
            if ":" in line
        )
        if int(info.get("map_type", "0")) not in _COUNTED_TYPES:
            return 0
        return _count(descriptor, int(info["key_size"]), int(info["max_entries"]))
    finally:
        os.close(descriptor)


def _count(descriptor: int, key_size: int, max_entries: int) -> int:
    """Keys from first to last. A map that changes meanwhile may begin anew, but never has more than it can."""
    key, following = ctypes.create_string_buffer(key_size), ctypes.create_string_buffer(key_size)
    attributes = _ElementAttributes(map_fd=descriptor, key=0, next_key=ctypes.addressof(following))
    for count in range(max_entries):
        try:
            _bpf(_MAP_GET_NEXT_KEY, attributes)
        except FileNotFoundError:
            return count
        ctypes.memmove(key, following, key_size)
        attributes.key = ctypes.addressof(key)
    return max_entries


def _bpf(command: int, attributes: ctypes.Structure) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(
        _SYS_BPF[platform.machine()], command, ctypes.byref(attributes), ctypes.sizeof(attributes)
    )
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
