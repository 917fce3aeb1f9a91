"""Supervisor and worker processes: snapshots for all or none, deaths, stops, and the sockets that outlive both."""

import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from l7.listener import listen
from l7.supervisor import Supervisor
from orchestrator.contract.client import SnapshotRefused
from orchestrator.contract.report import ProxyStatus
from tests.l7.live_proxy import (
    HOST,
    LOOPBACK,
    LiveBackend,
    Request,
    get,
    make_snapshot,
    read_all,
    read_response,
    self_signed,
)

_addresses = itertools.count(1)


def free_address() -> tuple[str, int]:
    """A port that nobody listens on, on a loopback address that no outgoing connection takes ports of."""
    number = next(_addresses)
    with socket.socket() as sock:
        sock.bind((f"127.{os.getpid() % 254 + 1}.{number >> 8}.{number & 255}", 0))
        host, port = sock.getsockname()
        return host, port


@asynccontextmanager
async def running_supervisor(backend: LiveBackend, *, workers: int = 2) -> AsyncIterator[Supervisor]:
    """Worker processes, ended with the block."""
    supervisor = Supervisor(workers=workers)
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.serve)
        nursery.start_soon(supervisor.run)
        with trio.fail_after(30):
            yield supervisor
        nursery.cancel_scope.cancel()


async def fetch(address: tuple[str, int]) -> bytes:
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(get(close=True))
        return await read_all(stream)


async def until_refused(address: tuple[str, int]) -> None:
    """Wait until nobody listens there: a stop has begun."""
    while True:
        try:
            await (await trio.open_tcp_stream(*address)).aclose()
        except OSError:
            return
        await trio.sleep(0.01)


async def until_free(address: tuple[str, int]) -> None:
    """Wait until no process holds a socket there: workers let go of a refused snapshot's sockets when told."""
    while True:
        try:
            return listen(*address).close()
        except OSError:
            await trio.sleep(0.01)


async def status_where(supervisor: Supervisor, name: str, value: object) -> ProxyStatus:
    """The first status in which a field has this value."""
    while True:
        status = await supervisor.status()
        if getattr(status, name) == value:
            return status
        await trio.sleep(0.05)


async def test_a_snapshot_runs_on_every_worker_and_its_listeners_come_and_go() -> None:
    backend = LiveBackend()
    async with running_supervisor(backend) as supervisor:
        first, second = free_address(), free_address()
        await supervisor.apply(make_snapshot([backend], first))
        assert (await fetch(first)).endswith(b"hello")
        await supervisor.apply(make_snapshot([backend], second, version=2))
        assert (await fetch(second)).endswith(b"hello")
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(*first)
        status = await status_where(supervisor, "workers", 2)
        assert [(each.server, each.healthy) for each in status.health] == [("backend-1", True)]


async def test_a_snapshot_that_a_worker_cannot_run_is_refused_and_the_old_one_runs_on() -> None:
    backend = LiveBackend()
    certificate = self_signed(HOST)
    broken = certificate.model_copy(update={"key_pem": self_signed(HOST).key_pem})
    async with running_supervisor(backend) as supervisor:
        address, other = free_address(), free_address()
        await supervisor.apply(make_snapshot([backend], address))
        with pytest.raises(SnapshotRefused, match=r"www\.example\.com.*KEY_VALUES_MISMATCH"):
            await supervisor.apply(make_snapshot([backend], other, broken, version=2))
        assert (await fetch(address)).endswith(b"hello")
        await until_free(other)
        await supervisor.apply(make_snapshot([backend], address, version=3))
        assert (await fetch(address)).endswith(b"hello")


async def test_an_address_in_use_is_refused_by_name() -> None:
    backend = LiveBackend()
    async with running_supervisor(backend, workers=1) as supervisor:
        with listen(LOOPBACK, 0) as taken:
            address = taken.getsockname()
            with pytest.raises(SnapshotRefused, match=rf"web-v4: 127\.0\.0\.1 port {address[1]}: .*in use"):
                await supervisor.apply(make_snapshot([backend], address))


