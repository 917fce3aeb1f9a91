"""A timer wheel: thousands of deadlines that are moved at every request and almost never fire.

A hashed wheel with lazy moves (Varghese and Lauck, SOSP 1987, scheme 6). Three rules make it cheap:

1. A deadline that moves *later* is one assignment: the item stays in its slot, and is put where it belongs when that
   slot's turn comes.
2. A deadline that moves *earlier* takes the item out of its slot and into an earlier one.
3. A deadline never fires early, and at most one tick plus the time until the next turn late.
"""

import math
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from mypy_extensions import mypyc_attr

#: Never.
NEVER = math.inf


@mypyc_attr(allow_interpreted_subclasses=True)
class Timed(ABC):
    """Something with a deadline. The wheel owns both attributes."""

    __slots__ = ("deadline", "wheel_tick")

    def __init__(self) -> None:
        self.deadline = NEVER
        """In seconds of the wheel's clock; `NEVER` when none is set."""
        self.wheel_tick = -1
        """Absolute tick of the slot that holds the item; -1 while it is in none."""

    @abstractmethod
    def expired(self, now: float) -> None:
        """The deadline has passed. It is `NEVER` again; set another if need be."""


Item = TypeVar("Item", bound=Timed)


class TimerWheel(Generic[Item]):
    """Deadlines of `Timed` items, in slots of `tick_s` seconds. The clock is the caller's: times come as arguments."""

    def __init__(self, now: float, *, tick_s: float, slots: int) -> None:
        self._tick_s = tick_s
        self._slots: list[set[Item]] = [set() for _ in range(slots)]
        self._tick = self._floor(now)
        """The last tick whose slot has been emptied."""

    def __len__(self) -> int:
        """How many items sit in slots, those without a deadline included until their slot's turn."""
        return sum(map(len, self._slots))

    def __repr__(self) -> str:
        return f"<TimerWheel of {len(self)} in {len(self._slots)} slots of {self._tick_s} s>"

    def _floor(self, time: float) -> int:
        return int(time / self._tick_s)

    def set(self, item: Item, deadline: float) -> None:
        """Give the item this deadline in place of whatever it had."""
        item.deadline = deadline
        at = item.wheel_tick
        if at < 0:
            self._place(item)
        elif deadline < at * self._tick_s:
            self._slots[at % len(self._slots)].discard(item)
            self._place(item)

    def clear(self, item: Item) -> None:
        """The item has no deadline any more. It leaves its slot at the slot's turn."""
        item.deadline = NEVER

    def remove(self, item: Item) -> None:
        """Forget the item now, so that nothing holds it any more."""
        item.deadline = NEVER
        if item.wheel_tick >= 0:
            self._slots[item.wheel_tick % len(self._slots)].discard(item)
            item.wheel_tick = -1

    def _place(self, item: Item) -> None:
        # A slot is emptied once its tick has begun, so the deadline's own tick rounded up is never early. What lies
        # beyond the wheel waits in its farthest slot and is placed again from there.
        due = math.ceil(item.deadline / self._tick_s) if item.deadline < NEVER else self._tick + len(self._slots)
        tick = min(max(due, self._tick + 1), self._tick + len(self._slots))
        item.wheel_tick = tick
        self._slots[tick % len(self._slots)].add(item)

    def turn(self, now: float) -> list[Item]:
        """Take out the items whose deadline has passed, for the caller to call `expired` on each."""
        target = self._floor(now)
        # After a pause longer than the wheel every slot is due once.
        first = max(self._tick + 1, target - len(self._slots) + 1)
        self._tick = max(self._tick, target)
        due: list[Item] = []
        for tick in range(first, target + 1):
            slot = self._slots[tick % len(self._slots)]
            if not slot:
                continue
            items = list(slot)
            slot.clear()
            for item in items:
                item.wheel_tick = -1
                if item.deadline <= now:
                    item.deadline = NEVER
                    due.append(item)
                elif item.deadline < NEVER:
                    self._place(item)
        return due
