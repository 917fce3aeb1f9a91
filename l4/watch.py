"""When an agent looks after its host: as the kernel tells of a change, when it is asked to, and on a beat.

The beat is for what the kernel tells nobody of: what maps hold, most settings, whether BIRD answers.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from l4.kernel_events import Heard, KernelEvents

#: Seconds between beats: as often as the agent reports what it saw.
BEAT_S: Final = 1.0

#: Seconds after a look before the next one: what is told of within makes one look together. Short beside the 50 ms in
#: which a VIP must be withdrawn, long beside a look.
SHORTEST_PAUSE_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Occasion:
    """Why to look now."""

    heard: Heard
    is_beat: bool


class Watch:
    """Of one agent."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._heard = Heard.NOTHING
        self._woken = trio.Event()

    def look_again(self) -> None:
        """Makes a look follow at once. To be called in the trio thread."""
        self._woken.set()

    async def run(self, look: Callable[[Occasion], Awaitable[float]]) -> None:
        """Task: calls `look`, for ever; it returns the seconds after which it wants to be called again at the latest.

        Raises OSError if the kernel grants no subscription.
        """
        events = KernelEvents(self._interface)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(events.pass_on, self._tell)
            beat_at = deadline = trio.current_time() + BEAT_S
            while True:
                with trio.move_on_at(min(beat_at, deadline)):
                    await self._woken.wait()
                self._woken = trio.Event()
                heard, self._heard = self._heard, Heard.NOTHING
                is_beat = trio.current_time() >= beat_at
                if is_beat:
                    beat_at = trio.current_time() + BEAT_S
                deadline = trio.current_time() + await look(Occasion(heard, is_beat))
                await trio.sleep(SHORTEST_PAUSE_S)

    def _tell(self, heard: Heard) -> None:
        self._heard |= heard
        self._woken.set()
