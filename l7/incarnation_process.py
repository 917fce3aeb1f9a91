"""An incarnation as its keeper sees it: a process, the channel to it, and the listening sockets kept for it."""

import logging
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import trio

from l7.handover import (
    PROTOCOL,
    Deposit,
    Handed,
    HandoverChannel,
    HandoverMessage,
    HandoverRefused,
    Hello,
    InService,
    KeptSocket,
    RestartWanted,
    Standing,
    Trouble,
    Welcome,
    Withdraw,
    Withdrawn,
    named,
    open_handover,
    send_sockets,
)
from l7.message_channel import ChannelClosed

log = logging.getLogger(__name__)

#: What an incarnation that closed its channel, or said nonsense, has left to end by itself.
END_S = 10.0


class Owner(Protocol):
    """Whoever keeps incarnations."""

    def restart_wanted(self, by: "IncarnationProcess", grace_s: float | None) -> None:
        """An operator asks for a restart, by way of this incarnation."""

    async def stands(self, incarnation: "IncarnationProcess", standing: Standing) -> None:
        """What an incarnation that is held or leaves has."""


class IncarnationProcess:
    """One incarnation's process, from its start to its end."""

    def __init__(
        self, number: int, process: trio.Process, channel: HandoverChannel, sockets: dict[KeptSocket, socket.socket]
    ) -> None:
        self.number = number
        self.process = process
        self.sockets = sockets
        """Kept open for it, and for those that succeed it."""
        self.standing: Standing | None = None
        self.in_service = trio.Event()
        self.settled = trio.Event()
        """It is in service, will never be, or is gone."""
        self.stood = trio.Event()
        """A standing came in."""
        self.succeeded = trio.Event()
        """It is no longer the present one."""
        self.ended = trio.Event()
        self.trouble: str | None = None
        """Why it is not in service."""
        self._channel = channel

    def __repr__(self) -> str:
        state = "ended" if self.ended.is_set() else "in service" if self.in_service.is_set() else "starting"
        return f"<incarnation {self.number}: process {self.process.pid}, {state}, {len(self.sockets)} sockets>"

    async def run(self, owner: Owner, before: Standing | None, *, is_alone: bool) -> None:
        """Hand it what it starts from, take its messages, and return when it has ended."""
        welcome = Welcome(incarnation=self.number, before=before, is_alone=is_alone)
        heard_all = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._converse, owner, welcome, heard_all)
                await self.process.wait()
                with trio.move_on_after(END_S):  # its last words may be on the way
                    await heard_all.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.kill()
            if self.trouble is None:
                self.trouble = f"it ended with {cause_of(self.process.returncode)}: see the log"
            self._channel.close()
            self.ended.set()
            self.settled.set()

    async def _converse(self, owner: Owner, welcome: Welcome, heard_all: trio.Event) -> None:
        try:
            await self._greet(welcome)
            while True:
                message, sockets = await self._channel.receive()
                if sockets and not isinstance(message, Deposit):
                    raise HandoverRefused(f"sockets came with {message.kind}")  # noqa: TRY301 - as what `named` raises
                await self._take(owner, message, sockets)
        except HandoverRefused as refused:
            self.trouble = str(refused)
            log.error("incarnation %d: %s; ending it", self.number, refused)
            self.process.kill()
        except ChannelClosed as closed:
            # It is gone or going; one that only lost its channel would be of no more use.
            with trio.move_on_after(END_S):
                await self.process.wait()
            if self.process.returncode is None:
                self.trouble = str(closed)
                log.error("incarnation %d: %s; ending it", self.number, closed)
                self.process.kill()
        finally:
            heard_all.set()

    async def _greet(self, welcome: Welcome) -> None:
        hello, sockets = await self._channel.receive()
        for sock in sockets:
            sock.close()
        if not isinstance(hello, Hello) or sockets:
            raise HandoverRefused(f"it began with {hello.kind}")
        if hello.protocol != PROTOCOL:
            raise HandoverRefused(
                f"release {hello.release} speaks version {hello.protocol} of the handover, and the keeper, which runs "
                f"since `edge-l7 run`, version {PROTOCOL}: drain the node, and stop and start edge-l7"
            )
        log.info("incarnation %d is of release %s", self.number, hello.release)
        await send_sockets(self._channel, Handed, self.sockets)
        await self._channel.send(welcome)

    async def _take(self, owner: Owner, message: HandoverMessage, sockets: tuple[socket.socket, ...]) -> None:
        match message:
            case Deposit(sockets=names):
                for name, sock in named(names, sockets).items():
                    if (present := self.sockets.get(name)) is not None:
                        present.close()
                    self.sockets[name] = sock
            case Withdraw(sockets=names):
                for name in names:
                    if (withdrawn := self.sockets.pop(name, None)) is not None:
                        withdrawn.close()
                await self.tell(Withdrawn())
            case InService():
                self.in_service.set()
                self.settled.set()
            case Trouble(reason=reason):
                self.trouble = reason
                self.settled.set()
            case Standing():
                self.standing = message
                self.stood.set()
                await owner.stands(self, message)
            case RestartWanted(grace_s=grace_s):
                owner.restart_wanted(self, grace_s)
            case _:
                raise HandoverRefused(f"message out of turn: {message.kind}")

    async def tell(self, message: HandoverMessage) -> None:
        """Send a message. One that is gone is seen elsewhere to be gone."""
        with suppress(ChannelClosed):
            await self._channel.send(message)

    def end(self) -> None:
        """End its supervisor at once; its workers finish what they have."""
        if self.process.returncode is None:
            self.process.kill()

    def kill(self) -> None:
        """Kill it with all its workers, if it has not ended."""
        # The group is its own as long as its leader was not waited for.
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def close_sockets(self) -> None:
        """Nobody needs them any more."""
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()


async def start_incarnation(
    number: int, command: Sequence[str], handed: dict[KeptSocket, socket.socket]
) -> IncarnationProcess:
    """Start a process of the installed code, which is to be handed duplicates of these sockets. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        try:
            # A group of its own, so that all of it can be killed.
            process = await trio.lowlevel.open_process(
                [*command, "--keeper", str(theirs.fileno())], pass_fds=(theirs.fileno(),), process_group=0
            )
        except BaseException:
            ours.close()
            raise
    duplicates = {name: sock.dup() for name, sock in handed.items()}
    return IncarnationProcess(number, process, open_handover(ours), duplicates)


def cause_of(code: int | None) -> str:
    """Of a process's end, in words."""
    if code is None:
        return "no exit code"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
