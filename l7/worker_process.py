"""A worker as its supervisor sees it: a process, the channel to it, and the questions that go over it."""

import logging
import socket
from dataclasses import dataclass, field

import trio

from l7 import limits
from l7.channel import (
    MAX_SOCKETS_PER_FRAME,
    Channel,
    Commit,
    Committed,
    ListeningAddress,
    Message,
    Prepare,
    Prepared,
    Refused,
    Sockets,
    WorkerStatus,
)
from l7.listening import Bound
from l7.message_channel import ChannelClosed
from orchestrator.contract.report import ServerHealth
from orchestrator.contract.snapshot import ProxySnapshot

log = logging.getLogger(__name__)

#: After a worker's grace is over: until it is killed.
KILL_AFTER_S = 2.0


class WorkerFailed(Exception):
    """A worker did not do what it was asked; says which and why."""


@dataclass(eq=False, slots=True)
class WorkerProcess:
    """A running worker, as the supervisor sees it."""

    index: int
    process: trio.Process
    channel: Channel
    status: WorkerStatus = field(default_factory=WorkerStatus)
    answers: trio.MemoryReceiveChannel[Message] = field(init=False)
    _answered: trio.MemorySendChannel[Message] = field(init=False)

    def __post_init__(self) -> None:
        # One question is open at a time; a second answer would be a bug of the worker, and is dropped.
        self._answered, self.answers = trio.open_memory_channel(1)

    async def listen(self) -> None:
        """Take its messages until it is gone."""
        try:
            while True:
                message, _sockets = await self.channel.receive()
                if isinstance(message, WorkerStatus):
                    self.status = message
                else:
                    self._answered.send_nowait(message)
        except ChannelClosed:
            self._answered.close()
            # It is gone or going; one that only lost its channel would be of no more use.
            with trio.move_on_after(KILL_AFTER_S):
                await self.process.wait()
            self.process.kill()
        except trio.WouldBlock:
            log.error("worker %d: an answer that nobody asked for; ending it", self.index)
            self._answered.close()
            self.process.kill()

    async def prepare(
        self, snapshot: ProxySnapshot, sockets: dict[Bound, socket.socket], health: tuple[ServerHealth, ...]
    ) -> None:
        """Have it build a snapshot aside. `health`: of servers that it has not checked itself. Raises WorkerFailed."""
        bounds = list(sockets)
        try:
            for first in range(0, len(bounds), MAX_SOCKETS_PER_FRAME):
                part = bounds[first : first + MAX_SOCKETS_PER_FRAME]
                addresses = tuple(ListeningAddress.model_validate({"address": a, "port": p}) for a, p in part)
                await self.channel.send(Sockets(addresses=addresses), tuple(sockets[bound] for bound in part))
            answer = await self._ask(Prepare(snapshot=snapshot, health=health))
        except ChannelClosed as error:
            raise WorkerFailed(f"worker {self.index} ended while it built the snapshot: {error}") from error
        if isinstance(answer, Refused):
            raise WorkerFailed(answer.reason)
        if not isinstance(answer, Prepared):
            raise WorkerFailed(f"worker {self.index} answered {answer.kind} when asked to prepare")

    async def commit(self, version: int) -> None:
        """Have it run what it built. One that cannot is killed: it comes back with the snapshot."""
        try:
            answer = await self._ask(Commit(version=version))
            if isinstance(answer, Committed):
                return
            log.error("worker %d: %s instead of a commit; ending it", self.index, answer.kind)
        except (ChannelClosed, WorkerFailed) as error:
            log.error("worker %d: did not commit: %s; ending it", self.index, error)
        self.process.kill()

    async def tell(self, message: Message) -> None:
        """Send a message that wants no answer. One that is gone is its keeper's to see."""
        try:
            await self.channel.send(message)
        except ChannelClosed:
            log.info("worker %d: gone before it could be told to %s", self.index, message.kind)

    async def _ask(self, question: Message) -> Message:
        with trio.move_on_after(limits.WORKER_APPLY_S):
            await self.channel.send(question)
            try:
                return await self.answers.receive()
            except trio.EndOfChannel:
                raise ChannelClosed("it ended") from None
        raise WorkerFailed(f"worker {self.index} did not answer within {limits.WORKER_APPLY_S:g} s")
