"""Restarts under what lasts: WebSockets hear 1001 and nothing else, gRPC calls end by themselves."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.client import connect
from websockets.typing import Subprotocol

from orchestrator.contract.route import Backend, BackendProtocol, BackendServer
from tests.l7.live_edge import LiveEdge, running_edge
from tests.l7.live_proxy import HOST, LOOPBACK, RARE_CHECKS, LiveBackend, self_signed
from tests.l7.test_grpc_peers import Handlers, Shop
from tests.l7.test_websocket_live import WebSocketBackend

RESTARTED = "in service; the one before it has"
RESTARTS = 3


async def restart_three_times(edge: LiveEdge) -> None:
    for number in range(1, RESTARTS + 1):
        edge.restart()
        await edge.until_logged(RESTARTED, number)
        await edge.until_logged(f"incarnation {number} has ended")


@dataclass
class Chatters:
    """Clients that talk over one WebSocket after another."""

    edge: LiveEdge
    messages: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """How WebSockets ended."""

    async def talk(self) -> None:
        while True:
            try:
                stream = await trio.open_tcp_stream(*self.edge.address)
                async with connect(
                    f"ws://{HOST}/", stream=stream, subprotocols=[Subprotocol("chat")], ping_interval=None, proxy=None
                ) as client:
                    while True:
                        await client.send("hello")
                        assert await client.recv() == "hello"
                        self.messages += 1
                        await trio.sleep(0.02)
            except ConnectionClosed as closed:
                self.ends[str(closed.rcvd.code) if closed.rcvd is not None else "cut"] += 1
            except OSError as error:
                self.ends[type(error).__name__] += 1
                await trio.sleep(0.02)


async def test_websockets_hear_1001_and_open_again(tmp_path: Path) -> None:
    backend = WebSocketBackend()
    async with running_edge(tmp_path, backend, "--restart-grace=15") as edge, trio.open_nursery() as nursery:
        chatters = Chatters(edge)
        for _ in range(5):
            nursery.start_soon(chatters.talk)
        while chatters.messages < 50:  # noqa: ASYNC110 - clients are tasks beside this one
            await trio.sleep(0.01)
        await restart_three_times(edge)
        seen = chatters.messages
        while chatters.messages < seen + 50:  # noqa: ASYNC110
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert chatters.ends == {"1001": 5 * RESTARTS}
    assert backend.codes.count(1001) == 5 * RESTARTS
    assert "connections still open" not in edge.log.read_text()


@dataclass
class Callers:
    """Threads that call: short ones all the time, and conversations that begin before a restart and end after it."""

    address: tuple[str, int]
    ca_pem: str
    finish: threading.Event = field(default_factory=threading.Event)
    calls: int = 0
    conversations: int = 0
    failures: list[str] = field(default_factory=list)

    def _channel(self) -> grpc.Channel:
        return grpc.secure_channel(
            f"{self.address[0]}:{self.address[1]}",
            grpc.ssl_channel_credentials(self.ca_pem.encode()),
            options=[("grpc.ssl_target_name_override", HOST), ("grpc.use_local_subchannel_pool", 1)],
        )

    def call(self) -> None:
        with self._channel() as channel:
            echo = channel.unary_unary("/shop.Cart/Echo")
            while not self.finish.wait(0.01):
                try:
                    assert echo(b"abc", timeout=20) == b"cba"
                    self.calls += 1
                except grpc.RpcError as error:
                    self.failures.append(f"Echo: {error.code()} {error.details()}")

    def converse(self) -> None:
        def say() -> Iterator[bytes]:
            for _ in range(100):
                if self.finish.wait(0.05):
                    return
                yield b"word"

        with self._channel() as channel:
            while not self.finish.is_set():
                try:
                    answers = list(channel.stream_stream("/shop.Cart/Chat")(say(), timeout=60))
                    assert answers == [b"WORD"] * len(answers)
                    self.conversations += 1
                except grpc.RpcError as error:
                    self.failures.append(f"Chat: {error.code()} {error.details()}")


async def test_grpc_calls_end_by_themselves(tmp_path: Path) -> None:
    shop = Shop()
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Handlers(shop),))
    shop.port = server.add_insecure_port(f"{LOOPBACK}:0")
    server.start()
    certificate = self_signed(HOST)
    cart = BackendServer(name="cart-1", address=LOOPBACK, port=shop.port)
    backend = Backend(name="shop-web", servers=(cart,), protocol=BackendProtocol.H2, health=RARE_CHECKS)
    try:
        async with running_edge(
            tmp_path, LiveBackend(), "--restart-grace=60", certificate=certificate, backends=(backend,)
        ) as edge:
            callers = Callers(edge.address, certificate.chain_pem)
            async with trio.open_nursery() as nursery:
                for task in (callers.call, callers.call, callers.converse, callers.converse, callers.converse):
                    nursery.start_soon(trio.to_thread.run_sync, task)
                while not callers.conversations and not callers.failures:  # noqa: ASYNC110
                    await trio.sleep(0.05)
                await restart_three_times(edge)
                callers.finish.set()
        assert callers.failures == []
        assert callers.calls > 100
        assert callers.conversations > 3
        assert "connections still open" not in edge.log.read_text()
    finally:
        await trio.to_thread.run_sync(lambda: server.stop(0.1).wait())
