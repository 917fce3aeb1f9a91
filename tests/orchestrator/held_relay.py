"""A network that holds what is sent, and lets it through later: between an agent and its orchestrator, on loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import trio

from orchestrator.contract.state_directory import StateDirectory

CHUNK = 65536


class HeldRelay:
    """Passes bytes on. While held, whatever comes waits here, as it does in a sender's kernel while routes are gone."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = trio.Event()
        self._open.set()
        self._left_behind = 0
        self._connections = 0

    def hold(self) -> None:
        self._open = trio.Event()

    def release(self, *, old_ones: bool = True) -> None:
        """Lets all through, or connections alone that are made from now on: the others wait for ever."""
        self._left_behind = 0 if old_ones else self._connections
        self._open.set()

    async def carry(self, client: trio.SocketStream) -> None:
        self._connections += 1
        number = self._connections
        server = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass, client, server, number)
            await self._pass(server, client, number)
            nursery.cancel_scope.cancel()

    async def _pass(self, source: trio.SocketStream, sink: trio.SocketStream, number: int) -> None:
        try:
            async for chunk in source:
                await self._open.wait()
                if number <= self._left_behind:
                    await trio.sleep_forever()
                await sink.send_all(chunk)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


@asynccontextmanager
async def between(state: StateDirectory) -> AsyncIterator[HeldRelay]:
    """A relay on the way from this agent to its only orchestrator."""
    enrolment = state.enrolment()
    relay = HeldRelay(urlsplit(enrolment.endpoints[0]).port or 0)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, relay.carry, listeners)
        endpoint = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        state.identity_file.write_text(enrolment.model_copy(update={"endpoints": (endpoint,)}).model_dump_json())
        yield relay
        nursery.cancel_scope.cancel()
