"""A server that speaks HTTP/2, by the library h2, over real sockets."""

from dataclasses import dataclass, field
from typing import cast

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError, StreamClosedError

from l7.protocol.message import Headers
from tests.l7.live_proxy import LiveBackend


@dataclass
class Asked:
    """One request."""

    connection: "Conversation"
    stream_id: int
    headers: dict[bytes, bytes]
    body: bytes = b""

    @property
    def route(self) -> str:
        return self.headers[b":path"].decode()


class Conversation:
    """One connection."""

    def __init__(self, stream: trio.SocketStream, most_streams: int) -> None:
        self.stream = stream
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.h2.local_settings.max_concurrent_streams = most_streams
        self.h2.local_settings.acknowledge()
        self.asked: dict[int, Asked] = {}
        self.left: dict[int, memoryview] = {}
        self.sending = trio.Lock()

    async def flush(self) -> None:
        async with self.sending:
            if said := self.h2.data_to_send():
                await self.stream.send_all(said)

    async def answer(self, stream_id: int, body: bytes = b"hello", fields: Headers | None = None) -> None:
        self.h2.send_headers(stream_id, [(b":status", b"200"), *(fields or [])])
        self.left[stream_id] = memoryview(body)
        self.send_more()
        await self.flush()

    def send_more(self) -> None:
        """As much as windows allow."""
        for stream_id, rest in list(self.left.items()):
            try:
                # Not by copies of the rest: of many megabytes they would take longer than sending them.
                while rest and (size := min(len(rest), self.h2.local_flow_control_window(stream_id), 16384)):
                    part, rest = rest[:size], rest[size:]
                    self.h2.send_data(stream_id, bytes(part), end_stream=not rest)
            except StreamClosedError:
                # Its reset is in the same read, behind what we look at now.
                rest = rest[:0]
            self.left[stream_id] = rest
            if not rest:
                del self.left[stream_id]


@dataclass
class LiveHttp2Backend(LiveBackend):
    """By path: `/bytes/N`, `/trailers`, `/upload`, `/hold` (until `release`), `/reset`, `/leave` (GOAWAY with the
    answer), `/broken`; `hello` else. A health check gets `health_status`."""

    most_streams: int = 100
    asked: list[Asked] = field(default_factory=list)
    checks: list[Asked] = field(default_factory=list)
    resets: list[int] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)
    release: trio.Event = field(default_factory=trio.Event)
    serving: bytes = b"\x08\x01"
    """What gRPC's health check is answered: field 1, SERVING."""
    refuses: int = 0
    """So many streams yet."""

    async def _converse(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        if self.tls is not None:
            encrypted = trio.SSLStream(stream, self.tls, server_side=True, https_compatible=True)
            try:
                await encrypted.do_handshake()
            except trio.BrokenResourceError:
                self.handshake_failures += 1
                return
            self.resumed += bool(encrypted.session_reused)
            stream = cast("trio.SocketStream", encrypted)
        conversation = Conversation(stream, self.most_streams)
        self.conversations.append(conversation)
        conversation.h2.initiate_connection()
        try:
            async with trio.open_nursery() as nursery:
                await conversation.flush()
                await self._listen(conversation, nursery)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError):
            pass

    async def _listen(self, conversation: Conversation, nursery: trio.Nursery) -> None:
        while data := await conversation.stream.receive_some(65536):
            for event in conversation.h2.receive_data(data):
                match event:
                    case RequestReceived():
                        stream_id = event.stream_id or 0
                        if self.refuses:
                            self.refuses -= 1
                            conversation.h2.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
                            continue
                        headers = {bytes(name): bytes(value) for name, value in event.headers or []}
                        conversation.asked[stream_id] = Asked(conversation, stream_id, headers)
                    case DataReceived():
                        stream_id = event.stream_id or 0
                        if stream_id in conversation.asked:
                            conversation.asked[stream_id].body += event.data or b""
                        conversation.h2.acknowledge_received_data(event.flow_controlled_length or 0, stream_id)
                    case StreamEnded():
                        asked = conversation.asked.pop(event.stream_id or 0, None)
                        if asked is not None:
                            nursery.start_soon(self._answer, asked)
                    case StreamReset():
                        self.resets.append(int(event.error_code or 0))
                        conversation.left.pop(event.stream_id or 0, None)
                    case WindowUpdated():
                        conversation.send_more()
                    case ConnectionTerminated():
                        return
            await conversation.flush()

    async def _answer(self, asked: Asked) -> None:
        conversation, stream_id, route = asked.connection, asked.stream_id, asked.route
        if route == "/grpc.health.v1.Health/Check":
            self.checks.append(asked)
            conversation.h2.send_headers(stream_id, [(b":status", b"200"), (b"content-type", b"application/grpc")])
            conversation.h2.send_data(stream_id, b"\0\0\0\0" + bytes((len(self.serving),)) + self.serving)
            conversation.h2.send_headers(stream_id, [(b"grpc-status", b"0")], end_stream=True)
            await conversation.flush()
            return
        if asked.headers.get(b"user-agent") == b"edgefleet-health":
            status = self.health_status.partition(b" ")[0]
            conversation.h2.send_headers(stream_id, [(b":status", status)], end_stream=True)
            await conversation.flush()
            return
        self.asked.append(asked)
        if route.startswith("/bytes/"):
            await conversation.answer(stream_id, b"x" * int(route.rpartition("/")[2]))
        elif route == "/trailers":
            conversation.h2.send_headers(stream_id, [(b":status", b"200")])
            conversation.h2.send_data(stream_id, b"ok")
            conversation.h2.send_headers(stream_id, [(b"x-sum", b"7")], end_stream=True)
        elif route == "/upload":
            await conversation.answer(stream_id, b"%d" % len(asked.body))
        elif route == "/reset":
            conversation.h2.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
        elif route == "/hold":
            await self.release.wait()
            await conversation.answer(stream_id)
        elif route == "/leave":
            conversation.h2.close_connection(last_stream_id=stream_id)
            await conversation.flush()
            # The library ends there, and is told nothing more: the answer goes by hand.
            await conversation.stream.send_all(
                b"\0\0\1\1\4" + stream_id.to_bytes(4) + b"\x88" + b"\0\0\3\0\1" + stream_id.to_bytes(4) + b"bye"
            )
            return
        else:
            await conversation.answer(stream_id)
        await conversation.flush()
