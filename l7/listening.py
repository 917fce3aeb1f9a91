"""The listening sockets of a supervisor: bound once, adopted from the incarnation before, and left with the keeper."""

import socket
from collections.abc import Iterable
from typing import Protocol

from l7.listener import listen
from orchestrator.contract.route import Listener

Bound = tuple[str, int]


class AddressTaken(Exception):
    """A listener's address cannot be bound; says which and why."""


class Keeping(Protocol):
    """Where listening sockets are kept open, beside the supervisor."""

    async def deposit(self, sockets: dict[Bound, socket.socket]) -> None:
        """Keep these too."""

    async def withdraw(self, bounds: Iterable[Bound]) -> None:
        """Close these: they are closed here. Returns when nobody holds them any more."""


class ListeningSockets:
    """Those that are in service, and those that were adopted and wait for a snapshot that names them."""

    def __init__(self, adopted: dict[Bound, socket.socket] | None = None, keeping: Keeping | None = None) -> None:
        self.in_service: dict[Bound, socket.socket] = {}
        self._adopted = dict(adopted or {})
        self._keeping = keeping

    def __repr__(self) -> str:
        return f"<ListeningSockets: {len(self.in_service)} in service, {len(self._adopted)} adopted>"

    def bind(self, listeners: Iterable[Listener]) -> dict[Bound, socket.socket]:
        """Sockets for those listeners that have none yet. `take` or `reject` them. Raises AddressTaken."""
        fresh: dict[Bound, socket.socket] = {}
        for listener in listeners:
            bound = (str(listener.address), int(listener.port))
            if bound in self.in_service or bound in fresh:
                continue
            adopted = self._adopted.get(bound)
            if adopted is not None:
                fresh[bound] = adopted
                continue
            try:
                fresh[bound] = listen(*bound)
            except OSError as error:
                self.reject(fresh)
                raise AddressTaken(
                    f"listener {listener.vip}: {bound[0]} port {bound[1]}: {error.strerror}: "
                    "is another process listening there?"
                ) from error
        return fresh

    def reject(self, fresh: dict[Bound, socket.socket]) -> None:
        """They are not to be used: close what was bound; what was adopted waits on."""
        for bound, sock in fresh.items():
            if bound not in self._adopted:
                sock.close()

    async def take(self, fresh: dict[Bound, socket.socket]) -> None:
        """They are in service from now on."""
        new = {bound: sock for bound, sock in fresh.items() if bound not in self._adopted}
        self.in_service |= fresh
        for bound in fresh:
            self._adopted.pop(bound, None)
        if new and self._keeping is not None:
            await self._keeping.deposit(new)

    async def keep_only(self, wanted: Iterable[Bound]) -> None:
        """Close all others that are in service."""
        await self._let_go(self.in_service, self.in_service.keys() - set(wanted))

    async def drop_adopted(self) -> None:
        """Close what was adopted and is wanted by no snapshot."""
        await self._let_go(self._adopted, set(self._adopted))

    async def _let_go(self, among: dict[Bound, socket.socket], bounds: Iterable[Bound]) -> None:
        gone = list(bounds)
        for bound in gone:
            among.pop(bound).close()
        if gone and self._keeping is not None:
            await self._keeping.withdraw(gone)

    def close(self) -> None:
        """All of them, here. The keeper decides for itself what becomes of its own."""
        for sock in (*self.in_service.values(), *self._adopted.values()):
            sock.close()
        self.in_service.clear()
        self._adopted.clear()
