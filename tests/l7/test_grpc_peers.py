"""gRPC's own library as client and as server, with TLS and HTTP/2 on both sides of a live proxy: each call is made with
and without the proxy between, and must be the same to both ends."""

import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
from cryptography import x509

from orchestrator.contract.route import (
    Backend,
    BackendProtocol,
    BackendServer,
    BackendTls,
    HealthCheck,
    HealthKind,
)
from tests.l7.authorities import Authority
from tests.l7.live_proxy import HOST, LOOPBACK, Live, LiveBackend, running_proxy, self_signed

NAME = "cart.internal"
CA = Authority()
EDGE = self_signed(HOST)
#: What only the edge adds to what a server is told.
OF_THE_EDGE = {"x-forwarded-for", "x-forwarded-proto", "forwarded", "via", "x-request-id"}

Metadata = list[tuple[str, str | bytes]]


def plain(metadata: Any) -> Metadata:
    return [(str(key), value) for key, value in metadata or ()]


@dataclass
class Shop:
    """The server, and what it has seen."""

    seen: list[tuple[str, Metadata, float | None]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    serving: bytes = b"\x08\x01"
    port: int = 0

    def _note(self, method: str, context: grpc.ServicerContext) -> None:
        metadata = [(key, value) for key, value in plain(context.invocation_metadata()) if key not in OF_THE_EDGE]
        self.seen.append((method, sorted(metadata, key=repr), context.time_remaining()))

    def echo(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._note("echo", context)
        context.send_initial_metadata((("x-begin", "one"), ("x-raw-bin", b"\0\xff")))
        context.set_trailing_metadata((("x-end", "two"), ("x-end-bin", b"\1\xfe")))
        return request[::-1]

    def fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._note("fail", context)
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "100 % leer: Käse\n" + request.decode())
        raise AssertionError

    def count(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._note("count", context)
        for at in range(int(request)):
            yield b"%d" % at * (1 + at * 100)

    def add(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._note("add", context)
        return b"%d" % sum(map(len, requests))

    def chat(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._note("chat", context)
        for request in requests:
            if request == b"break":
                context.abort(grpc.StatusCode.ABORTED, "broken off")
            yield request.upper()

    def leave(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Ends before its client does."""
        self._note("leave", context)
        yield next(requests)

    def wait(self, _request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._note("wait", context)
        context.add_callback(self.cancelled.set)
        yield b"first"
        self.release.wait(20)

    def hang(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._note("hang", context)
        context.add_callback(self.cancelled.set)
        self.release.wait(20)
        return request

    def check(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        return self.serving


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Bytes in, bytes out: no generated code."""

    def __init__(self, shop: Shop) -> None:
        self._methods = {
            "/shop.Cart/Echo": grpc.unary_unary_rpc_method_handler(shop.echo),
            "/shop.Cart/Fail": grpc.unary_unary_rpc_method_handler(shop.fail),
            "/shop.Cart/Count": grpc.unary_stream_rpc_method_handler(shop.count),
            "/shop.Cart/Add": grpc.stream_unary_rpc_method_handler(shop.add),
            "/shop.Cart/Chat": grpc.stream_stream_rpc_method_handler(shop.chat),
            "/shop.Cart/Leave": grpc.stream_stream_rpc_method_handler(shop.leave),
            "/shop.Cart/Wait": grpc.unary_stream_rpc_method_handler(shop.wait),
            "/shop.Cart/Hang": grpc.unary_unary_rpc_method_handler(shop.hang),
            "/grpc.health.v1.Health/Check": grpc.unary_unary_rpc_method_handler(shop.check),
        }

    def service(self, details: Any) -> Any:
        return self._methods.get(details.method)


@dataclass(frozen=True)
class Outcome:
    """What a client got of a call."""

    answers: tuple[bytes, ...]
    code: grpc.StatusCode
    details: str
    initial: Metadata
    trailing: Metadata


Call = Callable[[grpc.Channel], Outcome]


def outcome(call: Any, answers: tuple[bytes, ...]) -> Outcome:
    return Outcome(
        answers, call.code(), call.details(), plain(call.initial_metadata()), plain(call.trailing_metadata())
    )


def unary(method: str, request: bytes, *, timeout: float | None = 10, metadata: Metadata | None = None) -> Call:
    def make(channel: grpc.Channel) -> Outcome:
        try:
            answer, call = channel.unary_unary(f"/shop.Cart/{method}").with_call(
                request, timeout=timeout, metadata=metadata
            )
        except grpc.RpcError as error:
            return outcome(error, ())
        return outcome(call, (answer,))

    return make


def drained(call: Any) -> Outcome:
    answers = []
    try:
        for answer in call:
            answers.append(answer)  # noqa: PERF402 - it may raise in the middle
    except grpc.RpcError:
        pass
    return outcome(call, tuple(answers))


def server_streaming(request: bytes) -> Call:
    return lambda channel: drained(channel.unary_stream("/shop.Cart/Count")(request, timeout=20))


def client_streaming(requests: list[bytes]) -> Call:
    def make(channel: grpc.Channel) -> Outcome:
        answer, call = channel.stream_unary("/shop.Cart/Add").with_call(iter(requests), timeout=20)
        return outcome(call, (answer,))

    return make


def conversation(method: str, requests: list[bytes]) -> Call:
    """Each request is sent when the one before was answered."""

    def make(channel: grpc.Channel) -> Outcome:
        answered = threading.Semaphore(1)

        def say() -> Iterator[bytes]:
            for request in requests:
                answered.acquire(timeout=5)
                yield request

        call = channel.stream_stream(f"/shop.Cart/{method}")(say(), timeout=20)
        answers = []
        try:
            for answer in call:
                answers.append(answer)
                answered.release()
        except grpc.RpcError:
            pass
        answered.release()
        return outcome(call, tuple(answers))

    return make


CALLS: dict[str, Call] = {
    "unary": unary("Echo", b"hello", metadata=[("x-mine", "1"), ("x-mine-bin", b"\0\1\xff")]),
    "unary-empty": unary("Echo", b""),
    "unary-large": unary("Echo", bytes(3_000_000)),
    "error": unary("Fail", b"\xe2\x82\xac"),
    "no-such-method": unary("Nothing", b""),
    "server-streaming": server_streaming(b"100"),
    "server-streaming-of-nothing": server_streaming(b"0"),
    "client-streaming": client_streaming([b"x" * at * 100 for at in range(100)]),
    "client-streaming-of-nothing": client_streaming([]),
    "bidirectional": conversation("Chat", [b"a%d" % at for at in range(50)]),
    "bidirectional-broken-off": conversation("Chat", [b"a", b"b", b"break", b"c"]),
    "server-ends-first": conversation("Leave", [b"a", b"b", b"c"]),
    "deadline": unary("Hang", b"", timeout=0.5),
}


@asynccontextmanager
async def serving(
    tmp_path: Path, *, encrypted: bool = True, health: HealthCheck | None = None
) -> AsyncIterator[tuple[Live, Shop]]:
    shop = Shop()
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Handlers(shop),))
    if encrypted:
        issued = CA.issue(NAME, x509.DNSName(NAME), for_clients=False)
        credentials = grpc.ssl_server_credentials([(issued.key_pem.encode(), issued.chain_pem.encode())])
        shop.port = server.add_secure_port(f"{LOOPBACK}:0", credentials)
    else:
        shop.port = server.add_insecure_port(f"{LOOPBACK}:0")
    server.start()
    try:
        async with running_proxy(LiveBackend(), certificate=EDGE, access_log=tmp_path / "access.log") as live:
            await live.change(
                backends=(
                    Backend(
                        name="shop-web",
                        servers=(BackendServer(name="cart-1", address=LOOPBACK, port=shop.port),),
                        protocol=BackendProtocol.H2,
                        tls=BackendTls(ca_pem=CA.pem, server_name=NAME) if encrypted else None,
                        health=health or HealthCheck(kind=HealthKind.GRPC, interval_s=3600, timeout_s=5),
                    ),
                )
            )
            yield live, shop
    finally:
        shop.release.set()
        await trio.to_thread.run_sync(lambda: server.stop(0.1).wait())


def channel_to(port: int, ca_pem: str, name: str) -> grpc.Channel:
    return grpc.secure_channel(
        f"{LOOPBACK}:{port}",
        grpc.ssl_channel_credentials(ca_pem.encode()),
        options=[("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)],
    )


async def through(live: Live, call: Callable[[grpc.Channel], Any]) -> Any:
    return await made(live.address[1], EDGE.chain_pem, HOST, call)


async def directly(shop: Shop, call: Callable[[grpc.Channel], Any]) -> Any:
    return await made(shop.port, CA.pem, NAME, call)


async def made(port: int, ca_pem: str, name: str, call: Callable[[grpc.Channel], Any]) -> Any:
    def make() -> Any:
        with channel_to(port, ca_pem, name) as channel:
            return call(channel)

    with trio.fail_after(30):
        return await trio.to_thread.run_sync(make)


async def logged(live: Live, tmp_path: Path) -> list[dict[str, Any]]:
    await live.proxy.log_writer.flush()
    return [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]


@pytest.mark.parametrize("kind", CALLS)
async def test_a_call_is_the_same_with_a_proxy_between(kind: str, tmp_path: Path) -> None:
    async with serving(tmp_path) as (live, shop):
        without = await directly(shop, CALLS[kind])
        between = await through(live, CALLS[kind])
        if kind == "deadline":
            # Client, proxy and server all know when it is over; whoever is first words it.
            assert without.code == between.code == grpc.StatusCode.DEADLINE_EXCEEDED
            assert shop.cancelled.wait(0) or await trio.to_thread.run_sync(shop.cancelled.wait, 5)
        else:
            assert between == without
        if len(shop.seen) == 2:
            (method, metadata, left), (method_between, metadata_between, left_between) = shop.seen
            assert method_between == method
            assert metadata_between == metadata
            assert (left is None) == (left_between is None)
            if left is not None and left_between is not None:
                assert left_between <= left + 0.1
        await live.settled(lambda: live.proxy.metrics.requests == 1)
        (line,) = await logged(live, tmp_path)
        if kind != "deadline":
            assert line["status"] == 200
            assert line["grpc_status"] == between.code.value[0]
        else:
            assert line["status"] in (200, 0), "0: the client had gone before an answer began"
            assert line["grpc_status"] in (1, 4)


async def test_a_call_over_plain_text_to_the_server_is_the_same_too(tmp_path: Path) -> None:
    async with serving(tmp_path, encrypted=False) as (live, _):
        for kind in ("unary", "error", "server-streaming", "bidirectional"):
            got = await through(live, CALLS[kind])
            assert got.code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED), kind


async def test_a_deadline_reaches_the_server_and_ends_the_call_there(tmp_path: Path) -> None:
    async with serving(tmp_path) as (live, shop):
        got = await through(live, unary("Hang", b"", timeout=0.5))
        assert got.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await trio.to_thread.run_sync(shop.cancelled.wait, 5)
        assert shop.seen[0][2] is not None
        assert 0 < shop.seen[0][2] <= 0.5


async def test_the_proxy_ends_a_call_that_outlives_its_routes_limit(tmp_path: Path) -> None:
    async with serving(tmp_path) as (live, shop):
        host = live.snapshot.hosts[0]
        route = host.routes[0].model_copy(update={"grpc_max_deadline_s": 0.4})
        await live.change(hosts=(host.model_copy(update={"routes": (route,)}),))
        for timeout in (None, 20):
            began = time.monotonic()
            got = await through(live, unary("Hang", b"", timeout=timeout))
            assert got.code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert time.monotonic() - began < 10
        assert await trio.to_thread.run_sync(shop.cancelled.wait, 5)


async def test_a_client_that_cancels_is_seen_by_the_server(tmp_path: Path) -> None:
    def cancel(channel: grpc.Channel) -> grpc.StatusCode:
        call = channel.unary_stream("/shop.Cart/Wait")(b"")
        assert next(call) == b"first"
        call.cancel()
        return call.code()

    async with serving(tmp_path) as (live, shop):
        assert await through(live, cancel) is grpc.StatusCode.CANCELLED
        assert await trio.to_thread.run_sync(shop.cancelled.wait, 5)
        await live.settled(lambda: live.proxy.metrics.requests == 1)
        assert (await logged(live, tmp_path))[0]["grpc_status"] == 1
        assert live.proxy.upstreams.requests_in_flight == 0


async def test_calls_of_one_channel_share_connections_and_go_on_beside_one_that_waits(tmp_path: Path) -> None:
    def many(channel: grpc.Channel) -> list[bytes]:
        waiting = channel.unary_stream("/shop.Cart/Wait")(b"")
        assert next(waiting) == b"first"
        futures = [channel.unary_unary("/shop.Cart/Echo").future(b"%d" % at, timeout=20) for at in range(100)]
        answers = [future.result() for future in futures]
        waiting.cancel()
        return answers

    async with serving(tmp_path) as (live, _):
        assert await through(live, many) == [(b"%d" % at)[::-1] for at in range(100)]
        assert live.proxy.upstreams.servers()[0].total <= 2


async def test_a_server_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    async with serving(tmp_path) as (live, _):
        pool = live.snapshot.backends[0]
        nowhere = BackendServer(name="gone", address=LOOPBACK, port=1)
        await live.change(backends=(pool.model_copy(update={"servers": (nowhere,)}),))
        got = await through(live, unary("Echo", b""))
        assert (got.code, got.details) == (grpc.StatusCode.UNAVAILABLE, "edgefleet: connection_refused")


async def test_health_is_what_the_server_says(tmp_path: Path) -> None:
    check = HealthCheck(kind=HealthKind.GRPC, interval_s=0.05, timeout_s=5, healthy_after=1, unhealthy_after=1)
    async with serving(tmp_path, health=check) as (live, shop):
        await live.settled(lambda: live.proxy.health()[0].detail.startswith("SERVING in "))
        shop.serving = b"\x08\x02"
        await live.settled(lambda: not live.proxy.health()[0].healthy)
        assert live.proxy.health()[0].detail.startswith("NOT_SERVING in ")
