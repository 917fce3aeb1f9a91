"""Captures on an L4 node: the tap's records, with the names that the snapshot has for them, piece by piece."""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import trio

from l4.balancer_program import BalancerProgram
from l4.flow_hash import row_of
from l4.program_error import NotInService, ProgramError
from l4.program_loader import counter_names
from l4.tap import Tap
from l4.tap_records import TapPlan, TapRecord
from l4.trace_words import VERDICTS
from orchestrator.contract.inquiry import (
    MAX_PIECE_PACKETS,
    PIECE_EVERY_S,
    Capture,
    CapturedPacket,
    CapturePiece,
    Verdict,
)
from orchestrator.contract.respondent import InquiryRefused, Post
from orchestrator.contract.snapshot import BalancerSnapshot
from orchestrator.contract.vip import Vip

#: Seconds between two looks at the ring buffer. Nothing in the kernel wakes the agent for a packet.
LOOK_S = 0.05
#: Nanoseconds within which CPUs may put their records into the buffer in another order than that of their stamps.
DISORDER_NS = 10_000_000

T = TypeVar("T")


class Inspected(Protocol):
    """What captures ask of a balancer agent."""

    async def inspect(self, look: Callable[[BalancerProgram, BalancerSnapshot], T]) -> T:
        """What `look` makes of the running program and its snapshot. Raises NotInService."""


class Captures:
    """The captures of one balancer agent: one at a time."""

    def __init__(self, agent: Inspected, interface: str) -> None:
        self._agent = agent
        self._interface = interface
        self._runs: Capture | None = None

    async def capture(self, question: Capture, post: Post) -> None:
        """Posts what the question asks for, until its end. Raises InquiryRefused."""
        if self._runs is not None:
            raise InquiryRefused(
                "capture_runs",
                f"this node is capturing {self._runs.vip} for somebody else, for {self._runs.seconds:.0f} s at most",
                "wait for its end; a node captures one VIP at a time",
            )
        self._runs = question
        try:
            await self._capture(question, post)
        finally:
            self._runs = None

    async def _capture(self, question: Capture, post: Post) -> None:
        snapshot = await self._inspect(lambda _, snapshot: snapshot)
        vip = next((vip for vip in snapshot.vips if vip.name == question.vip), None)
        if vip is None:
            raise InquiryRefused(
                "no_such_vip", f"this node runs no VIP {question.vip!r}", "`edgectl get vips` lists them"
            )
        names = _Names(snapshot)
        ends_at = trio.current_time() + question.seconds
        async with self._tapped(_plan(question, vip)) as tap:
            posted_at = trio.current_time()
            is_over = False
            while True:
                # A packet is counted before its copy is there: after the end, there is one more look.
                was_over = is_over
                is_over = trio.current_time() >= ends_at or tap.counts().taken >= question.packets
                piece, is_drained = self._piece(tap, names)
                is_last = was_over and is_drained
                if piece.packets or is_last or trio.current_time() - posted_at >= PIECE_EVERY_S:
                    await post(piece)
                    posted_at = trio.current_time()
                if is_last:
                    return
                if is_drained:
                    await trio.sleep(LOOK_S)

    def _piece(self, tap: Tap, names: "_Names") -> tuple[CapturePiece, bool]:
        """The next piece, and whether that was all there was."""
        looked_at = time.monotonic_ns()
        records = sorted(tap.read(MAX_PIECE_PACKETS), key=lambda record: record.at_ns)
        is_drained = len(records) < MAX_PIECE_PACKETS
        piece = CapturePiece(
            packets=tuple(names.describe(record, tap.unix_ns(record.at_ns)) for record in records),
            until_ns=tap.unix_ns(looked_at if is_drained else records[0].at_ns) - DISORDER_NS,
            lost=tap.counts().lost,
            interface=self._interface,
        )
        return piece, is_drained

    @asynccontextmanager
    async def _tapped(self, plan: TapPlan) -> AsyncIterator[Tap]:
        """While this is open, the node's packets are shown to a tap; whatever ends it, they no longer are."""

        def show(is_tapped: bool) -> Callable[[BalancerProgram, BalancerSnapshot], None]:
            return lambda program, _: program.show_to_tap(is_tapped)

        try:
            # Made beside the agent's other work: that takes a second or more.
            pins = await self._inspect(lambda program, _: program.pins)
            tap = await trio.to_thread.run_sync(Tap, pins, plan)
        except (ProgramError, OSError) as error:
            message = f"the tap cannot be put in its place: {error}"
            raise InquiryRefused("no_tap", message, "the agent's log on this node has more") from error
        try:
            await self._inspect(show(True))
            yield tap
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await self._inspect(show(False))
                finally:
                    tap.close()

    async def _inspect(self, look: Callable[[BalancerProgram, BalancerSnapshot], T]) -> T:
        try:
            return await self._agent.inspect(look)
        except NotInService as error:
            raise InquiryRefused("not_in_service", str(error), "`edgectl status` shows what it waits for") from error


def _plan(question: Capture, vip: Vip) -> TapPlan:
    return TapPlan(
        deadline_ns=time.monotonic_ns() + int(question.seconds * 1e9),
        packets=question.packets,
        vip_id=vip.id,
        network=vip.network,
        sample=question.sample,
        snap_length=question.snap_length,
        drops_only=question.drops_only,
    )


class _Names:
    """What a snapshot calls that which records give numbers of."""

    def __init__(self, snapshot: BalancerSnapshot) -> None:
        self._counters = counter_names("BALANCER")
        self._rows = snapshot.forwarding.rows
        self._members = {member.id: member.name for pool in snapshot.pools for member in pool.members}

    def describe(self, record: TapRecord, at_ns: int) -> CapturedPacket:
        note = record.note
        return CapturedPacket(
            at_ns=at_ns,
            length=record.length,
            octets=record.octets,
            verdict=VERDICTS.get(note.verdict, Verdict.ABORTED),
            reason=None if note.reason is None else self._counters[note.reason],
            row=row_of(note.hash, self._rows) if note.hash else None,
            owner=self._members.get(note.owner),
            chain=tuple(self._named(note.rest)),
        )

    def _named(self, members: Iterable[int]) -> Iterable[str]:
        return (self._members.get(member, f"member-{member}") for member in members)
