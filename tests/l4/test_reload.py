"""Reloads by the socket that holds an interface: who may ask, and what is answered."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from l4.reload import NotReloaded, Replacement, answer_reloads, ask_for_reload
from l4.sole_agent import AnotherAgentRuns, socket_name, sole_agent
from orchestrator.contract.node import AgentRole

INTERFACE = f"test{os.getpid()}"


class Agent:
    """Answers as it is told."""

    def __init__(self, answer: Replacement | NotReloaded) -> None:
        self.answer = answer
        self.reloads = 0

    async def reload(self) -> Replacement:
        self.reloads += 1
        if isinstance(self.answer, NotReloaded):
            raise self.answer
        return self.answer


@asynccontextmanager
async def answering(agent: Agent) -> AsyncIterator[None]:
    with sole_agent(AgentRole.BALANCER, INTERFACE) as claim:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_reloads, claim, agent)
            yield
            nursery.cancel_scope.cancel()


async def ask() -> str:
    return await trio.to_thread.run_sync(ask_for_reload, AgentRole.BALANCER, INTERFACE)


async def test_who_asks_is_told_what_was_done_or_why_not() -> None:
    agent = Agent(Replacement("eth0", 7, 9, "native"))
    async with answering(agent):
        assert await ask() == "eth0: program 9 in place of program 7, native"
        agent.answer = Replacement("eth0", None, 11, "generic")
        assert await ask() == "eth0: program 11 attached, generic"
        agent.answer = NotReloaded("no snapshot is in service yet")
        with pytest.raises(NotReloaded, match="no snapshot is in service yet"):
            await ask()
    assert agent.reloads == 3


async def test_strangers_and_other_questions_reload_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(Replacement("eth0", 7, 9, "native"))
    async with answering(agent):
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(socket_name(AgentRole.BALANCER, INTERFACE))
            other.sendall(b"detach\n")
            assert await trio.to_thread.run_sync(other.recv, 10) == b""
        if os.geteuid() == 0:
            user = os.getuid
            with socket.socket(socket.AF_UNIX) as stranger:
                os.seteuid(65534)
                try:
                    stranger.connect(socket_name(AgentRole.BALANCER, INTERFACE))
                finally:
                    os.seteuid(user())
                assert await trio.to_thread.run_sync(stranger.recv, 10) == b""
        assert agent.reloads == 0
        await ask()
    assert agent.reloads == 1


async def test_a_second_agent_is_refused_while_the_first_one_listens() -> None:
    async with answering(Agent(NotReloaded("never asked"))):
        with (
            pytest.raises(AnotherAgentRuns, match=f"works on {INTERFACE} already"),
            sole_agent(AgentRole.BALANCER, INTERFACE),
        ):
            pass
        with sole_agent(AgentRole.REDIRECTOR, INTERFACE):
            pass
    with pytest.raises(NotReloaded, match=f"no edge-l4 balancer runs on {INTERFACE}"):
        await ask()
