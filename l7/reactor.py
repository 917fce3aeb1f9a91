"""The batch reactor: one trio task that steps every connection of a worker, without an await per read.

Theory of operation
-------------------
1. All sockets of the worker sit in one epoll descriptor of the reactor's own. An epoll descriptor is itself pollable,
   so the reactor's task waits for *it* with `trio.lowlevel.wait_readable`, and trio's other tasks keep their turn.
2. When it is readable, the reactor takes what is ready, at most `BATCH_EVENTS`, and steps those items one after
   another in plain calls. A batch ends after `BATCH_S`; what it did not reach goes first in the next one.
3. Level-triggered: interest is in reading only, as long as the item wants to read. Writing is tried directly;
   interest in writing is registered only while a socket is full. A request on kept-alive connections so needs no
   `epoll_ctl` at all. (Edge triggering would need one read more per request, to see the socket empty.)
4. An item that stopped at its own bound with work left (`step` returned true, or TLS holds decrypted bytes that
   no descriptor signals) is stepped again in the next batch, behind everyone else.
5. During a step, items only *note* what is to be done on sockets, their own and others', and ask to be settled. After
   the step all of them are: what several events of one step had to say leaves in one write. Items that carry many
   requests (HTTP/2) are settled at the end of the batch: what many servers had to say to them leaves in one write.
6. Deadlines sit in a timer wheel, turned by a task beside the loop.
7. An exception in one item ends that item, is logged and counted, and no other connection notices.

The reactor knows nothing of HTTP or TLS. It is not thread-safe, and need not be.
"""

import errno
import logging
import os
import select
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Final

import trio
from mypy_extensions import mypyc_attr

from l7 import limits
from l7.timers import NEVER, Timed, TimerWheel

log = logging.getLogger(__name__)

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
#: Reported whether asked for or not: the connection is dead in both directions, or was reset.
BROKEN: Final = select.EPOLLERR | select.EPOLLHUP
#: Interest of an item that wants to hear nothing: BROKEN is then reported once, not in every batch.
SILENT: Final = select.EPOLLET


@mypyc_attr(allow_interpreted_subclasses=True)
class Pollable(Timed):
    """Something with a descriptor that the reactor steps. `fd` and `interest` belong to the reactor."""

    __slots__ = ("fd", "interest", "settles_last")

    def __init__(self) -> None:
        super().__init__()
        self.fd = -1
        """-1 while it is not in the reactor."""
        self.interest = 0
        self.settles_last = False
        """At the end of the batch, not behind each step (rule 5)."""

    @abstractmethod
    def step(self, events: int) -> bool:
        """Do what `events` (READ, WRITE, BROKEN) allow, bounded. Returns whether work is left that nothing will signal.

        `events` is 0 when the item is stepped again for work that it had left.
        """

    @abstractmethod
    def settle(self) -> None:
        """Do what was noted during a step (of this item or of another): write, change interest, close."""

    @abstractmethod
    def failed(self) -> None:
        """`step`, `settle` or `expired` raised. The reactor has dropped the item: release everything, at once."""


class _Wake(Pollable):
    """Makes the epoll descriptor readable when work was queued from outside a batch."""

    __slots__ = ()

    def step(self, events: int) -> bool:
        os.eventfd_read(self.fd)
        return False

    def settle(self) -> None:
        """Notes nothing."""

    def failed(self) -> None:
        """Nothing to release: the reactor owns the descriptor."""

    def expired(self, now: float) -> None:
        """Has no deadlines."""


