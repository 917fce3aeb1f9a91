"""Nothing that two readers could read differently reaches a backend: a table over real sockets, and over every cut."""

import h11
import pytest
import trio

from l7.telemetry.flags import Flag
from tests.l7.live_proxy import Live, LiveBackend, get, read_all, read_response, running_proxy
from tests.l7.playbook import World
from tests.l7.smuggling import ACCEPTED, REFUSED, Accepted, Refused

Seen = tuple[bytes, bytes, bytes]


class Recorder(LiveBackend):
    """Keeps every byte that comes, apart from health checks, and reads the requests in it with h11."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[bytearray] = []
        self.whole: list[Seen] = []

    async def _converse(self, stream: trio.SocketStream) -> None:
        received = bytearray()
        reader = h11.Connection(h11.SERVER)
        request: h11.Request | None = None
        body = b""
        try:
            while True:
                event = reader.next_event()
                if event is h11.NEED_DATA:
                    data = await stream.receive_some(65536)
                    if b"edgefleet-health" in data:
                        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                        return
                    if not received:
                        self.received.append(received)
                    received += data
                    reader.receive_data(data)
                elif isinstance(event, h11.Request):
                    request, body = event, b""
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    assert request is not None
                    self.whole.append((request.method, request.target, body))
                    answer = h11.Response(status_code=200, headers=[("content-length", "2")])
                    for part in (answer, h11.Data(data=b"ok"), h11.EndOfMessage()):
                        await stream.send_all(reader.send(part) or b"")
                    reader.start_next_cycle()
                else:
                    return
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            return

    @property
    def bytes_received(self) -> int:
        return sum(map(len, self.received))


async def one_good(live: Live, path: str) -> None:
    """A request that leaves its upstream connection in the pool, ready to be poisoned."""
    async with await live.connect() as stream:
        await stream.send_all(get(path))
        head, _ = await read_response(stream)
        assert head.startswith(b"HTTP/1.1 200 ")


async def converse(live: Live, data: bytes, piece: int) -> bytes:
    """Send, in pieces, and give all that comes back until the proxy closes."""
    async with await live.connect() as stream:
        answer = b""

        async def send() -> None:
            try:
                for at in range(0, len(data), piece):
                    await stream.send_all(data[at : at + piece])
            except trio.BrokenResourceError:
                return  # refused and closed before all was sent

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                answer = await read_all(stream)
            except trio.BrokenResourceError:
                return answer
        return answer


def totals_of(live: Live, reason: str) -> int:
    return live.proxy.totals().get(f'requests_refused{{reason="{reason}"}}', 0)


@pytest.mark.parametrize("piece", [1 << 20, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("row", REFUSED, ids=str)
async def test_no_malformed_request_reaches_a_backend(row: Refused, piece: int) -> None:
    backend = Recorder()
    async with running_proxy(backend) as live:
        await one_good(live, "/before")
        before = backend.bytes_received
        answer = await converse(live, row.data, piece)
        assert answer.startswith(b"HTTP/1.1 %d " % row.status), row.section
        assert answer.count(b"HTTP/1.1 ") == 1
        assert f'"detail":"{row.reason}"'.encode() in answer
        assert totals_of(live, row.reason) == 1
        if not row.begun or piece > 1:
            assert backend.bytes_received == before
        await one_good(live, "/after")
    assert [target for _, target, _ in backend.whole] == [b"/before", b"/after"]
    assert all(b"/smuggled" not in received for received in backend.received)


@pytest.mark.parametrize("piece", [1 << 20, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("row", ACCEPTED, ids=str)
async def test_what_the_same_rules_allow_arrives(row: Accepted, piece: int) -> None:
    backend = Recorder()
    async with running_proxy(backend) as live:
        last = get("/last", close=True)
        answer = await converse(live, row.data + last, piece)
    assert answer.count(b"HTTP/1.1 200 ") == len(row.arrives) + 1
    assert backend.whole == [*row.arrives, (b"GET", b"/last", b"")]
    assert not any("requests_refused" in key for key in live.proxy.totals())


def verdict(parts: list[bytes]) -> tuple[bytes, str | None, tuple[Flag, ...], int, str | None]:
    """What a connection's fate was: the status line, the reason, the flags, the bytes received, the end."""
    world = World()
    for part in parts:
        world.client.receive(part)
    record = world.log[0]
    return world.wire.sent.partition(b"\r\n")[0], record.detail, record.flags, len(world.log), world.wire.ended


@pytest.mark.parametrize("row", REFUSED, ids=str)
def test_the_verdict_is_the_same_wherever_the_bytes_are_cut(row: Refused) -> None:
    whole = verdict([row.data])
    assert whole[1] == row.reason
    for cut in range(1, len(row.data)):
        assert verdict([row.data[:cut], row.data[cut:]]) == whole, f"cut after {row.data[:cut]!r}"


def test_the_table_is_large_and_its_rows_have_names_of_their_own() -> None:
    names = [row.name for row in REFUSED] + [row.name for row in ACCEPTED]
    assert len(names) == len(set(names))
    assert sum(row.status == 400 for row in REFUSED) >= 60
