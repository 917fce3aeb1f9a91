"""Operators' inquiries to agents, in memory: handed out once, answered in pieces, and bounded in number, size and time.

Theory of operation

1. `ask` puts a question down. The agent it is for waits in `next_for` and is handed it at once. An agent that died
   leaves a poll that nobody reads any more: the newest poll is the one that counts, and a question of which nothing
   was heard is handed out again. Agents know what they are at by its id.
2. The agent brings its answer piece by piece (`take_piece`), at least one a second. While the operator has not fetched
   what there is and the buffer is full, the agent is kept waiting: nothing grows.
3. The operator fetches pieces (`progress`) until the inquiry has ended.
4. Whoever falls silent is given up: an agent that does not take its question or stops answering ends the inquiry with
   a problem that says what to do; an operator who does not fetch any more ends it without a word, and the agent is
   told with its next piece that nobody listens.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from orchestrator.contract.base import Contract
from orchestrator.contract.inquiry import (
    MAX_CAPTURE_S,
    PIECE_EVERY_S,
    TAKE_S,
    Answer,
    Inquiry,
    InquiryProgress,
    Piece,
    Question,
)
from orchestrator.contract.node import AgentIdentity
from orchestrator.contract.wire import Problem
from orchestrator.fleet.document import FleetRefused

#: Inquiries at once: of the fleet, and to one agent. A handful of operators look at all L4 nodes of a large fleet.
MAX_INQUIRIES = 256
MAX_INQUIRIES_OF_AGENT = 4
#: Octets of answers that wait for their operator, for each inquiry.
MAX_WAITING_OCTETS = 2 * 1024 * 1024
#: Seconds after which a silent agent or operator is given up: some pieces, or some fetches, in a row.
AGENT_SILENT_S = 10 * PIECE_EVERY_S
OPERATOR_SILENT_S = 15.0
#: Seconds after which a question that was handed out, and of which nothing was heard, is handed out again.
HAND_OUT_AGAIN_S = 2 * PIECE_EVERY_S
#: Seconds of an inquiry's life: the longest capture, and the last pieces of it.
MAX_LIFE_S = MAX_CAPTURE_S + 30.0
#: Seconds between two looks at silences while somebody waits.
LOOK_S = 0.5


@dataclass(slots=True)
class _Open:
    """An inquiry that has not been fetched to its end."""

    inquiry: Inquiry
    agent: AgentIdentity
    asked_at: float
    fetched_at: float
    taken_at: float | None = None
    first_taken_at: float | None = None
    heard_at: float | None = None
    """When the agent's last piece came in."""
    answers: list[Answer] = field(default_factory=list)
    octets: int = 0
    ended: bool = False
    problem: Problem | None = None
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def silent_since(self) -> float | None:
        """When the agent was last heard of, or first handed the question."""
        return self.heard_at if self.heard_at is not None else self.first_taken_at

    def end(self, problem: Problem | None = None) -> None:
        if not self.ended:
            self.ended, self.problem = True, problem
        self.tell()

    def tell(self) -> None:
        """Wake whoever waits for a change."""
        self.changed.set()
        self.changed = trio.Event()