class Reactor:
    """Steps `Pollable` items when their descriptors are ready and when their deadlines pass."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.now = clock()
        """Monotonic time of the step that runs now, in seconds."""
        self.wheel: TimerWheel[Pollable] = TimerWheel(self.now, tick_s=limits.TIMER_TICK_S, slots=limits.TIMER_SLOTS)
        self.failures = 0
        """Items that were ended because their code raised."""
        self._epoll = select.epoll()
        self._items: dict[int, Pollable] = {}
        self._left: list[tuple[Pollable, int]] = []
        self._unsettled: list[Pollable] = []
        self._unsettled_until_last: list[Pollable] = []
        self._in_batch = False
        self._wake = _Wake()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.add(self._wake, self._wake_fd, READ)

    def __repr__(self) -> str:
        return f"<Reactor: {len(self._items) - 1} descriptors, {len(self._left)} with work left>"

    def __len__(self) -> int:
        """Descriptors watched."""
        return len(self._items) - 1

    def add(self, item: Pollable, fd: int, interest: int) -> None:
        """Watch a descriptor on behalf of an item."""
        self._epoll.register(fd, interest)
        self._items[fd] = item
        item.fd = fd
        item.interest = interest

    def want(self, item: Pollable, interest: int) -> None:
        """Be told of these events from now on. Costs a system call only if that is a change."""
        if interest != item.interest and item.fd >= 0:
            self._epoll.modify(item.fd, interest)
            item.interest = interest

    def drop(self, item: Pollable) -> None:
        """Forget an item and its deadline. Call it before the descriptor is closed, or at once after it."""
        self.wheel.remove(item)
        if item.fd >= 0:
            try:
                self._epoll.unregister(item.fd)
            except OSError as error:
                # Closed already, as `ssl` does with sockets that it refuses: the kernel forgot it with that.
                if error.errno not in (errno.EBADF, errno.ENOENT):
                    raise
            del self._items[item.fd]
            item.fd = -1
            item.interest = 0

    def step_soon(self, item: Pollable) -> None:
        """Step the item, with no events, in the next batch. The way for other tasks to hand it something."""
        self._left.append((item, 0))
        if not self._in_batch:
            os.eventfd_write(self._wake_fd, 1)

    def settle_later(self, item: Pollable) -> None:
        """Settle the item after the present step. Whoever works outside a step calls `settle` afterwards."""
        if item.settles_last and self._in_batch:
            self._unsettled_until_last.append(item)
        else:
            self._unsettled.append(item)

    def settle(self) -> None:
        """Settle all that asked for it, and those that do so meanwhile."""
        unsettled = self._unsettled
        while unsettled:
            item = unsettled.pop()
            try:
                item.settle()
            except Exception:
                self._fail(item)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._turn_wheel)
            while True:
                if self._left:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                self.run_batch()

    def run_batch(self) -> None:
        """Step everything that is ready now, up to the bounds."""
        clock = self._clock
        until = clock() + limits.BATCH_S
        batch = self._left
        self._left = left = []
        # Descriptors become items before the first step: one closed by an earlier step, whose number an accepted
        # connection then took, must not be stepped with the old one's events.
        items = self._items
        ready = [(items[fd], events) for fd, events in self._epoll.poll(0, limits.BATCH_EVENTS)]
        if batch:
            # What a batch before did not reach is still ready, and reported again.
            carried = {item for item, _ in batch}
            batch.extend([(item, events) for item, events in ready if item not in carried])
        else:
            batch = ready
        unsettled = self._unsettled
        self._in_batch = True
        for at, (item, events) in enumerate(batch):
            if item.fd < 0:
                continue
            self.now = now = clock()
            if now > until:
                left.extend(batch[at:])
                break
            try:
                if item.step(events):
                    left.append((item, 0))
            except Exception:
                self._fail(item)
            if unsettled:
                self.settle()
        self._in_batch = False
        if self._unsettled_until_last:
            unsettled.extend(self._unsettled_until_last)
            self._unsettled_until_last.clear()
            self.settle()

    async def _turn_wheel(self) -> None:
        while True:
            await trio.sleep(limits.TIMER_TICK_S)
            self.turn_wheel()

    def turn_wheel(self) -> None:
        """Fire the deadlines that have passed."""
        self.now = now = self._clock()
        for item in self.wheel.turn(now):
            # An earlier one of this turn may have dropped it, or given it a new deadline.
            if item.fd >= 0 and item.deadline == NEVER:
                try:
                    item.expired(now)
                except Exception:
                    self._fail(item)
                self.settle()

    def _fail(self, item: Pollable) -> None:
        self.failures += 1
        log.exception("reactor: ended %r: its code raised", item)
        self.drop(item)
        try:
            item.failed()
        except Exception:
            log.exception("reactor: and so did releasing %r", item)

    def close(self) -> None:
        """Release the descriptors of the reactor itself. Items close their own."""
        self.drop(self._wake)
        os.close(self._wake_fd)
        self._epoll.close()
