"""Goodbyes: spread in time, announced before anything is closed, withdrawn when the drain is."""

import time

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from l7 import limits
from l7.goodbye import Farewell, place_of
from orchestrator.contract.route import Goodbye
from tests.l7.live_proxy import LiveBackend, Request, get, read_all, read_response, running_proxy

START = 1_000_000.0
SPREAD = 10.0


class Client:
    """A connection that notes when it was asked, and when it was closed."""

    def __init__(self, place: float, *, busy: bool = False) -> None:
        self.place = place
        self.is_busy = busy
        self.is_asked = False
        self.is_closed = False

    def close_after_response(self) -> None:
        self.is_asked = True

    def close_if_idle(self) -> bool:
        self.is_closed = not self.is_busy
        return self.is_closed

    def stay(self) -> None:
        self.is_asked = False


class WallClock:
    """Unix time for a proxy under test."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@given(st.integers(0, 10**6), st.integers(10, 1000))
def test_places_are_even_whatever_the_number_of_connections(first: int, count: int) -> None:
    places = sorted(place_of(number) for number in range(first, first + count))
    gaps = [after - before for before, after in zip(places, [*places[1:], places[0] + 1], strict=True)]
    assert max(gaps) < 3 / count


def test_a_thousand_connections_are_asked_evenly_over_the_spread() -> None:
    clients = [Client(place_of(number)) for number in range(1000)]
    farewell = Farewell(Goodbye(started_at=START, spread_s=SPREAD), clients)
    before = 0
    for second in range(1, 11):
        farewell.tick(START + second)
        asked = sum(client.is_asked for client in clients)
        assert 90 <= asked - before <= 110
        before = asked
    assert before == 1000
    assert not any(client.is_closed for client in clients)


def test_who_was_asked_and_says_nothing_is_closed_well_after_its_turn() -> None:
    first, last = Client(0.0), Client(0.9)
    farewell = Farewell(Goodbye(started_at=START, spread_s=SPREAD), (first, last))
    farewell.tick(START)
    farewell.tick(START + limits.GOODBYE_IDLE_S - 0.2)
    assert not first.is_closed
    farewell.tick(START + limits.GOODBYE_IDLE_S)
    assert first.is_closed
    assert not last.is_closed
    farewell.tick(START + 9 + limits.GOODBYE_IDLE_S + 1)
    assert last.is_closed


def test_a_transfer_in_progress_is_left_alone_until_it_ends() -> None:
    client = Client(0.0, busy=True)
    farewell = Farewell(Goodbye(started_at=START, spread_s=SPREAD), (client,))
    for second in range(100):
        farewell.tick(START + second)
    assert not client.is_closed
    client.is_busy = False
    for second in range(100, 120):
        farewell.tick(START + second)
    assert client.is_closed


def test_a_worker_that_restarts_in_the_drain_still_waits_before_it_closes() -> None:
    client = Client(0.5)
    farewell = Farewell(Goodbye(started_at=START, spread_s=SPREAD), (client,))
    farewell.tick(START + 1000)
    assert client.is_asked
    assert not client.is_closed


async def test_a_draining_proxy_says_close_with_the_next_response() -> None:
    clock = WallClock()
    async with running_proxy(LiveBackend(), wall_clock=clock) as live, await live.connect() as stream:
        await stream.send_all(get())
        head, _ = await read_response(stream)
        assert b"connection: close" not in head.lower()
        await live.change(goodbye=Goodbye(started_at=clock(), spread_s=5))
        clock.ahead = 6
        live.proxy.say_goodbyes()
        await stream.send_all(get())
        head, body = await read_response(stream)
        assert (b"connection: close" in head.lower(), body) == (True, b"hello")
        assert await read_all(stream) == b""
        # A connection whose SYN was under way is served as well.
        assert (await live.get()).endswith(b"hello")


async def test_an_idle_connection_is_closed_in_order_only_after_its_wait() -> None:
    clock = WallClock()
    async with running_proxy(LiveBackend(), wall_clock=clock) as live, await live.connect() as stream:
        await stream.send_all(get())
        await read_response(stream)
        await live.change(goodbye=Goodbye(started_at=clock(), spread_s=5))
        clock.ahead = 6
        live.proxy.say_goodbyes()
        assert live.proxy.open_flows == {"http/1.1": 1}
        clock.ahead = 7 + 5 + limits.GOODBYE_IDLE_S
        live.proxy.say_goodbyes()
        assert await read_all(stream) == b""
        await stream.aclose()
        await live.settled(lambda: live.proxy.open_flows == {"http/1.1": 0})


async def test_a_withdrawn_goodbye_leaves_connections_as_they_were() -> None:
    clock = WallClock()
    async with running_proxy(LiveBackend(), wall_clock=clock) as live, await live.connect() as stream:
        await stream.send_all(get())
        await read_response(stream)
        await live.change(goodbye=Goodbye(started_at=clock(), spread_s=5))
        clock.ahead = 6
        live.proxy.say_goodbyes()
        await live.change(goodbye=None)
        clock.ahead = 1000
        live.proxy.say_goodbyes()
        await stream.send_all(get())
        assert b"connection: close" not in (await read_response(stream))[0].lower()


async def test_a_download_in_progress_runs_to_its_end() -> None:
    go_on = trio.Event()

    async def slowly(request: Request) -> None:
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
        await go_on.wait()
        await request.stream.send_all(b"other")

    clock = WallClock()
    async with running_proxy(LiveBackend(slowly), wall_clock=clock) as live, await live.connect() as stream:
        await stream.send_all(get())
        await live.settled(lambda: live.proxy.upstreams.requests_in_flight == 1)
        await live.change(goodbye=Goodbye(started_at=clock(), spread_s=5))
        for ahead in range(6, 60, 3):
            clock.ahead = ahead
            live.proxy.say_goodbyes()
        go_on.set()
        assert (await read_response(stream))[1] == b"firstother"


async def test_force_resets_what_is_left_and_counts_it() -> None:
    async def never(request: Request) -> None:
        await trio.sleep_forever()

    async with running_proxy(LiveBackend(never)) as live, await live.connect() as busy, await live.connect() as idle:
        await busy.send_all(get())
        await live.settled(lambda: live.proxy.upstreams.requests_in_flight == 1)
        await live.change(goodbye=Goodbye(started_at=time.time(), reset=True))
        for stream in (busy, idle):
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
                await stream.receive_some(1)
        assert live.proxy.totals()['connections_reset{reason="operator"}'] == 2
        assert live.proxy.open_flows == {"http/1.1": 0}
        await live.settled(lambda: live.proxy.upstreams.requests_in_flight == 0)
