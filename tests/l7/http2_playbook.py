"""The shell without sockets for HTTP/2: the library h2 is the client, and the judge of what the proxy sends."""

import hpack
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)

from l7.protocol.http2 import Http2Connection, frames
from l7.protocol.http2.frames import ErrorCode
from l7.protocol.message import Headers
from l7.shell import Flow
from l7.sides import UpstreamUser
from tests.l7.playbook import Upstream, World

#: What every client begins with.
HELLO = frames.PREFACE + frames.settings({})

GET: Headers = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"www.example.com"),
    (b":path", b"/a?b=c"),
]
POST: Headers = [(b":method", b"POST"), *GET[1:]]


def block(fields: Headers) -> bytes:
    """A header block that depends on no other."""
    return bytes(hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields]))


def request(stream_id: int, fields: Headers = GET, *, end: bool = True) -> bytes:
    """One HEADERS frame."""
    return frames.headers(stream_id, block(fields), end_stream=end)


def data(stream_id: int, body: bytes = b"", *, end: bool = False) -> bytes:
    """One DATA frame."""
    return frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream_id, body)


class Seen:
    """What the client got on one stream."""

    def __init__(self) -> None:
        self.interim: list[Headers] = []
        self.headers: Headers = []
        self.body = b""
        self.trailers: Headers = []
        self.ended = False
        self.reset: int | None = None

    @property
    def status(self) -> bytes:
        return dict(self.headers)[b":status"]

    def __repr__(self) -> str:
        return f"Seen({self.headers}, {self.body!r}, {self.trailers}, ended {self.ended}, reset {self.reset})"


class Http2World(World):
    """One HTTP/2 client connection. Each stream gets a server connection of its own, at once unless `holds`."""

    def __init__(self, *, holds: bool = False) -> None:
        super().__init__()
        self.holds = holds
        self.waiting: list[UpstreamUser] = []
        self.upstreams: list[Upstream] = []
        flow = Flow(client="192.0.2.7", vip="web-v4", l4_node="l4-1", tls_version="TLSv1.3", protocol="HTTP/2")
        self.wire.take()
        self.server = Http2Connection(self.wire, self, flow)
        self.browser = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.seen: dict[int, Seen] = {}
        self.goaways: list[tuple[int, int]] = []
        self.windows: list[tuple[int, int]] = []
        self.pongs = 0

    def open_upstream(self, exchange: UpstreamUser, backend: str, fresh: bool) -> None:
        self.opened.append((backend, fresh))
        if self.holds:
            self.waiting.append(exchange)
        else:
            self.connect_to(exchange)

    def abandon_upstream(self, exchange: UpstreamUser) -> None:
        self.waiting.remove(exchange)

    def connect_to(self, exchange: UpstreamUser) -> Upstream:
        upstream = Upstream(f"web-{len(self.upstreams) + 1}")
        self.upstreams.append(upstream)
        exchange.upstream_connected(upstream.connection, reused=False)
        return upstream

    def connect_next(self) -> Upstream:
        return self.connect_to(self.waiting.pop(0))

    # -- the client ----------------------------------------------------------------------------------------------------

    def greet(self, window: int = 65535) -> "Http2World":
        """The client's preface and settings, both ways."""
        self.browser.local_settings.initial_window_size = window
        self.browser.local_settings.acknowledge()
        self.browser.initiate_connection()
        self.flush()
        self.flush()
        return self

    def flush(self) -> None:
        """What the client has to say arrives; what the proxy has to say arrives there."""
        if said := self.browser.data_to_send():
            self.server.receive(said)
        self.look()

    def look(self) -> None:
        """What the proxy has sent arrives."""
        for event in self.browser.receive_data(self.wire.take()):
            self._note(event)

    def _note(self, event: Event) -> None:
        match event:
            case InformationalResponseReceived():
                self._of(event.stream_id).interim.append(_plain(event.headers))
            case ResponseReceived():
                self._of(event.stream_id).headers = _plain(event.headers)
            case TrailersReceived():
                self._of(event.stream_id).trailers = _plain(event.headers)
            case DataReceived():
                self._of(event.stream_id).body += event.data or b""
            case StreamEnded():
                self._of(event.stream_id).ended = True
            case StreamReset():
                self._of(event.stream_id).reset = int(event.error_code or 0)
            case ConnectionTerminated():
                self.goaways.append((int(event.last_stream_id or 0), int(event.error_code or 0)))
            case WindowUpdated():
                self.windows.append((event.stream_id or 0, event.delta or 0))
            case PingAckReceived():
                self.pongs += 1

    def _of(self, stream_id: int | None) -> Seen:
        assert stream_id is not None
        return self.seen.setdefault(stream_id, Seen())

    def ask(self, fields: Headers = GET, *, end: bool = True) -> int:
        """Begin a stream."""
        stream_id = self.browser.get_next_available_stream_id()
        self.browser.send_headers(stream_id, fields, end_stream=end)
        self.flush()
        return stream_id

    def upload(self, stream_id: int, body: bytes, *, end: bool = False) -> None:
        self.browser.send_data(stream_id, body, end_stream=end)
        self.flush()

    # -- servers -------------------------------------------------------------------------------------------------------

    def answer(self, said: bytes, at: int = -1) -> None:
        """A server answers."""
        self.upstreams[at].connection.receive(said)
        self.look()

    def got(self, at: int = -1) -> bytes:
        """What went to a server since the last call."""
        return self.upstreams[at].wire.take()


def raw(said: bytes) -> tuple[Http2World, list[tuple[int, int, int, bytes]]]:
    """A connection on which these bytes came after the greeting, and the frames (type, flags, stream, payload) that the
    proxy sent since."""
    world = Http2World()
    world.server.receive(HELLO)
    world.wire.take()
    world.server.receive(said)
    return world, split(world.wire.take())


def split(sent: bytes) -> list[tuple[int, int, int, bytes]]:
    """Frames: type, flags, stream, payload."""
    found = []
    while sent:
        high, low, kind, flags, stream_id = frames.unpack_header(sent)
        size = 9 + (high << 8 | low)
        found.append((kind, flags, stream_id, sent[9:size]))
        sent = sent[size:]
    return found


def goaway_code(sent: list[tuple[int, int, int, bytes]]) -> ErrorCode | None:
    """The code of the last GOAWAY."""
    codes = [ErrorCode(int.from_bytes(payload[4:8])) for kind, _, _, payload in sent if kind == frames.GOAWAY]
    return codes[-1] if codes else None


def reset_codes(sent: list[tuple[int, int, int, bytes]]) -> dict[int, ErrorCode]:
    """The codes of RST_STREAM, by stream."""
    return {at: ErrorCode(int.from_bytes(payload)) for kind, _, at, payload in sent if kind == frames.RST_STREAM}


def _plain(fields: object) -> Headers:
    return [(bytes(name), bytes(value)) for name, value in fields]  # type: ignore[attr-defined]
