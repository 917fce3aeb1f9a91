"""The agent's end of inquiries: takes them from the orchestrator, and brings answers back piece by piece.

Nothing that the agent is for depends on this. An orchestrator that cannot be reached, or does not know of inquiries,
is asked again later; an answer that nobody wants any more is given up at once.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import trio
from pydantic import ValidationError

from orchestrator.contract.backoff import Backoff
from orchestrator.contract.connection import Connection, OrchestratorRefused, OrchestratorUnreachable
from orchestrator.contract.inquiry import PIECE_EVERY_S, Answer, Inquiry, Piece, PieceTaken, Question
from orchestrator.contract.wire import NODE_INQUIRY, NODE_INQUIRY_PIECE, Problem

log = logging.getLogger(__name__)

#: Seconds that one long poll for inquiries lasts; as that for snapshots.
WATCH_S = 20.0
#: Inquiries that an agent works at, at once: a long capture must not keep a trace waiting.
MAX_AT_ONCE = 4
#: Seconds until an orchestrator that does not know of inquiries is asked again: it may have been upgraded.
UNKNOWN_PATH_S = 30.0
#: Seconds that a piece may be kept waiting for its operator (`orchestrator.fleet.inquiries` gives silent ones up).
MAX_PIECE_WAIT_S = 20.0

#: Brings one piece of an answer on its way.
Post = Callable[[Answer], Awaitable[None]]


class InquiryRefused(Exception):
    """Raised by `Respondent.respond`: there is no answer, and this is why, with what to do."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.problem = Problem(code=code, message=message, hint=hint)


class Respondent(Protocol):
    """What answers an agent's inquiries."""

    async def respond(self, question: Question, post: Post) -> None:
        """Answers by any number of `post`. Raises InquiryRefused.

        It is cancelled when nobody wants the answer any more. Any other exception is a bug: it is logged with its
        traceback, and the operator is told that there is no answer.
        """


async def answer_inquiries(respondent: Respondent, connection: Connection, is_current: Callable[[], bool]) -> None:
    """Takes inquiries, and answers up to `MAX_AT_ONCE` at a time, while `is_current` (looked at between polls)."""
    backoff = Backoff()
    places = trio.CapacityLimiter(MAX_AT_ONCE)
    under_way: set[str] = set()
    async with trio.open_nursery() as nursery:
        while is_current():
            try:
                async with places:
                    inquiry = await _next(connection)
            except OrchestratorUnreachable:
                await trio.sleep(backoff.next_wait_s())  # the tasks that matter more have said so already
                continue
            except OrchestratorRefused:
                await trio.sleep(UNKNOWN_PATH_S)
                continue
            backoff.reset()
            if inquiry is None:
                continue
            if inquiry.id in under_way:  # handed out again, as its first piece took long
                await trio.sleep(PIECE_EVERY_S)
                continue
            under_way.add(inquiry.id)
            nursery.start_soon(_answer, places, under_way, _Answering(inquiry, connection), respondent)


async def _answer(
    places: trio.CapacityLimiter, under_way: set[str], answering: "_Answering", respondent: Respondent
) -> None:
    try:
        async with places:
            await answering.run(respondent)
    finally:
        under_way.discard(answering.inquiry.id)


async def _next(connection: Connection) -> Inquiry | None:
    """The next inquiry, or None after a quiet wait. Raises OrchestratorUnreachable, OrchestratorRefused."""
    answer = await connection.request("GET", NODE_INQUIRY, query={"wait": str(WATCH_S)}, wait_s=WATCH_S)
    if answer.status == 204:
        return None
    try:
        return Inquiry.model_validate_json(answer.body)
    except ValidationError as error:
        # Of a newer orchestrator: it hears nothing more of this one, and tells its operator so.
        log.warning("an inquiry was not understood: %s", error.errors(include_input=False, include_url=False)[0]["msg"])
        return None


@dataclass(slots=True)
class _Answering:
    """One inquiry, from its question to the last piece of its answer."""

    inquiry: Inquiry
    connection: Connection
    turn: trio.Lock = field(default_factory=trio.Lock)
    """Pieces arrive in order."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self, respondent: Respondent) -> None:
        log.info("%s asks: %s", self.inquiry.asked_by, self.inquiry.question.kind)
        problem: Problem | None = None
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._say_that_it_goes_on)
                problem = await self._respond(respondent)
                nursery.cancel_scope.cancel()
        if not self.scope.cancelled_caught:
            await self._bring(Piece(last=True, problem=problem))

    async def _respond(self, respondent: Respondent) -> Problem | None:
        try:
            await respondent.respond(self.inquiry.question, self._post)
        except InquiryRefused as refusal:
            return refusal.problem
        except Exception as error:
            log.exception("no answer to %s, in a way that the agent did not foresee", self.inquiry.question.kind)
            message = f"unforeseen {type(error).__name__}: {error}"
            return Problem(code="agent_failed", message=message, hint="the agent's log has more")
        return None

    async def _post(self, answer: Answer) -> None:
        await self._bring(Piece(answer=answer))

    async def _say_that_it_goes_on(self) -> NoReturn:
        while True:
            await trio.sleep(PIECE_EVERY_S)
            if not self.turn.locked():  # else a piece is under way, which says the same
                await self._bring(Piece())

    async def _bring(self, piece: Piece) -> None:
        """Cancels the whole inquiry if nobody wants it, or nobody can be reached."""
        async with self.turn:
            try:
                answer = await self.connection.request(
                    "POST",
                    NODE_INQUIRY_PIECE.format(id=self.inquiry.id),
                    body=piece.model_dump_json(),
                    wait_s=MAX_PIECE_WAIT_S,
                )
                wanted = PieceTaken.model_validate_json(answer.body).wanted
            except (OrchestratorUnreachable, OrchestratorRefused, ValidationError) as error:
                log.warning("an answer was given up: %s", error)
                wanted = False
        if not wanted and not piece.last:
            self.scope.cancel()
            await trio.lowlevel.checkpoint()
