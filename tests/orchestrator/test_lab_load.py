"""Every way in which a flow can break is seen and named, and what is no breakage is not called so."""

import functools
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
import trio

from orchestrator.lab.content import small
from orchestrator.lab.load.breakage import Breakage
from orchestrator.lab.load.client import Endpoint, FlowCount, LoadClient
from orchestrator.lab.load.connection import client_context
from orchestrator.lab.load.flows import run_flow
from orchestrator.lab.load.generator import endpoints_of, generate
from orchestrator.lab.load.messages import FINISH, BreakageSeen, Message, Tick
from orchestrator.lab.load.plan import FlowKind, LoadPlan, Target
from orchestrator.lab.load.requests import run_connection
from tests.orchestrator.lab_server import (
    HOST,
    Behaviour,
    TlsStream,
    answer_bytes,
    content_for,
    read_request,
    reset,
    server,
)

#: Until a flow counts as silent: longer than loopback ever takes on a busy machine.
PATIENCE_S = 20.0
#: The same where silence is what is waited for.
SILENCE_S = 0.25


def plan_for(directory: Path, port: int, **changes: object) -> LoadPlan:
    values: dict[str, object] = {
        "host": HOST,
        "ca_file": directory / "server.pem",
        "targets": (Target(address="127.0.0.1", port=port, sources=("127.0.0.1", "127.0.0.2")),),
        "uploads_directory": directory / "uploads",
        "lanes": {},
        "requests_per_second": 0,
        "flow_seconds": (0.02, 0.05),
        "upload_interval_s": 0.01,
        "keep_alive_interval_s": (0.001, 0.01),
        "ramp_s": 0.0,
        "silence_bound_s": PATIENCE_S,
    }
    return LoadPlan.model_validate(values | changes)


class Seen:
    """A client after it ran, and what it told."""

    def __init__(self, client: LoadClient, told: list[BreakageSeen]) -> None:
        self.client = client
        self.told = told

    def count(self, kind: FlowKind) -> FlowCount:
        return self.client.flows[kind]


async def run_against(behaviour: Behaviour, directory: Path, kind: FlowKind | None, **changes: object) -> Seen:
    """One flow of this kind, or one short connection, against a server that behaves so."""
    (directory / "uploads").mkdir()
    told: list[BreakageSeen] = []
    async with server(behaviour, directory) as port:
        plan = plan_for(directory, port, **changes)
        client = LoadClient(
            plan, client_context(str(plan.ca_file)), random=Random(1), unix_time=lambda: 0.0, tell=told.append
        )
        endpoint = Endpoint("127.0.0.1", port, "127.0.0.1")
        if kind is None:
            await run_connection(client, endpoint)
        else:
            client.finishing.set()  # a keep-alive flow ends after its first answer
            await run_flow(client, kind, endpoint)
    return Seen(client, told)


async def honest(stream: TlsStream, directory: Path | None = None) -> None:
    while (request := await read_request(stream)) is not None:
        if request.method == "PUT":
            assert directory is not None
            (directory / "uploads" / request.path.rpartition("/")[2]).write_bytes(request.body)
            await stream.send_all(answer_bytes(b"", status="201 Created"))
        else:
            await stream.send_all(answer_bytes(content_for(request)))


async def resets_midway(stream: TlsStream) -> None:
    request = await read_request(stream)
    assert request is not None
    await stream.send_all(answer_bytes(content_for(request))[:500])
    reset(stream)


async def resets_at_once(stream: TlsStream) -> None:
    await read_request(stream)
    reset(stream)


async def truncates(stream: TlsStream) -> None:
    request = await read_request(stream)
    assert request is not None
    await stream.send_all(answer_bytes(content_for(request))[:-1])


async def truncates_the_head(stream: TlsStream) -> None:
    await read_request(stream)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Le")


