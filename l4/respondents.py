"""Who answers operators' inquiries: for a balancer agent, and for a redirector agent."""

import time
from collections.abc import Awaitable

import trio

from l4 import trace, trace_arrival
from l4.balancer import BalancerAgent
from l4.balancer_program import BalancerProgram
from l4.capture import Captures
from l4.checks import checkup
from l4.checks.check import Place, Subject
from l4.ingress import IngressMap
from l4.interface import InterfaceError, look_up_interface
from l4.program_error import NotInService, ProgramError
from l4.redirector import RedirectorAgent
from l4.redirector_program import RedirectorProgram
from l4.tcp_sockets import SocketDumpError
from orchestrator.contract.checkup import Checkup, CheckupAnswer
from orchestrator.contract.inquiry import (
    Answer,
    Capture,
    Probe,
    Question,
    Trace,
    TraceAnswer,
    TraceArrival,
    TraceArrivalAnswer,
)
from orchestrator.contract.report import BalancerStatus, RedirectorStatus
from orchestrator.contract.respondent import InquiryRefused, Post
from orchestrator.contract.snapshot import BalancerSnapshot, RedirectorSnapshot

#: Seconds that a checkup waits for the agent's own state. One that is held up by something is looked at without it.
STATUS_WAIT_S = 3.0


class BalancerRespondent:
    """Answers for a balancer agent."""

    def __init__(self, agent: BalancerAgent, interface: str, place: Place) -> None:
        self._agent = agent
        self._interface = interface
        self._place = place
        self._captures = Captures(agent, interface)

    async def respond(self, question: Question, post: Post) -> None:
        """Raises InquiryRefused."""
        match question:
            case Capture():
                await self._captures.capture(question, post)
            case Trace():
                await post(await _told(self._trace(question.probe)))
            case Checkup():
                await post(await _examined(self._agent, self._place, question))
            case _:
                raise _not_for("balancer", question)

    async def _trace(self, probe: Probe) -> TraceAnswer:
        # The rehearsal is made beside the agent's other work: that takes seconds. Only the frame's run waits its turn.
        running = await self._agent.inspect(lambda program, _: program)
        rehearsal = await trio.to_thread.run_sync(trace.rehearsal_of, running)

        def look(program: BalancerProgram, snapshot: BalancerSnapshot) -> TraceAnswer:
            return trace.trace(program, rehearsal, snapshot, look_up_interface(self._interface), probe)

        with rehearsal:
            return await self._agent.inspect(look)


class RedirectorRespondent:
    """Answers for a redirector agent."""

    def __init__(self, agent: RedirectorAgent, interface: str, place: Place) -> None:
        self._agent = agent
        self._interface = interface
        self._place = place

    async def respond(self, question: Question, post: Post) -> None:
        """Raises InquiryRefused."""
        match question:
            case TraceArrival():
                await post(await _told(self._trace_arrival(question.frame)))
            case Checkup():
                await post(await _examined(self._agent, self._place, question))
            case _:
                raise _not_for("redirector", question)

    async def _trace_arrival(self, frame: bytes) -> TraceArrivalAnswer:
        running = await self._agent.inspect(lambda program, _: program)
        rehearsal = await trio.to_thread.run_sync(trace_arrival.rehearsal_of, running)

        def look(program: RedirectorProgram, snapshot: RedirectorSnapshot) -> TraceArrivalAnswer:
            interface = look_up_interface(self._interface)
            with program.pins.open("ingress") as ingress:
                return trace_arrival.trace_arrival(rehearsal, snapshot, interface, IngressMap(ingress), frame)

        with rehearsal:
            return await self._agent.inspect(look)


async def _examined(agent: BalancerAgent | RedirectorAgent, place: Place, question: Checkup) -> CheckupAnswer:
    """Takes the agent's turn for a moment only: what is looked for may be why it is held up."""
    asked_at = time.monotonic()
    status: BalancerStatus | RedirectorStatus | None = None
    with trio.move_on_after(STATUS_WAIT_S):
        status = await agent.status()
    subject = Subject(place, agent.snapshot, status, is_agent=True, restorations=agent.restorations)
    return await checkup.answer(subject, fix=question.fix, asked_at=asked_at)


async def _told(answer: Awaitable[Answer]) -> Answer:
    """The answer, or why there is none. Raises InquiryRefused."""
    try:
        return await answer
    except NotInService as error:
        hint = "`edgectl status` shows what it waits for"
        raise InquiryRefused("not_in_service", str(error), hint) from error
    except ValueError as error:
        raise InquiryRefused("bad_packet", str(error), "ask for a packet that could be") from error
    except (ProgramError, InterfaceError, SocketDumpError, OSError) as error:
        raise InquiryRefused("no_trace", f"the packet cannot be rehearsed: {error}", "see the agent's log") from error


def _not_for(role: str, question: Question) -> InquiryRefused:
    """The answer to a question that another role answers."""
    return InquiryRefused("not_supported", f"a {role} answers no {question.kind!r}", "upgrade edge-l4 on this node")
