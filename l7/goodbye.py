"""The goodbyes of a draining worker: who is asked to leave when.

A thousand clients that are all sent away at once come back as a herd. So each connection has a place in a sequence,
and its *turn* comes at that fraction of the spread. From its turn on, its next response says `Connection: close`. A
connection without any request since its turn is closed a good while later (`GOODBYE_IDLE_S`), because a request that
crosses the close on the wire is lost (RFC 9112 section 9.5); waiting is cheap. Transfers in progress run to their
end. Tunnels have none: when the same time has passed they are closed, with 1001 (RFC 6455 section 7.4.1).

Turns count from the drain's start in Unix time, so a worker that restarts in the middle of a drain does not begin anew.
"""

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from l7 import limits
from orchestrator.contract.route import Goodbye

#: Its multiples modulo 1 fill the unit interval evenly, however many there are (Knuth, TAOCP vol. 3, section 6.4).
GOLDEN_RATIO = 0.6180339887498949


def place_of(number: int) -> float:
    """A connection's place in the spread: 0 ≤ place < 1, from its running number."""
    return number * GOLDEN_RATIO % 1.0


class Leaver(Protocol):
    """A connection that can be asked to leave."""

    place: float

    def close_after_response(self) -> None:
        """The next response is the last."""

    def close_if_idle(self) -> bool:
        """Close now if no request is in progress, and begin to close tunnels; return whether nothing more is to be
        done."""

    def stay(self) -> None:
        """The goodbye is withdrawn."""


class Farewell:
    """One worker's goodbyes, from the start of a drain until its end. The clock is the caller's: Unix time."""

    def __init__(self, goodbye: Goodbye, leavers: Iterable[Leaver], *, idle_s: float = limits.GOODBYE_IDLE_S) -> None:
        self.goodbye = goodbye
        self._idle_s = idle_s
        turns = sorted(((self._turn(each), each) for each in leavers), key=lambda pair: pair[0])
        self._queue: deque[tuple[float, Leaver]] = deque(turns)
        self._asked: deque[tuple[float, Leaver]] = deque()

    def __repr__(self) -> str:
        return f"<Farewell: {len(self._queue)} wait for their turn, {len(self._asked)} were asked>"

    def _turn(self, leaver: Leaver) -> float:
        return self.goodbye.started_at + leaver.place * self.goodbye.spread_s

    def join(self, leaver: Leaver, now: float) -> None:
        """A connection came during the drain (its SYN was under way): its first response is its last."""
        leaver.close_after_response()
        self._asked.append((now + self._idle_s, leaver))

    def tick(self, now: float) -> None:
        """Ask those whose turn it is; close those that were asked long ago and have nothing to say."""
        queue, asked = self._queue, self._asked
        while queue and queue[0][0] <= now:
            turn, leaver = queue.popleft()
            leaver.close_after_response()
            # A restarted worker, or one whose clock jumped, finds turns long past: the wait begins when it asks.
            asked.append((max(turn, now - limits.GOODBYE_TICK_S) + self._idle_s, leaver))
        while asked and asked[0][0] <= now:
            leaver = asked.popleft()[1]
            if not leaver.close_if_idle():
                # In the middle of a transfer whose head could not say goodbye yet: it has the same time once more.
                asked.append((now + self._idle_s, leaver))
