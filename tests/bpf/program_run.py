"""Runs a loaded XDP program on one frame: BPF_PROG_TEST_RUN (kernel document: bpf/bpf_prog_run)."""

import ctypes
import struct
from dataclasses import dataclass
from enum import IntEnum

from l4.bpf_call import Command, attributes, bpf

_ROOM = 4096


class Verdict(IntEnum):
    """`enum xdp_action`."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the frame. A dropped one may be half changed."""

    verdict: Verdict
    frame: bytes


def run(descriptor: int, frame: bytes) -> Outcome:
    """Runs the program once, as if the frame had come in on the loopback of this thread's network namespace."""
    source = ctypes.create_string_buffer(frame, len(frame))
    result = ctypes.create_string_buffer(_ROOM)
    call = attributes(
        struct.pack(
            "=IIIIQQIIIIQQII",
            descriptor,
            0,
            len(frame),
            _ROOM,
            ctypes.addressof(source),
            ctypes.addressof(result),
            *(1, 0),  # repeat, duration
            *(0, 0, 0, 0),  # no context
            *(0, 0),  # flags, CPU
        )
    )
    bpf(Command.PROG_TEST_RUN, call)
    verdict, _, size = struct.unpack_from("=III", call, 4)
    return Outcome(Verdict(verdict), result.raw[:size])
