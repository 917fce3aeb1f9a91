"""One request over HTTP/2 on a trio stream, for health checks: by the codec that requests go by, driven by a task."""

from typing import Final

import trio

from l7 import limits
from l7.protocol.http2.client import ClientConnection
from l7.protocol.message import Headers, RequestHead, ResponseHead, Trailers
from l7.sides import ClientFlow, UpstreamSide
from l7.telemetry.flags import Flag
from l7.tls import HTTP2

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class NoAnswer(Exception):
    """There was no answer; says why, in words."""


class Answer:
    """What the server said, as far as it has come: an exchange's other half, that only takes notes."""

    def __init__(self) -> None:
        self.status = 0
        """0: no head has come."""
        self.body = b""
        """At most `MAX_HEALTH_ANSWER_BYTES` of it."""
        self.trailers: Headers = []
        """The head's fields too: gRPC's status may be in either."""
        self.ended = False
        self.failure = ""

    # -- UpstreamUser --------------------------------------------------------------------------------------------------

    @property
    def flow(self) -> ClientFlow:
        """A check is nobody's."""
        raise NotImplementedError

    @property
    def request_id(self) -> str:
        """It is in no log."""
        return ""

    def upstream_connected(self, connection: UpstreamSide, *, reused: bool) -> None:
        """It is asked for by nobody."""

    def upstream_failed(self, flag: Flag, detail: str, server: str | None = None) -> None:
        """Nor this."""

    def upstream_blocked(self) -> None:
        """A check says little."""

    def upstream_drained(self) -> None:
        """And waits for nothing."""

    def upstream_lost(self, detail: str, *, untouched: bool, nothing_sent: bool) -> None:
        """The stream ended early."""
        self.failure = detail.replace("_", " ")

    def upstream_broke(self, reason: str) -> None:
        """The answer broke a rule."""
        self.failure = f"not an HTTP/2 answer: {reason.replace('_', ' ')}"

    def interim_head(self, head: ResponseHead) -> None:
        """Of no interest."""

    def upgraded(self, head: ResponseHead) -> None:
        """Checks ask for no WebSocket."""

    def response_head(self, head: ResponseHead) -> None:
        """Note it."""
        self.status = head.status
        self.trailers += head.headers

    def response_body(self, data: bytes) -> None:
        """Note its beginning."""
        self.body += data[: limits.MAX_HEALTH_ANSWER_BYTES - len(self.body)]

    def response_end(self, *, reusable: bool, trailers: Trailers = ()) -> None:
        """It is whole."""
        self.trailers += trailers
        self.ended = True

    def response_paused(self) -> None:
        """More is to come."""


class _Wire:
    """`l7.shell.Transport`: keeps what the task is to send."""

    def __init__(self) -> None:
        self.out = b""

    def send(self, data: bytes) -> None:
        self.out += data

    def pause_reading(self) -> None:
        """The task reads on."""

    def resume_reading(self) -> None:
        """It does anyway."""

    def set_deadline(self, seconds: float | None) -> None:
        """The check has one of its own."""

    def close(self) -> None:
        """The task closes."""

    def abort(self) -> None:
        """Likewise."""


_READ_BYTES: Final = 16 * 1024


async def ask(stream: Stream, head: RequestHead, extra: bytes, body: bytes = b"", *, whole: bool = False) -> Answer:
    """Send one request; give the answer when its head has come, or when it is `whole`. Without a deadline of its own.

    Raises:
        NoAnswer: the server does not speak HTTP/2, or ends without an answer.
        trio.BrokenResourceError, OSError: the connection broke.
    """
    encrypted = isinstance(stream, trio.SSLStream)
    if isinstance(stream, trio.SSLStream):
        await stream.do_handshake()
        if stream.selected_alpn_protocol() != HTTP2:
            raise NoAnswer("it does not speak HTTP/2 (ALPN)")
    wire, answer = _Wire(), Answer()
    connection = ClientConnection(wire, "", trio.current_time, lambda _: None, encrypted=encrypted)
    asked = False
    while True:
        if connection.is_ready and not asked:
            asked = True
            request = connection.stream()
            request.send_request(answer, head, extra)
            if body:
                request.send_body(body)
        said, wire.out = wire.out, b""
        if said:
            await stream.send_all(said)
        if answer.failure:
            raise NoAnswer(answer.failure)
        if answer.ended or (answer.status and not whole):
            return answer
        if connection.is_closed:
            raise NoAnswer("it does not speak HTTP/2")
        data = bytes(await stream.receive_some(_READ_BYTES))
        if not data:
            raise NoAnswer("it closed the connection before the answer" if asked else "it does not speak HTTP/2")
        connection.receive(data)
