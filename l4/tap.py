"""The tap on an L4 node's packets: loaded for one capture, gone with it.

The balancer's own program knows one bit, in its settings: show what is finished with to whoever stands in
`tap_programs`. `tap.c`, with its plan and its ring buffer, stands there while a capture runs. The plan holds a deadline
that the kernel itself keeps, so that an agent that dies leaves nothing that copies; `clear` takes away what such an
agent left.
"""

import struct
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from l4.pins import ProgramPins
from l4.program_loader import LoadedProgram
from l4.ring_buffer import RingBuffer
from l4.shared_maps import U32
from l4.tap_records import TapCounts, TapPlan, TapRecord

#: Pages of the ring buffer: 4 MiB hold a tenth of a second of a million packets a second, cut to their headers.
RING_PAGES = 1024

_SLOT = U32.pack(0)


class Tap:
    """A capture that runs, as far as the kernel goes. It ends with the context."""

    def __init__(self, pins: ProgramPins, plan: TapPlan) -> None:
        """Loads the tap and puts it in its place. The balancer shows it packets while its settings say so.

        Raises ProgramError.
        """
        self._programs = pins.open("tap_programs")
        self._program = LoadedProgram("tap.c", "edge_tap", pins, {"RING_PAGES": RING_PAGES})
        self._counts = self._program.open_map("tap_counts")
        with self._program.open_map("tap_plan") as plans:
            plans.update(_SLOT, plan.packed)
        self._ring = RingBuffer(self._program.open_map("tap_ring"))
        # The monotonic clock is the kernel's; a capture file tells the time of day.
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        self._programs.update(_SLOT, struct.pack("=I", self._program.descriptor))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes the tap out of its place and out of the kernel."""
        self._programs.delete(_SLOT)
        self._programs.close()
        self._ring.close()
        self._counts.close()
        self._program.close()

    def read(self, most: int) -> Iterator[TapRecord]:
        """Up to `most` packets that are there now, in order of the time at which they were finished with, by CPU."""
        return (TapRecord.unpack(record) for record in self._ring.read(most))

    def counts(self) -> TapCounts:
        """What came of it so far."""
        return TapCounts.unpack(self._counts.lookup(_SLOT) or bytes(TapCounts.SIZE))

    def unix_ns(self, monotonic_ns: int) -> int:
        """The time of day at a moment of the kernel's clock."""
        return self._epoch_ns + monotonic_ns

    @staticmethod
    def clear(pins: ProgramPins) -> None:
        """Takes away what a capture left whose agent died in the middle of it."""
        with pins.open("tap_programs") as programs:
            programs.delete(_SLOT)


def is_in_place(pins: ProgramPins) -> bool:
    """Whether some tap stands in its place: read back from the kernel."""
    with pins.open("tap_programs") as programs:
        return programs.lookup(_SLOT) is not None
