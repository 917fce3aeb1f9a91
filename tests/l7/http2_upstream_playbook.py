"""The shell without sockets for HTTP/2 to servers: the library h2 is the server, and the judge of what it is sent."""

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes

from l7.protocol.http1 import ServerConnection
from l7.protocol.http2 import frames
from l7.protocol.http2.client import ClientConnection
from l7.protocol.http2.client_stream import ClientStream
from l7.protocol.message import Headers
from l7.shell import Flow
from l7.sides import UpstreamSide, UpstreamUser
from tests.l7.playbook import Wire, World

GET = b"GET /a?b=c HTTP/1.1\r\nHost: www.example.com\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: www.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"

#: What every server begins with.
HELLO = frames.settings({})


class Got:
    """What the server got on one stream."""

    def __init__(self) -> None:
        self.headers: Headers = []
        self.body = b""
        self.trailers: Headers = []
        self.ended = False
        self.reset: int | None = None

    def __getitem__(self, name: bytes) -> bytes:
        return dict(self.headers)[name]

    def __contains__(self, name: bytes) -> bool:
        return name in dict(self.headers)


class Browser:
    """A client's connection in HTTP/1.1."""

    def __init__(self, world: "SharedWorld") -> None:
        self.wire = Wire()
        self.codec = ServerConnection(self.wire, world, Flow(client="192.0.2.7", vip="web-v4"))

    def send(self, data: bytes) -> "Browser":
        self.codec.receive(data)
        return self

    def take(self) -> bytes:
        return self.wire.take()


class SharedWorld(World):
    """Many clients, and one connection to a server, which all of their requests share while it has room."""

    def __init__(self, *, settings: dict[SettingCodes | int, int] | None = None, greeted: bool = True) -> None:
        super().__init__()
        self.shared_wire = Wire()
        self.shared = ClientConnection(self.shared_wire, "web-1", self.now, self.count, encrypted=False)
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        for name, value in (settings or {}).items():
            self.server.local_settings[name] = value
        self.server.local_settings.acknowledge()
        self.got: dict[int, Got] = {}
        self.goaways: list[int] = []
        self.waiting: list[UpstreamUser] = []
        if greeted:
            self.server.initiate_connection()
            self.flush()
            self.flush()

    # -- Services ------------------------------------------------------------------------------------------------------

    def open_upstream(self, exchange: UpstreamUser, backend: str, fresh: bool) -> None:
        self.opened.append((backend, fresh))
        if self.shared.has_room:
            exchange.upstream_connected(self.shared.stream(), reused=True)
        else:
            self.waiting.append(exchange)

    def abandon_upstream(self, exchange: UpstreamUser) -> None:
        self.waiting.remove(exchange)

    def release_upstream(self, connection: UpstreamSide, reusable: bool) -> None:
        super().release_upstream(connection, reusable)
        assert isinstance(connection, ClientStream)
        self.shared.let_go(connection)

    # -- What a test says ----------------------------------------------------------------------------------------------

    def browser(self, data: bytes = b"") -> Browser:
        """Another client, that says this; it reaches the server."""
        browser = Browser(self)
        if data:
            browser.send(data)
            self.flush()
        return browser

    def flush(self) -> None:
        """What the server has to say arrives; what the proxy has to say arrives there."""
        if said := self.server.data_to_send():
            self.shared.receive(said)
        for event in self.server.receive_data(self.shared_wire.take()):
            self._note(event)

    def _note(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._of(event.stream_id).headers = [(bytes(name), bytes(value)) for name, value in event.headers or []]
            case TrailersReceived():
                self._of(event.stream_id).trailers = [
                    (bytes(name), bytes(value)) for name, value in event.headers or []
                ]
            case DataReceived():
                self._of(event.stream_id).body += event.data or b""
            case StreamEnded():
                self._of(event.stream_id).ended = True
            case StreamReset():
                self._of(event.stream_id).reset = int(event.error_code or 0)
            case ConnectionTerminated():
                self.goaways.append(int(event.error_code or 0))

    def _of(self, stream_id: int | None) -> Got:
        assert stream_id is not None
        return self.got.setdefault(stream_id, Got())

    def answer(self, stream_id: int, body: bytes = b"", *, end: bool = True, **fields: str) -> None:
        """The server answers with 200."""
        head = [(b":status", b"200")]
        head += [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
        self.server.send_headers(stream_id, head, end_stream=end and not body)
        if body:
            self.server.send_data(stream_id, body, end_stream=end)
        self.flush()

    def receive(self, data: bytes) -> None:
        """Bytes that no library would send."""
        self.shared.receive(data)
