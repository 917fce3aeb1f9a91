"""An incarnation's end of its channel to the keeper."""

import logging
import socket
from collections.abc import AsyncIterator, Iterable
from importlib.metadata import PackageNotFoundError, version

import trio

from l7.handover import (
    PROTOCOL,
    Deposit,
    Handed,
    HandoverMessage,
    HandoverRefused,
    Hello,
    KeptSocket,
    Outcome,
    Purpose,
    RestartWanted,
    Welcome,
    Withdraw,
    Withdrawn,
    named,
    open_handover,
    send_sockets,
)
from l7.listening import Bound
from l7.message_channel import ChannelClosed

log = logging.getLogger(__name__)

#: Of `KeptSocket`s in one message that carries none.
_NAMES_PER_FRAME = 128


class KeeperGone(Exception):
    """The keeper was killed, or speaks another version of the handover."""


class KeeperLink:
    """To the keeper: sockets to keep (`l7.listening.Keeping`), and how it goes. From it: orders."""

    def __init__(self, end: socket.socket) -> None:
        self._channel = open_handover(end)
        self._withdrawing = trio.Lock()
        self._withdrawn = trio.Event()
        self._restarting = trio.Lock()
        self._outcome = trio.Event()
        self._last_outcome: Outcome | None = None

    async def greet(self) -> tuple[Welcome, dict[KeptSocket, socket.socket]]:
        """Say hello; what this incarnation is to start from. Raises KeeperGone, HandoverRefused."""
        handed: dict[KeptSocket, socket.socket] = {}
        try:
            await self._channel.send(Hello(protocol=PROTOCOL, release=release()))
            while True:
                message, sockets = await self._channel.receive()
                match message:
                    case Handed(sockets=names):
                        handed |= named(names, sockets)
                    case Welcome():
                        return message, handed
                    case _:
                        raise HandoverRefused(f"{message.kind} instead of a welcome")
        except ChannelClosed as closed:
            raise KeeperGone(f"the keeper did not say welcome: {closed}") from closed

    async def orders(self) -> AsyncIterator[HandoverMessage]:
        """What the keeper asks for, until it is gone."""
        while True:
            try:
                message, sockets = await self._channel.receive()
            except ChannelClosed as closed:
                log.error("keeper gone: %s", closed)
                self._withdrawn.set()
                self._outcome.set()
                return
            for sock in sockets:
                sock.close()
            match message:
                case Withdrawn():
                    self._withdrawn.set()
                case Outcome():
                    self._last_outcome = message
                    self._outcome.set()
                case _:
                    yield message

    async def tell(self, message: HandoverMessage) -> None:
        """Send a message. `orders` ends if the keeper is gone."""
        try:
            await self._channel.send(message)
        except ChannelClosed as closed:
            log.info("the keeper was not told %s: %s", message.kind, closed)

    async def restart(self, grace_s: float | None) -> Outcome:
        """Ask to be succeeded. Raises KeeperGone."""
        async with self._restarting:
            self._outcome = trio.Event()
            await self.tell(RestartWanted(grace_s=grace_s))
            await self._outcome.wait()
            if self._last_outcome is None:
                raise KeeperGone("the keeper is gone: nobody can start another incarnation")
            outcome, self._last_outcome = self._last_outcome, None
            return outcome

    # -- Keeping -------------------------------------------------------------------------------------------------------

    async def deposit(self, sockets: dict[Bound, socket.socket], purpose: Purpose = Purpose.LISTENER) -> None:
        """Have the keeper keep these too."""
        try:
            await send_sockets(self._channel, Deposit, {_name(purpose, bound): sock for bound, sock in sockets.items()})
        except ChannelClosed as closed:
            log.info("listening sockets were not deposited: %s", closed)

    async def withdraw(self, bounds: Iterable[Bound]) -> None:
        """Have the keeper close these; returns when it has."""
        names = [_name(Purpose.LISTENER, bound) for bound in bounds]
        async with self._withdrawing:
            for first in range(0, len(names), _NAMES_PER_FRAME):
                self._withdrawn = trio.Event()
                await self.tell(Withdraw(sockets=tuple(names[first : first + _NAMES_PER_FRAME])))
                await self._withdrawn.wait()


def _name(purpose: Purpose, bound: Bound) -> KeptSocket:
    return KeptSocket.model_validate({"purpose": purpose, "address": bound[0], "port": bound[1]})


def by_bound(handed: dict[KeptSocket, socket.socket], purpose: Purpose) -> dict[Bound, socket.socket]:
    """Those of one purpose."""
    return {(str(name.address), name.port): sock for name, sock in handed.items() if name.purpose is purpose}


def release() -> str:
    """Of the code that runs."""
    try:
        return version("edgefleet")
    except PackageNotFoundError:
        return "unknown"