@dataclass(slots=True)
class InquiryBoard:
    """`monotonic` gives seconds that only grow; injected, so that tests can step it."""

    monotonic: Callable[[], float] = trio.current_time
    _open: dict[str, _Open] = field(default_factory=dict)
    _polls: dict[AgentIdentity, int] = field(default_factory=dict)
    """How often each agent has asked for inquiries since this orchestrator started."""
    _arrived: trio.Event = field(default_factory=trio.Event)

    def __repr__(self) -> str:
        return f"InquiryBoard({len(self._open)} open)"

    # --- operators

    def ask(self, asked_by: str, agent: AgentIdentity, question: Question) -> str:
        """The new inquiry's id. Raises FleetRefused: too_many_inquiries."""
        self._give_up_silent()
        to_agent = sum(1 for one in self._open.values() if one.agent == agent and not one.ended)
        if len(self._open) >= MAX_INQUIRIES or to_agent >= MAX_INQUIRIES_OF_AGENT:
            raise FleetRefused(
                "too_many_inquiries",
                f"{len(self._open)} inquiries are open, {to_agent} of them to {agent}",
                "wait until some have ended",
            )
        now = self.monotonic()
        inquiry = Inquiry(id=secrets.token_hex(16), asked_by=asked_by, question=question)
        self._open[inquiry.id] = _Open(inquiry, agent, asked_at=now, fetched_at=now)
        self._arrived.set()
        self._arrived = trio.Event()
        return inquiry.id

    async def progress(self, asked_by: str, inquiry_id: str, wait_s: float) -> InquiryProgress:
        """What came in since the last call, as soon as there is something; empty when the wait is over.

        Raises FleetRefused: not_found.
        """
        found = self._of_operator(asked_by, inquiry_id)
        until = self.monotonic() + wait_s
        while True:
            found.fetched_at = self.monotonic()
            self._give_up_silent()
            if found.answers or found.ended or found.fetched_at >= until:
                break
            changed = found.changed
            with trio.move_on_after(min(LOOK_S, until - found.fetched_at)):
                await changed.wait()
        answers, found.answers, found.octets = tuple(found.answers), [], 0
        found.tell()
        if found.ended:
            self._open.pop(inquiry_id, None)
        return InquiryProgress(answers=answers, ended=found.ended, problem=found.problem)

    def cancel(self, asked_by: str, inquiry_id: str) -> None:
        """Nobody listens any more. Raises FleetRefused: not_found."""
        self._of_operator(asked_by, inquiry_id).end()
        del self._open[inquiry_id]

    # --- agents

    async def next_for(self, agent: AgentIdentity, wait_s: float) -> Inquiry | None:
        """The oldest inquiry that waits for this agent; None when the wait is over, or a newer call waits instead."""
        until = self.monotonic() + wait_s
        poll = self._polls[agent] = self._polls.get(agent, 0) + 1
        while self._polls.get(agent) == poll:
            now = self.monotonic()
            waiting = [one for one in self._open.values() if one.agent == agent and one.heard_at is None]
            for one in waiting:
                if not one.ended and (one.taken_at is None or now - one.taken_at >= HAND_OUT_AGAIN_S):
                    one.taken_at = now
                    one.first_taken_at = one.first_taken_at or now
                    return one.inquiry
            if now >= until:
                break
            arrived = self._arrived
            with trio.move_on_after(min(LOOK_S, until - now) if waiting else until - now):
                await arrived.wait()
        return None

    async def take_piece(self, agent: AgentIdentity, inquiry_id: str, piece: Piece) -> bool:
        """Takes a piece as soon as there is room. False if nobody wants it."""
        while True:
            found = self._open.get(inquiry_id)
            if found is None or found.agent != agent or found.ended:
                return False
            found.heard_at = self.monotonic()
            size = _octets(piece.answer)
            if not found.octets or found.octets + size <= MAX_WAITING_OCTETS:
                break
            self._give_up_silent()
            changed = found.changed
            with trio.move_on_after(LOOK_S):
                await changed.wait()
        if piece.answer is not None:
            found.answers.append(piece.answer)
            found.octets += size
        if piece.last:
            found.end(piece.problem)
        elif piece.answer is not None:
            found.tell()
        return True

    def keep_only(self, agents: set[AgentIdentity]) -> None:
        """Forget agents that the fleet no longer knows, and whoever has fallen silent: bounds the board."""
        for agent in self._polls.keys() - agents:
            del self._polls[agent]
        self._give_up_silent()

    # --- silence

    def _of_operator(self, asked_by: str, inquiry_id: str) -> _Open:
        found = self._open.get(inquiry_id)
        if found is None or found.inquiry.asked_by != asked_by:
            raise FleetRefused(
                "not_found",
                "there is no such inquiry of yours: it has ended, or another orchestrator has it, or had it",
                "ask again",
            )
        return found

    def _give_up_silent(self) -> None:
        now = self.monotonic()
        for inquiry_id, one in list(self._open.items()):
            if now - one.fetched_at > OPERATOR_SILENT_S:
                one.end()
                del self._open[inquiry_id]
            elif one.taken_at is None and now - one.asked_at > TAKE_S:
                one.end(self._not_taken(one.agent))
            elif one.silent_since is not None and now - one.silent_since > AGENT_SILENT_S:
                one.end(
                    Problem(
                        code="agent_does_not_answer",
                        message=f"{one.agent} took the question and fell silent for {AGENT_SILENT_S:.0f} s",
                        hint="look at the agent's log, and at `edgectl status`; then ask again",
                    )
                )
            elif now - one.asked_at > MAX_LIFE_S:
                one.end(Problem(code="too_slow", message=f"no end after {MAX_LIFE_S:.0f} s", hint="ask again"))

    def _not_taken(self, agent: AgentIdentity) -> Problem:
        if agent in self._polls:
            return Problem(
                code="agent_does_not_answer",
                message=f"{agent} did not take the question within {TAKE_S:.0f} s",
                hint=f"it is busy, or lost its connection: see `edgectl status` and its log on {agent.node}",
            )
        return Problem(
            code="agent_takes_no_questions",
            message=f"{agent} reports, but has asked for no questions since this orchestrator started",
            hint=f"its agent is of a version that cannot answer them: upgrade it on {agent.node}, then restart it",
        )


def _octets(answer: Contract | None) -> int:
    return 0 if answer is None else len(answer.model_dump_json())
