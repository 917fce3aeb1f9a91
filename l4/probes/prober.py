"""The prober: asks every member again and again, and keeps what it saw.

Each member is asked for a connection, often; and, if its pool's probe makes requests, for an answer, less often. The
next time is reckoned from when the last one began, a fifth more or less by chance, so that L4 nodes do not ask in step.
With very many members the intervals stretch: asking takes CPU time that this node has better use for, so only so many
probes begin in a second, and only so many are under way. How many were late is counted.
"""

import heapq
import itertools
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NoReturn

import trio

from l4.probes.asking import NotAskedError, ask_for_answer, ask_for_connection
from l4.probes.targets import Target
from l4.probes.verdicts import Asked, Lookout, worst
from orchestrator.contract.pool import ProbeKind
from orchestrator.contract.report import MemberProbe, ProbeVerdict

log = logging.getLogger(__name__)

#: Probes that may begin in a second. Each costs some 0.2 ms of CPU time: a tenth of a core. 100 members are asked five
#: times a second, 4096 every eight seconds.
MAX_PER_SECOND: Final = 500
#: Probes that may be under way: as many as begin in half a second, while none is answered.
MAX_IN_FLIGHT: Final = 256
#: Part of an interval by which it is longer or shorter, by chance (Envoy's `interval_jitter_percent`, in both ways).
JITTER: Final = 0.2
#: How much sooner a member is asked again whose last answers differ from its verdict (HAProxy's `fastinter`).
HASTE: Final = 2
#: Probes that may begin at once after a pause, so that a late wake-up costs nothing.
_BURST: Final = 20

Ask = Callable[[Target, str], Awaitable[Asked]]
_Key = tuple[str, int]


@dataclass(slots=True)
class _Watched:
    """A member at a VIP, and what it answered."""

    target: Target
    lookout: Lookout
    next_number: dict[bool, int] = field(default_factory=dict)
    """Of the entry that is next, by whether it asks for an answer: others were put forward, and are void."""
    next_at: dict[bool, float] = field(default_factory=dict)


@dataclass(order=True, slots=True)
class _Due:
    """The next time at which something is asked."""

    at: float
    number: int
    watched: _Watched = field(compare=False)
    asks_for_answer: bool = field(compare=False)


