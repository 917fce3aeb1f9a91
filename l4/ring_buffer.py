"""Reads a BPF ring buffer (kernel document: bpf/ringbuf): the kernel's programs write, this consumes.

The map is mapped into memory in two parts: a page with the consumer's position, which is ours to write; and read-only,
a page with the producers' position and the data, which the kernel maps twice in a row so that a record never wraps. A
record is a 32-bit length with two flags, 32 bits of the kernel's own, and its octets, padded to 8.
"""

import ctypes
import mmap
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from l4.bpf_map import Map

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER = 8
_ALIGNMENT = 8


class RingBuffer:
    """The consumer's end of a ring buffer; there must be only one."""

    def __init__(self, ring: Map) -> None:
        """Takes the map over, which must be a ring buffer."""
        self._map = ring
        self._size = ring.shape.max_entries
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(ring.descriptor, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = mmap.mmap(ring.descriptor, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._data = page
        # By ctypes, so that a position is written in one piece. The interpreter's own work between two accesses is
        # far longer than what they might be reordered by.
        self._position = ctypes.c_uint64.from_buffer(self._consumer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps it, and closes the descriptor."""
        del self._position
        self._consumer.close()
        self._producer.close()
        self._map.close()

    def read(self, most: int) -> Iterator[bytes]:
        """Up to `most` records that are there now; the room of each is free again when the next one is asked for."""
        for _ in range(most):
            position = self._position.value
            if position >= int.from_bytes(self._producer[0:8], "little"):
                return
            start = self._data + position % self._size
            header = int.from_bytes(self._producer[start : start + 4], "little")
            if header & _BUSY:
                return  # reserved, and being written: it and what follows can be read next time
            length = header & ~(_BUSY | _DISCARDED)
            record = self._producer[start + _HEADER : start + _HEADER + length]
            self._position.value = position + (length + _HEADER + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
            if not header & _DISCARDED:
                yield record
