"""An inquiry to one agent, from its question to the end of the answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

import trio

from orchestrator.cli.failure import CommandFailed, ExitCode, Finding
from orchestrator.cli.fleet_api import FleetApi
from orchestrator.contract.base import Contract
from orchestrator.contract.connection import OrchestratorRefused, OrchestratorUnreachable
from orchestrator.contract.inquiry import Answer, Question
from orchestrator.contract.wire import Problem

#: Seconds of one long poll for pieces: well below what the orchestrator takes for silence.
POLL_S: Final = 5.0
#: Seconds that an interrupted command takes to say that it no longer listens. If that fails, the agent's bound holds.
GOODBYE_S: Final = 2.0

Kind = TypeVar("Kind", bound=Contract)


class InquiryFailed(Exception):
    """An agent did not answer, or not to the end."""

    def __init__(self, node: str, problem: Problem) -> None:
        super().__init__(f"{node}: {problem.message}")
        self.node = node
        self.problem = problem

    @property
    def failure(self) -> CommandFailed:
        """For a command that cannot do without this answer."""
        return CommandFailed(ExitCode.FAILED, self.finding)

    @property
    def finding(self) -> Finding:
        return Finding(self.problem.code, str(self), hint=self.problem.hint)


class OpenInquiry:
    """A question that was asked."""

    def __init__(self, api: FleetApi, node: str, inquiry_id: str) -> None:
        self._api = api
        self._node = node
        self._id = inquiry_id
        self.ended = False

    async def answers(self) -> tuple[Answer, ...]:
        """What came in, as soon as there is something; `ended` tells whether that was all. Raises InquiryFailed."""
        progress = await self._api.inquiry_progress(self._id, POLL_S)
        self.ended = progress.ended
        if progress.problem is not None:
            raise InquiryFailed(self._node, progress.problem)
        return progress.answers

    async def stop(self) -> None:
        """Tells the agent that nobody listens any more, if that can be told."""
        if self.ended:
            return
        self.ended = True
        deadline = trio.current_time() + GOODBYE_S
        with trio.CancelScope(deadline=deadline, shield=True), suppress(OrchestratorRefused, OrchestratorUnreachable):
            await self._api.cancel_inquiry(self._id)


@asynccontextmanager
async def inquiry(api: FleetApi, node: str, question: Question) -> AsyncIterator[OpenInquiry]:
    """Asks; when the context is left early, the agent is told to stop. Raises as `FleetApi`."""
    asked = OpenInquiry(api, node, await api.ask(node, question))
    try:
        yield asked
    finally:
        await asked.stop()


async def ask_once(api: FleetApi, node: str, question: Question, answer: type[Kind]) -> Kind:
    """The one answer to a question that has one. Raises InquiryFailed, and as `FleetApi`."""
    async with inquiry(api, node, question) as asked:
        while True:
            for piece in await asked.answers():
                if isinstance(piece, answer):
                    return piece
            if asked.ended:
                problem = Problem(code="no_answer", message="it ended without an answer", hint="ask again")
                raise InquiryFailed(node, problem)
