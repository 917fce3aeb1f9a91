"""What an agent put right on its host lately: what is in order now, and may soon be wrong again."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: So many are remembered: pauses between restorations grow, so these are of ten minutes and more.
MAX_REMEMBERED: Final = 256


class Concern(StrEnum):
    """What somebody had changed, by the check of `l4.checks` that looks at it."""

    VIPS = "vip_missing"
    ARP = "arp"
    REVERSE_PATH = "rp_filter"
    MSS = "mss"
    PROGRAM = "xdp"
    BIRD = "bird"


@dataclass(frozen=True, slots=True)
class Restoration:
    """One thing that was put right."""

    concern: Concern
    words: str
    ago_s: float


class Restorations:
    """The newest of them. Noted in one thread, read in any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted: deque[tuple[float, Concern, str]] = deque(maxlen=MAX_REMEMBERED)

    def __repr__(self) -> str:
        return f"<Restorations: {len(self._noted)} remembered>"

    def note(self, concern: Concern, words: str) -> None:
        """Just now."""
        self._noted.append((self._clock(), concern, words))

    def recent(self) -> tuple[Restoration, ...]:
        """Those remembered, oldest first."""
        now = self._clock()
        return tuple(Restoration(concern, words, now - at) for at, concern, words in tuple(self._noted))