class Prober:
    """Asks; `run` is its task. The clock is trio's."""

    def __init__(
        self,
        interface: str,
        *,
        chance: random.Random | None = None,
        connect: Ask = ask_for_connection,
        request: Ask = ask_for_answer,
        max_per_second: int = MAX_PER_SECOND,
    ) -> None:
        self._interface = interface
        self._chance = chance or random.Random()  # noqa: S311 (nobody gains by foreseeing it)
        self._connect, self._request = connect, request
        self._gap_s = 1 / max_per_second
        self._watched: dict[_Key, _Watched] = {}
        self._by_member: dict[int, list[Lookout]] = {}
        self._due: list[_Due] = []
        self._numbers = itertools.count()
        self._aimed = trio.Event()
        self._changed = trio.Event()
        self._in_flight = trio.Semaphore(MAX_IN_FLIGHT)
        self._next_free = 0.0
        self._said: dict[int, tuple[ProbeVerdict, float]] = {}
        self.counts: Counter[str] = Counter(probes=0, probes_late=0, probes_not_asked=0)
        """Probes made; begun later than an interval after they were due; that this host could not make."""

    def __repr__(self) -> str:
        return f"<Prober {self._interface}: {len(self._watched)} members, {dict(self.counts)}>"

    def aim(self, targets: Iterable[Target]) -> None:
        """Asks these, and no others. Who is asked as before keeps its verdict."""
        before, self._watched = self._watched, {}
        now = trio.current_time()
        for target in targets:
            key = target.pool, target.member_id
            watched = before.get(key)
            if watched is None or watched.target != target:
                watched = _Watched(target, Lookout(target.probe))
                self._schedule(watched, now)
            self._watched[key] = watched
        self._due = [due for due in self._due if self._is_watched(due.watched)]
        heapq.heapify(self._due)
        self._by_member = {}
        for watched in self._watched.values():
            self._by_member.setdefault(watched.target.member_id, []).append(watched.lookout)
        self._said = {member: said for member, said in self._said.items() if member in self._by_member}
        self._aimed.set()
        self._changed.set()

    @property
    def unreachable(self) -> frozenset[int]:
        """Members whose hosts do not answer."""
        return frozenset(member for member, (verdict, _) in self._said.items() if verdict is ProbeVerdict.UNREACHABLE)

    @property
    def reached(self) -> frozenset[int]:
        """Members whose hosts answer, whatever they answer."""
        return frozenset(self._said) - self.unreachable

    def verdicts(self) -> dict[int, MemberProbe]:
        """What is known of the members, by their ids."""
        now = trio.current_time()
        return {
            member: MemberProbe(
                verdict=verdict,
                detail=speaker.detail if (speaker := worst(self._by_member[member])) else "",
                since_s=max(0.0, now - since),
            )
            for member, (verdict, since) in sorted(self._said.items())
        }

    async def changed(self) -> None:
        """Returns as soon as a verdict has changed since the last call returned."""
        await self._changed.wait()
        self._changed = trio.Event()

    async def run(self) -> NoReturn:
        """Task: asks whoever is due."""
        async with trio.open_nursery() as nursery:
            while True:
                self._aimed = trio.Event()
                now = trio.current_time()
                wait_s = max(self._due[0].at, self._next_free) - now if self._due else float("inf")
                if wait_s > 0:
                    with trio.move_on_after(wait_s):
                        await self._aimed.wait()
                    continue
                due = heapq.heappop(self._due)
                if due.number != due.watched.next_number[due.asks_for_answer]:
                    continue
                await self._in_flight.acquire()
                now = trio.current_time()
                self._next_free = max(self._next_free, now - _BURST * self._gap_s) + self._gap_s
                self._again(due, now)
                nursery.start_soon(self._ask, due)

    async def _ask(self, due: _Due) -> None:
        watched = due.watched
        try:
            asked = await (self._request if due.asks_for_answer else self._connect)(watched.target, self._interface)
        except NotAskedError as error:
            if not self.counts["probes_not_asked"]:
                log.warning("a probe could not be sent, and says nothing: %s", error)
            self.counts["probes_not_asked"] += 1
            return
        finally:
            self._in_flight.release()
        self.counts["probes"] += 1
        if self._is_watched(watched):
            note = watched.lookout.saw_request if due.asks_for_answer else watched.lookout.saw_connection
            note(asked, trio.current_time())
            if watched.lookout.is_in_doubt(of_requests=due.asks_for_answer):
                self._hurry(watched, asks_for_answer=due.asks_for_answer)
            self._judge(watched.target.member_id)

    def _judge(self, member: int) -> None:
        """Says what is known of the member now, if that is not what was said last."""
        speaker = worst(self._by_member[member])
        if speaker is None or speaker.verdict is None:
            return
        before = self._said.get(member)
        if before is not None and before[0] is speaker.verdict:
            return
        self._said[member] = speaker.verdict, trio.current_time()
        level = logging.INFO if speaker.verdict is ProbeVerdict.HEALTHY else logging.WARNING
        log.log(level, "member %d is %s: %s", member, speaker.verdict, speaker.detail)
        self._changed.set()

    def _is_watched(self, watched: _Watched) -> bool:
        return self._watched.get((watched.target.pool, watched.target.member_id)) is watched

    def _again(self, due: _Due, now: float) -> None:
        """Its next time, as it begins."""
        if not self._is_watched(due.watched):
            return
        interval_s = _interval_s(due.watched, asks_for_answer=due.asks_for_answer)
        if now - due.at > interval_s:
            self.counts["probes_late"] += 1
        at = now + interval_s * self._chance.uniform(1 - JITTER, 1 + JITTER)
        self._put(at, due.watched, asks_for_answer=due.asks_for_answer)

    def _hurry(self, watched: _Watched, *, asks_for_answer: bool) -> None:
        """It is asked sooner than was planned, unless that is about to be."""
        at = trio.current_time() + _interval_s(watched, asks_for_answer=asks_for_answer) / HASTE
        planned = watched.next_at.get(asks_for_answer, at)
        if at < planned:
            self._put(at, watched, asks_for_answer=asks_for_answer)
            self._aimed.set()

    def _schedule(self, watched: _Watched, now: float) -> None:
        """Begins somewhere in the first interval: members are not asked all at once."""
        for asks_for_answer in (False,) if watched.target.probe.kind is ProbeKind.TCP else (False, True):
            at = now + self._chance.uniform(0, _interval_s(watched, asks_for_answer=asks_for_answer))
            self._put(at, watched, asks_for_answer=asks_for_answer)

    def _put(self, at: float, watched: _Watched, *, asks_for_answer: bool) -> None:
        number = next(self._numbers)
        watched.next_number[asks_for_answer], watched.next_at[asks_for_answer] = number, at
        heapq.heappush(self._due, _Due(at, number, watched, asks_for_answer))


def _interval_s(watched: _Watched, *, asks_for_answer: bool) -> float:
    probe = watched.target.probe
    return (probe.interval_ms if asks_for_answer else probe.reach_interval_ms) / 1000
