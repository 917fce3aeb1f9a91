"""Whether the way to the orchestrator is open, as reports find it: what a long poll alone cannot tell.

An answer to a poll may wait in the network: TCP sends it again, later each time, until the way is open (RFC 6298). It
is then as old as the break was long, and what it says of others (who is unreachable, say) may be the opposite of what
is true. Reports are made every second, so they know of the break.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

#: Seconds after which a report is late, and answers to polls that were under way meanwhile are doubted. A round trip
#: and the first retransmissions take less.
LATE_S: Final = 1.0


class Way:
    """What reports find, and the poll that depends on it. The clock is trio's."""

    def __init__(self) -> None:
        self._asked_at: float | None = None
        """When the report under way was sent."""
        self._late_at = float("-inf")
        """When the last report ended that failed or was late."""
        self._is_lost = False
        self._poll: trio.CancelScope | None = None
        self._opened = trio.Event()

    def __repr__(self) -> str:
        return f"<Way {'lost' if self._is_lost else 'open'}>"

    @contextmanager
    def report(self) -> Iterator[None]:
        """Around each report: an exception says that it failed. The first that succeeds again ends the poll under way,
        whose answer may be on its way for long yet.
        """
        began = self._asked_at = trio.current_time()
        try:
            yield
        except Exception:
            self._late_at, self._is_lost = trio.current_time(), True
            raise
        finally:
            self._asked_at = None
        if trio.current_time() - began > LATE_S:
            self._late_at = trio.current_time()
        if self._is_lost:
            self._is_lost = False
            self._opened.set()
            self._opened = trio.Event()
            if self._poll is not None:
                self._poll.cancel()

    @contextmanager
    def poll(self) -> Iterator[trio.CancelScope]:
        """Around each poll: cancelled when the way is open again."""
        with trio.CancelScope() as self._poll:
            try:
                yield self._poll
            finally:
                self._poll = None

    def is_doubtful(self, since: float) -> bool:
        """Whether something that was sent after then may have waited."""
        is_late = self._asked_at is not None and trio.current_time() - self._asked_at > LATE_S
        return is_late or self._late_at >= since

    async def opened(self, within_s: float) -> None:
        """Until the way is open again, or so many seconds have passed."""
        with trio.move_on_after(within_s):
            await self._opened.wait()