async def flips_a_bit(stream: TlsStream) -> None:
    request = await read_request(stream)
    assert request is not None
    body = bytearray(content_for(request))
    body[len(body) // 2] ^= 1
    await stream.send_all(answer_bytes(bytes(body)))


async def sends_more_than_announced(stream: TlsStream) -> None:
    request = await read_request(stream)
    assert request is not None
    await stream.send_all(answer_bytes(content_for(request)) + b"x")


async def breaks_the_record(stream: TlsStream) -> None:
    """What a flow sees into whose middle another host's bytes are mixed."""
    await read_request(stream)
    await stream.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
    await stream.receive_some(1)


async def answers_502(stream: TlsStream) -> None:
    await read_request(stream)
    await stream.send_all(answer_bytes(b"", status="502 Bad Gateway"))


async def answers_with_another_length(stream: TlsStream) -> None:
    await read_request(stream)
    await stream.send_all(answer_bytes(b"hello"))


async def speaks_no_http(stream: TlsStream) -> None:
    await read_request(stream)
    await stream.send_all(b"220 mail.example.com ESMTP\r\n\r\n")


async def stalls_midway(stream: TlsStream) -> None:
    request = await read_request(stream)
    assert request is not None
    await stream.send_all(answer_bytes(content_for(request))[:500])
    await trio.sleep_forever()


async def never_answers(stream: TlsStream) -> None:
    await read_request(stream)
    await trio.sleep_forever()


async def never_shakes_hands(stream: TlsStream) -> None:
    await trio.sleep_forever()


async def closes_before_the_answer(stream: TlsStream) -> None:
    await read_request(stream)


MISBEHAVIOUR = [
    (resets_midway, Breakage.RESET),
    (resets_at_once, Breakage.RESET),
    (truncates, Breakage.TRUNCATED),
    (truncates_the_head, Breakage.TRUNCATED),
    (flips_a_bit, Breakage.CORRUPT),
    (sends_more_than_announced, Breakage.CORRUPT),
    (breaks_the_record, Breakage.CORRUPT),
    (answers_502, Breakage.UNEXPECTED_ANSWER),
    (answers_with_another_length, Breakage.UNEXPECTED_ANSWER),
    (speaks_no_http, Breakage.UNEXPECTED_ANSWER),
    (stalls_midway, Breakage.SILENT),
    (never_answers, Breakage.SILENT),
    (never_shakes_hands, Breakage.SILENT),
]


def bound_for(how: Breakage) -> float:
    return SILENCE_S if how is Breakage.SILENT else PATIENCE_S


@pytest.mark.parametrize(("behaviour", "how"), MISBEHAVIOUR, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize(
    "kind", [FlowKind.DOWNLOAD, FlowKind.KEEP_ALIVE, None], ids=["download", "keep-alive", "request"]
)
async def test_each_breakage_is_named(
    behaviour: Behaviour, how: Breakage, kind: FlowKind | None, tmp_path: Path
) -> None:
    seen = await run_against(behaviour, tmp_path, kind, silence_bound_s=bound_for(how))
    count = seen.client.requests if kind is None else seen.count(kind)
    assert dict(count.breakages) == {how: 1}
    assert [(one.what, one.how) for one in seen.told] == [(kind or "request", how)]
    assert kind is None or (seen.count(kind).completed, seen.count(kind).open) == (0, 0)


async def store_another_body(directory: Path, stream: TlsStream) -> None:
    request = await read_request(stream)
    assert request is not None
    (directory / "uploads" / request.path.rpartition("/")[2]).write_bytes(request.body[:-1] + b"?")
    await stream.send_all(answer_bytes(b"", status="201 Created"))


async def store_nothing(stream: TlsStream) -> None:
    await read_request(stream)
    await stream.send_all(answer_bytes(b"", status="201 Created"))


@pytest.mark.parametrize(
    ("behaviour", "how"),
    [
        (store_nothing, Breakage.CORRUPT),
        (resets_at_once, Breakage.RESET),
        (closes_before_the_answer, Breakage.TRUNCATED),
        (answers_502, Breakage.UNEXPECTED_ANSWER),
        (never_answers, Breakage.SILENT),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_each_breakage_of_an_upload_is_named(behaviour: Behaviour, how: Breakage, tmp_path: Path) -> None:
    seen = await run_against(behaviour, tmp_path, FlowKind.UPLOAD, silence_bound_s=bound_for(how))
    assert dict(seen.count(FlowKind.UPLOAD).breakages) == {how: 1}


async def test_an_upload_that_was_stored_differently_is_corrupt(tmp_path: Path) -> None:
    seen = await run_against(functools.partial(store_another_body, tmp_path), tmp_path, FlowKind.UPLOAD)
    assert dict(seen.count(FlowKind.UPLOAD).breakages) == {Breakage.CORRUPT: 1}


async def test_an_upload_that_nobody_acknowledges_is_silent(tmp_path: Path) -> None:
    """The sender hears nothing back while it sends: it must ask the kernel what was acknowledged."""

    async def stops_reading(stream: TlsStream) -> None:
        await trio.sleep_forever()

    (tmp_path / "uploads").mkdir()
    told: list[BreakageSeen] = []
    async with server(lambda stream: _handshake_then(stream, stops_reading), tmp_path, receive_buffer=2304) as port:
        plan = plan_for(
            tmp_path, port, upload_bytes_per_second=10_000, flow_seconds=(5.0, 5.0), silence_bound_s=SILENCE_S
        )
        client = LoadClient(
            plan, client_context(str(plan.ca_file)), random=Random(1), unix_time=lambda: 0.0, tell=told.append
        )
        await run_flow(client, FlowKind.UPLOAD, Endpoint("127.0.0.1", port, "127.0.0.1"))
    assert [seen.how for seen in told] == [Breakage.SILENT]
    assert "bytes unacknowledged" in told[0].detail


async def _handshake_then(stream: TlsStream, behaviour: Behaviour) -> None:
    await stream.do_handshake()
    await behaviour(stream)


@pytest.mark.parametrize("kind", list(FlowKind))
async def test_a_whole_flow_is_not_broken(kind: FlowKind, tmp_path: Path) -> None:
    seen = await run_against(lambda stream: honest(stream, tmp_path), tmp_path, kind)
    count = seen.count(kind)
    assert (count.begun, count.completed, count.open, count.breakages.total()) == (1, 1, 0, 0)
    assert count.bytes_checked > 0
    assert seen.told == []
    assert list((tmp_path / "uploads").iterdir()) == []  # checked and cleared away


async def test_nothing_listens_counts_as_refused(tmp_path: Path) -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    async with server(honest, tmp_path):
        plan = plan_for(tmp_path, port)
        client = LoadClient(
            plan, client_context(str(plan.ca_file)), random=Random(1), unix_time=lambda: 0.0, tell=lambda _seen: None
        )
        await run_connection(client, Endpoint("127.0.0.1", port, "127.0.0.1"))
    assert dict(client.requests.breakages) == {Breakage.REFUSED: 1}


class Goodbyes:
    """A server that answers well, but ends its first connection in a chosen way after the first answer."""

    def __init__(self, farewell: str) -> None:
        self._farewell = farewell
        self.connections = 0

    async def __call__(self, stream: TlsStream) -> None:
        self.connections += 1
        if self.connections > 1:
            await honest(stream)
            return
        request = await read_request(stream)
        assert request is not None
        close = "Connection: close\r\n" if self._farewell == "header" else ""
        await stream.send_all(answer_bytes(content_for(request), headers=close))
        if self._farewell == "after the next request":
            await read_request(stream)
        if self._farewell == "reset":
            await read_request(stream)
            reset(stream)


async def keep_alive_until_second_flow(farewell: str, directory: Path) -> tuple[FlowCount, Goodbyes]:
    """One keep-alive flow against a server that says goodbye."""
    behaviour = Goodbyes(farewell)
    (directory / "uploads").mkdir()
    async with server(behaviour, directory) as port:
        plan = plan_for(directory, port, keep_alive_interval_s=(0.0, 0.0) if "request" in farewell else (0.2, 0.2))
        client = LoadClient(
            plan, client_context(str(plan.ca_file)), random=Random(1), unix_time=lambda: 0.0, tell=lambda _seen: None
        )
        await run_flow(client, FlowKind.KEEP_ALIVE, Endpoint("127.0.0.1", port, "127.0.0.1"))
    return client.flows[FlowKind.KEEP_ALIVE], behaviour


async def test_connection_close_is_a_goodbye(tmp_path: Path) -> None:
    count, _ = await keep_alive_until_second_flow("header", tmp_path)
    assert (count.completed, count.goodbyes, count.breakages.total()) == (1, 1, 0)


async def test_a_clean_close_between_requests_is_a_goodbye(tmp_path: Path) -> None:
    count, _ = await keep_alive_until_second_flow("while idle", tmp_path)
    assert (count.completed, count.closed_idle, count.breakages.total()) == (1, 1, 0)


async def test_a_request_that_crosses_a_clean_close_is_sent_again_once(tmp_path: Path) -> None:
    count, behaviour = await keep_alive_until_second_flow("after the next request", tmp_path)
    assert (count.completed, count.sent_again, count.breakages.total()) == (1, 1, 0)
    assert behaviour.connections == 2


async def test_a_reset_between_requests_is_never_excused(tmp_path: Path) -> None:
    count, _ = await keep_alive_until_second_flow("reset", tmp_path)
    assert dict(count.breakages) == {Breakage.RESET: 1}


async def test_a_clean_close_before_any_answer_is_not_excused_twice(tmp_path: Path) -> None:
    seen = await run_against(closes_before_the_answer, tmp_path, FlowKind.KEEP_ALIVE)
    assert dict(seen.count(FlowKind.KEEP_ALIVE).breakages) == {Breakage.TRUNCATED: 1}


async def test_the_generator_keeps_all_lanes_going_and_ends_when_told(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    told: list[Message] = []
    commands_in, commands_out = trio.open_memory_channel[str](1)

    def tell(message: Message) -> None:
        told.append(message)
        if isinstance(message, Tick) and all(
            tally.completed for kind, tally in message.flows.items() if kind != "keep-alive"
        ):
            commands_in.send_nowait(FINISH)

    async with server(lambda stream: honest(stream, tmp_path), tmp_path) as port:
        plan = plan_for(
            tmp_path, port, lanes=dict.fromkeys(FlowKind, 3), requests_per_second=60, requests_per_connection=2
        )
        with trio.fail_after(20):
            await generate(plan, _received(commands_out), tell, unix_time=lambda: 0.0)
    last = told[-1]
    assert isinstance(last, Tick)
    assert last.finished
    assert last.open_flows == 0
    assert all(tally.begun == tally.completed >= 3 for tally in last.flows.values())
    assert last.requests.answered == 2 * last.requests.connections > 0
    assert not any(isinstance(message, BreakageSeen) for message in told)


async def _received(channel: trio.MemoryReceiveChannel[str]) -> AsyncIterator[str]:
    async for command in channel:
        yield command


async def test_the_generator_stops_at_once_when_its_parent_is_gone(tmp_path: Path) -> None:
    async def nobody() -> AsyncIterator[str]:
        return
        yield FINISH

    async with server(never_answers, tmp_path) as port:
        plan = plan_for(tmp_path, port, lanes={FlowKind.DOWNLOAD: 2}, silence_bound_s=3600)
        with trio.fail_after(5):
            await generate(plan, nobody(), lambda _message: None)


def test_neighbouring_lanes_differ_in_family(tmp_path: Path) -> None:
    targets = (
        Target(address="203.0.113.10", port=443, sources=("198.51.100.11", "198.51.100.12")),
        Target(address="2001:db8:203::10", port=443, sources=("2001:db8:51::11", "2001:db8:51::12")),
    )
    plan = plan_for(tmp_path, 443, targets=targets)
    assert [(str(one), one.source) for one in endpoints_of(plan)] == [
        ("203.0.113.10:443", "198.51.100.11"),
        ("[2001:db8:203::10]:443", "2001:db8:51::11"),
        ("203.0.113.10:443", "198.51.100.12"),
        ("[2001:db8:203::10]:443", "2001:db8:51::12"),
    ]


async def test_answers_are_checked_against_the_content_of_the_lab(tmp_path: Path) -> None:
    seen = await run_against(honest, tmp_path, None)
    assert seen.client.requests.answered == seen.client.plan.requests_per_connection
    assert seen.client.take_slowest_answer() > 0
    assert small().size > 0
