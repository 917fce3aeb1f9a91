"""The heap of an agent, which works in threads: kept as small as what is in it.

1. glibc gives threads heaps of their own, up to eight a core, and each keeps what its busiest moment took (mallopt(3),
   M_ARENA_MAX). An agent's threads take turns, because Python's do: they share one heap.
2. glibc serves blocks of 128 KiB and more by mmap(2), and gives them back when they are freed; but after the first one
   that is freed, it serves blocks of that size from its heaps, where what is smaller comes to lie behind them and keeps
   them (M_MMAP_THRESHOLD). Tables are such blocks: they stay with mmap(2).
"""

import ctypes
import sys
from typing import Final

#: malloc.h of glibc.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

#: Octets: glibc's own, as long as it does not adapt it.
MMAP_THRESHOLD: Final = 128 * 1024


def keep_heap_small() -> None:
    """To be called once, before the first thread. Other C libraries have no such settings."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
