"""How soon after one attempt the next may follow: at once, unless they come one upon the other.

Somebody else may want of the host the opposite of what the fleet wants. Two that put each other's work right as fast as
they can would leave neither the host nor its routers any time for else.
"""

import math
from collections.abc import Callable
from typing import Final

#: Seconds. The first pause is shorter than anybody's hand; the longest is that between the looks of an agent that is
#: told of no events. Doubling, as TCP does with retransmissions (RFC 6298 section 5.5).
FIRST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 1.0
#: Seconds without an attempt after which all is forgotten.
QUIET_S: Final = 2.0


class Pace:
    """Of one kind of attempt."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: in seconds, of any epoch."""
        self._clock = clock
        self._last = -math.inf
        self._pause_s = FIRST_PAUSE_S

    def __repr__(self) -> str:
        return f"<Pace of {self._pause_s * 1000:.0f} ms, {self.wait_s * 1000:.0f} ms to wait>"

    @property
    def wait_s(self) -> float:
        """Seconds until the next attempt may be made; 0: now."""
        return max(0.0, self._last + self._pause_s - self._clock())

    def attempted(self) -> None:
        """An attempt was made now."""
        now = self._clock()
        is_quiet = now - self._last > QUIET_S
        self._pause_s = FIRST_PAUSE_S if is_quiet else min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._last = now
