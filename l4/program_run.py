"""Runs a loaded XDP program on one frame that no interface brought (kernel document: bpf/bpf_prog_run)."""

import ctypes
import struct
from dataclasses import dataclass

from l4.bpf_call import Command, attributes, bpf

#: Octets that a program may add, beside what the frame has.
_ROOM = 512
_CONTEXT = struct.Struct("=6I")
"""`struct xdp_md`: data, its end, metadata, index of the arriving interface, its queue, index of the leaving one."""


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """What became of the frame. A dropped one may be half changed."""

    verdict: int
    """`enum xdp_action`."""
    frame: bytes


def run_once(descriptor: int, frame: bytes, interface: int = 0) -> ProgramRun:
    """Runs the program as if the frame had come in on `interface` (its index), or on the loopback (0).

    Both are of this thread's network namespace. The frame goes nowhere. Raises OSError.
    """
    source = ctypes.create_string_buffer(frame, len(frame))
    result = ctypes.create_string_buffer(len(frame) + _ROOM)
    context = ctypes.create_string_buffer(_CONTEXT.pack(0, len(frame), 0, interface, 0, 0), _CONTEXT.size)
    call = attributes(
        struct.pack(
            "=IIIIQQIIIIQQII",
            descriptor,
            0,
            len(frame),
            len(result),
            ctypes.addressof(source),
            ctypes.addressof(result),
            *(1, 0),  # repeat, duration
            *((_CONTEXT.size, 0) if interface else (0, 0)),
            *((ctypes.addressof(context), 0) if interface else (0, 0)),
            *(0, 0),  # flags, CPU
        )
    )
    bpf(Command.PROG_TEST_RUN, call)
    verdict, _, size = struct.unpack_from("=III", call, 4)
    return ProgramRun(verdict, result.raw[:size])
