"""The bpf(2) system call, as far as maps and pins need it. By ctypes: bcc takes long to import and hides errors.

Attribute layouts: `union bpf_attr` in the kernel's include/uapi/linux/bpf.h. All calls raise OSError with the
kernel's errno and the command's name.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
_LIBC = ctypes.CDLL(None, use_errno=True)
_SYSCALL = _LIBC.syscall


class Command(IntEnum):
    """`enum bpf_cmd`."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27


class MapType(IntEnum):
    """`enum bpf_map_type`, those in use here."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    RINGBUF = 27


#: BPF_F_RDONLY: the descriptor may read the map and nothing else.
READ_ONLY = 1 << 3


def bpf(command: Command, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """Makes the call; results that the kernel writes are in `attributes` afterwards."""
    result: int = _SYSCALL(_syscall_number(), int(command), attributes, len(attributes))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf {command.name}: {os.strerror(number)}")
    return result


def _syscall_number() -> int:
    machine = platform.machine()
    try:
        return _SYSCALL_NUMBERS[machine]
    except KeyError:
        raise OSError(errno.ENOSYS, f"bpf(2) has no known number on {machine}") from None


def attributes(packed: bytes) -> ctypes.Array[ctypes.c_char]:
    """A `union bpf_attr` that begins with `packed`; the kernel takes the rest for zero."""
    return ctypes.create_string_buffer(packed, len(packed))


def possible_cpus() -> int:
    """How many values a per-CPU map has for each key."""
    total = 0
    for part in Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip().split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def pin(descriptor: int, path: Path) -> None:
    """Gives a map or program a name in a bpffs, which keeps it when its last descriptor is closed."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf(Command.OBJ_PIN, attributes(struct.pack("=QII", ctypes.addressof(name), descriptor, 0)))


def open_pinned(path: Path, flags: int = 0) -> int:
    """A new descriptor of a pinned object. FileNotFoundError if there is none."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    try:
        return bpf(Command.OBJ_GET, attributes(struct.pack("=QII", ctypes.addressof(name), 0, flags)))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def information(descriptor: int, size: int) -> bytes:
    """The first `size` octets of `struct bpf_map_info` or `struct bpf_prog_info`."""
    buffer = ctypes.create_string_buffer(size)
    bpf(Command.OBJ_GET_INFO_BY_FD, attributes(struct.pack("=IIQ", descriptor, size, ctypes.addressof(buffer))))
    return buffer.raw


@contextmanager
def open_program(program_id: int) -> Iterator[int]:
    """A descriptor of a loaded program, while this is open."""
    descriptor = bpf(Command.PROG_GET_FD_BY_ID, attributes(struct.pack("=III", program_id, 0, 0)))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def program_name(program_id: int) -> str:
    """The name of a loaded program, at most 15 characters: its function's name."""
    with open_program(program_id) as descriptor:
        # struct bpf_prog_info: type, id, tag[8], 2 lengths, 2 pointers, load time, uid, map count, map ids, name[16]
        name = information(descriptor, 80)[64:80]
    return name.split(b"\0", 1)[0].decode("ascii")