async def test_a_worker_that_is_killed_comes_back_with_the_snapshot_and_its_siblings_serve_meanwhile() -> None:
    backend = LiveBackend()
    async with running_supervisor(backend) as supervisor:
        address = free_address()
        await supervisor.apply(make_snapshot([backend], address))
        await status_where(supervisor, "workers", 2)
        victim = supervisor.process_ids[0]
        os.kill(victim, signal.SIGKILL)
        await status_where(supervisor, "workers", 1)
        for _ in range(10):
            assert (await fetch(address)).endswith(b"hello")
        status = await status_where(supervisor, "workers", 2)
        assert victim not in supervisor.process_ids
        assert status.counters["worker_restarts"] == 1
        for _ in range(10):
            assert (await fetch(address)).endswith(b"hello")


async def test_a_stop_lets_a_download_end_and_takes_what_waits_in_the_queue() -> None:
    go_on = trio.Event()

    async def slowly(request: Request) -> None:
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
        await go_on.wait()
        await request.stream.send_all(b"other")

    backend = LiveBackend(slowly)
    async with running_supervisor(backend, workers=1) as supervisor:
        address = free_address()
        await supervisor.apply(make_snapshot([backend], address))
        async with await trio.open_tcp_stream(*address) as stream, trio.open_nursery() as nursery:
            await stream.send_all(get())
            while not backend.requests:  # noqa: ASYNC110 - the backend is a task beside this one
                await trio.sleep(0.01)
            late = await trio.open_tcp_stream(*address)
            nursery.start_soon(supervisor.stop, 20.0)
            await until_refused(address)
            assert supervisor.process_ids
            go_on.set()
            assert (await read_response(stream))[1] == b"firstother"
            await stream.aclose()
            await late.send_all(get(close=True))
            assert (await read_all(late)).endswith(b"firstother")
            await late.aclose()
        assert supervisor.process_ids == ()
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(*address)


async def test_a_stop_without_grace_resets_what_is_open() -> None:
    async def never(request: Request) -> None:
        await trio.sleep_forever()

    backend = LiveBackend(never)
    async with running_supervisor(backend, workers=1) as supervisor:
        address = free_address()
        await supervisor.apply(make_snapshot([backend], address))
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(get())
            while not backend.requests:  # noqa: ASYNC110 - the backend is a task beside this one
                await trio.sleep(0.01)
            await supervisor.stop(0.0)
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some(1)
    counters = (await supervisor.status()).counters
    assert counters['connections_reset{reason="stopped"}'] == 1


async def test_workers_whose_supervisor_dies_free_the_address_and_finish_what_is_open() -> None:
    backend = LiveBackend()
    async with running_supervisor(backend, workers=1) as supervisor:
        address = free_address()
        await supervisor.apply(make_snapshot([backend], address))
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(get())
            await read_response(stream)
            worker = next(iter(supervisor._workers.values()))
            supervisor._sockets.close()
            await trio.lowlevel.checkpoint()
            worker.channel._socket.shutdown(socket.SHUT_WR)  # what the worker sees of its supervisor's death
            while True:
                try:
                    listen(*address).close()
                    break
                except OSError:
                    await trio.sleep(0.02)
            await stream.send_all(get())
            assert (await read_response(stream))[1] == b"hello"


async def test_metrics_add_up_over_the_workers() -> None:
    backend = LiveBackend()
    async with running_supervisor(backend) as supervisor:
        address = free_address()
        await supervisor.apply(make_snapshot([backend], address))
        for _ in range(7):
            await fetch(address)
        while "edge_l7_requests_total 7\n" not in supervisor.metrics():  # noqa: ASYNC110 - workers report each second
            await trio.sleep(0.05)
        text = supervisor.metrics()
    assert 'edge_l7_responses_total{backend="shop-web",code="2xx"} 7\n' in text
    assert 'edge_l7_server_healthy{backend="shop-web",server="backend-1"} 1\n' in text
    assert "# TYPE edge_l7_requests_total counter\n" in text
