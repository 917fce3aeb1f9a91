"""An agent as a process: joins the fleet if it is told to, holds its interface, and runs until a signal."""

import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import trio

from l4.balancer import BalancerAgent
from l4.capabilities import NotPermitted, effective_capabilities, require_capabilities
from l4.heap import keep_heap_small
from l4.redirector import RedirectorAgent
from l4.reload import answer_reloads, reload_on_hangup
from l4.sole_agent import AnotherAgentRuns, sole_agent
from orchestrator.contract.client import run_agent
from orchestrator.contract.join import JoinFailed, join
from orchestrator.contract.node import AgentRole
from orchestrator.contract.respondent import Respondent
from orchestrator.contract.state_directory import NotJoined, StateDirectory

log = logging.getLogger(__name__)

_FATAL = (JoinFailed, NotJoined, NotPermitted, AnotherAgentRuns, OSError)

KernelAgent = BalancerAgent | RedirectorAgent
Task = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Joining:
    """How to join the fleet at the first start."""

    orchestrator: str | None
    token_file: Path | None
    node: str | None

    async def join_if_told(self, state: StateDirectory, role: AgentRole) -> None:
        """Raises JoinFailed, NotJoined."""
        if self.orchestrator and self.token_file and self.node:
            await join(state, orchestrator=self.orchestrator, token_file=self.token_file, node=self.node, role=role)
        identity = state.identity()
        if identity.role is not role:
            raise JoinFailed(f"{state.path} belongs to {identity}: give each agent a state directory of its own")


def run_to_the_end(
    role: AgentRole,
    agent: KernelAgent,
    respondent: Respondent,
    state: StateDirectory,
    interface: str,
    joining: Joining,
    tasks: Sequence[Task],
) -> None:
    """Runs agent and tasks until a signal. What cannot be run ends with one line that says why (ClickException)."""

    async def supervise() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, nursery.cancel_scope)
            await joining.join_if_told(state, role)
            require_capabilities(effective_capabilities())
            for task in tasks:
                nursery.start_soon(task)
            nursery.start_soon(answer_reloads, claim, agent)
            nursery.start_soon(reload_on_hangup, agent)
            await run_agent(
                agent,
                state=state,
                ready=lambda: log.info("%s in service on %s", role, interface),
                respondent=respondent,
                bell=agent.bell if isinstance(agent, BalancerAgent) else None,
            )

    keep_heap_small()
    reasons: list[str] = []
    try:
        with sole_agent(role, interface) as claim:
            trio.run(supervise)
    except* _FATAL as group:
        reasons = [str(error) for error in _leaves(group)]
    if reasons:
        raise click.ClickException("; ".join(reasons))


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


async def _cancel_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("%s: the agent ends; what it put into the kernel stays", signal.Signals(number).name)
            scope.cancel()
            return
