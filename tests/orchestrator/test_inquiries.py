"""Inquiries the whole way: an operator asks, the orchestrator carries, an agent answers."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from orchestrator.cli.fleet_api import FleetApi
from orchestrator.cli.inquiring import InquiryFailed, ask_once, inquiry
from orchestrator.contract.client import run_agent
from orchestrator.contract.connection import Connection, OrchestratorRefused, verified_context
from orchestrator.contract.inquiry import (
    Capture,
    CapturePiece,
    Probe,
    Question,
    Trace,
    TraceAnswer,
    Verdict,
)
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.report import Status
from orchestrator.contract.respondent import InquiryRefused, Post, Respondent
from orchestrator.contract.snapshot import Snapshot
from orchestrator.fleet.control import Control
from tests.orchestrator.fleets import balancer_status, files
from tests.orchestrator.live_orchestrator import LiveOrchestrator, create

BALANCER = AgentIdentity(node="l4-1", role=AgentRole.BALANCER)
OTHER = AgentIdentity(node="l4-2", role=AgentRole.BALANCER)
PROBE = Probe(source="198.51.100.7", source_port=40000, destination="203.0.113.10", destination_port=443)
TRACE = Trace(probe=PROBE)
CAPTURE = Capture(vip="web-v4", seconds=10, packets=100)
ANSWER = TraceAnswer(steps=(), verdict=Verdict.DROPPED, reason="bad_tcp_flags", counters={"bad_tcp_flags": 1})


@dataclass
class Balancer:
    """An agent that applies everything."""

    async def apply(self, snapshot: Snapshot) -> None:
        pass

    async def status(self) -> Status:
        return balancer_status()


@dataclass
class Answers:
    """Answers traces; captures until it is told to stop, or raises what it is told to."""

    raises: Exception | None = None
    stopped: trio.Event = field(default_factory=trio.Event)

    async def respond(self, question: Question, post: Post) -> None:
        if self.raises is not None:
            raise self.raises
        if isinstance(question, Trace):
            await post(ANSWER)
            return
        try:
            for number in range(3):
                await post(CapturePiece(until_ns=number))
            await trio.sleep_forever()
        finally:
            self.stopped.set()


@asynccontextmanager
async def fleet_with(directory: Path, respondent: Respondent | None) -> AsyncIterator[tuple[Control, FleetApi]]:
    """An orchestrator, the agent of l4-1 with that respondent, and an operator."""
    live = await create(directory)
    async with live.running() as control, trio.open_nursery() as nursery:
        await control.apply(files())
        state = await live.joined(control, "l4-1", AgentRole.BALANCER)

        @nursery.start_soon
        async def _agent() -> None:
            await run_agent(Balancer(), state=state, respondent=respondent)

        await until(lambda: control.board.fresh("l4-1", AgentRole.BALANCER) is not None)
        async with operator(live) as api:
            yield control, api
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def operator(live: LiveOrchestrator) -> AsyncIterator[FleetApi]:
    pair = (str(live.operator / "operator.pem"), str(live.operator / "operator.key"))
    context = verified_context(str(live.data.ca_file), certificate=pair)
    async with Connection((live.url,), context, max_answer_bytes=2**20) as connection:
        yield FleetApi(connection, 1)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_an_agent_answers_an_operator(tmp_path: Path) -> None:
    async with fleet_with(tmp_path, Answers()) as (_, api):
        assert await ask_once(api, "l4-1", TRACE, TraceAnswer) == ANSWER


async def test_an_agent_stops_when_the_operator_leaves(tmp_path: Path) -> None:
    respondent = Answers()
    async with fleet_with(tmp_path, respondent) as (_, api):
        async with inquiry(api, "l4-1", CAPTURE) as asked:
            assert await asked.answers()
        with trio.fail_after(10):
            await respondent.stopped.wait()
        # and it takes the next question
        assert await ask_once(api, "l4-1", TRACE, TraceAnswer) == ANSWER


async def test_a_capture_does_not_keep_a_trace_waiting(tmp_path: Path) -> None:
    async with fleet_with(tmp_path, Answers()) as (_, api), inquiry(api, "l4-1", CAPTURE) as asked:
        await asked.answers()
        assert await ask_once(api, "l4-1", TRACE, TraceAnswer) == ANSWER


@pytest.mark.parametrize(
    ("raises", "code"),
    [(InquiryRefused("no_such_vip", "no", "look"), "no_such_vip"), (RuntimeError("a bug"), "agent_failed")],
    ids=["refused", "bug"],
)
async def test_a_refusal_reaches_the_operator_and_a_bug_does_not_take_the_agent_down(
    tmp_path: Path, raises: Exception, code: str
) -> None:
    respondent = Answers(raises)
    async with fleet_with(tmp_path, respondent) as (_, api):
        with pytest.raises(InquiryFailed) as failed:
            await ask_once(api, "l4-1", TRACE, TraceAnswer)
        assert failed.value.problem.code == code
        assert failed.value.problem.hint
        respondent.raises = None
        assert await ask_once(api, "l4-1", TRACE, TraceAnswer) == ANSWER


async def test_an_agent_without_the_channel_gives_words(tmp_path: Path) -> None:
    async with fleet_with(tmp_path, None) as (_, api):
        with pytest.raises(InquiryFailed) as failed:
            await ask_once(api, "l4-1", TRACE, TraceAnswer)
        assert failed.value.problem.code == "agent_takes_no_questions"


@pytest.mark.parametrize(("node", "code"), [("l4-2", "agent_silent"), ("l4-9", "not_found"), ("proxy-1", "not_found")])
async def test_who_cannot_be_asked_is_said_at_once(tmp_path: Path, node: str, code: str) -> None:
    async with fleet_with(tmp_path, Answers()) as (_, api):
        with pytest.raises(OrchestratorRefused) as refused:
            await api.ask(node, TRACE)
        (problem,) = refused.value.problems
        assert problem.code == code
        assert problem.hint
