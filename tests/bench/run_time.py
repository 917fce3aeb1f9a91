"""What a packet costs in an XDP program, by the kernel's own clock.

BPF_PROG_TEST_RUN in live-frames mode makes real frames, each in a page of its own, and runs the program on each. The
kernel adds up the program's run time (`BPF_ENABLE_STATS`). A frame that was sent comes back from the pool as the
program left it, so a call runs no more frames than are fresh: one batch.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from l4.bpf_call import Command, attributes, bpf, information

#: Frames of one call, all of them fresh.
BATCH = 256

_ENABLE_STATS = 32
_LIVE_FRAMES = 1 << 1
#: `run_time_ns` and `run_cnt` in `struct bpf_prog_info` (include/uapi/linux/bpf.h).
_RUN_TIME = struct.Struct("=QQ")
_RUN_TIME_OFFSET = 192


@contextmanager
def run_time_statistics() -> Iterator[None]:
    """The kernel counts run time while this is open. By descriptor, so that nothing stays behind."""
    result = ctypes.CDLL(None, use_errno=True).syscall(321, _ENABLE_STATS, attributes(struct.pack("=I", 0)), 4)
    if result < 0:
        raise OSError(ctypes.get_errno(), "BPF_ENABLE_STATS")
    try:
        yield
    finally:
        os.close(result)


def nanoseconds_per_packet(descriptor: int, frame: bytes, calls: int) -> float:
    """Run time of the program on a fresh copy of the frame, the clock's own cost included: the mean of a batch.

    Of `calls` batches the quickest: whatever else a machine does, it can only add to that.
    """
    return min(_batch_mean(descriptor, frame) for _ in range(calls))


def _batch_mean(descriptor: int, frame: bytes) -> float:
    before = _totals(descriptor)
    _run_batch(descriptor, frame)
    time_ns, runs = (after - old for after, old in zip(_totals(descriptor), before, strict=True))
    if runs != BATCH:
        raise RuntimeError(f"{runs} runs instead of {BATCH}")
    return time_ns / runs


def _totals(descriptor: int) -> tuple[int, int]:
    time_ns, runs = _RUN_TIME.unpack_from(information(descriptor, _RUN_TIME_OFFSET + _RUN_TIME.size), _RUN_TIME_OFFSET)
    return time_ns, runs


def _run_batch(descriptor: int, frame: bytes) -> None:
    source = ctypes.create_string_buffer(frame, len(frame))
    call = attributes(
        struct.pack(
            "=IIIIQQIIIIQQIII4x",
            descriptor,
            0,
            len(frame),
            0,
            ctypes.addressof(source),
            0,
            *(BATCH, 0),  # repeat, duration
            *(0, 0, 0, 0),  # no context
            *(_LIVE_FRAMES, 0, BATCH),  # flags, CPU, batch size
        )
    )
    bpf(Command.PROG_TEST_RUN, call)
