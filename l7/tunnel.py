"""A WebSocket between a client and a server: what an exchange becomes behind 101.

```
 client ── codec ── Tunnel ── codec ── server        bytes, both ways, as they come
                    │    │
                    └ frame observers: where may a frame of ours go, and who has said Close?
```

Rules:

1. Bytes pass as they come. What one side cannot take stops the reading of the other.
2. Frames are observed, never judged: the endpoints do that. If what goes by are no frames, the tunnel goes on as one of
   bytes, and no frame of ours is put into it any more.
3. A tunnel in which nothing moves lives on: its client gets a Ping now and then, between two frames. The Pong keeps
   translations of addresses and other proxies' idle limits from ending what is only quiet, and goes on to the server,
   where RFC 6455 section 5.5.3 allows it unasked. A client that is gone answers none, and TCP finds out.
4. It ends with the server's end, as the RFC has it (section 7.1.1): whoever has both sides' Close, and servers' always,
   waits for that, a bounded time. A client that ends without a Close has left; so has one that takes no bytes.
5. Our goodbye is a Close to the client with 1001, at the next border. Its answer goes on to the server, which hears
   1001 so, behind all that the client had to say. From a client that does not answer in time, the server gets ours.
6. A reset is passed on as a reset, an end as an end, both ways.

| what ends it                                  | the client | the server | flag, detail                          |
|-----------------------------------------------|------------|------------|---------------------------------------|
| the server's end, when a Close was seen       | end        | -          | -, closed_by_client, closed_by_server |
| the server's end without any                  | end        | -          | UC, upstream_closed_in_tunnel         |
| the server's reset                            | reset      | -          | UC, its name                          |
| the client's end without a Close              | end        | end        | DC, client_closed                     |
| the client's reset                            | -          | reset      | DC, its name                          |
| one that takes no bytes for too long          | reset      | reset      | SI, client_stalled, server_stalled    |
| nothing heard for too long                    | 1001, end  | 1001, end  | SI, tunnel_idle                       |
| a drain                                       | 1001, end  | 1001, end  | -, goodbye                            |
"""

import hashlib
from collections.abc import Iterable

from l7 import limits
from l7.protocol import websocket
from l7.protocol.message import ResponseHead, Trailers
from l7.protocol.websocket import GOING_AWAY, FrameObserver
from l7.shell import Flow, Services
from l7.sides import ClientSide, UpstreamSide
from l7.telemetry.access_log import AccessRecord
from l7.telemetry.flags import Flag
from l7.timers import NEVER


class Tunnel:
    """One WebSocket. Both codecs tell it what happens, as they told its exchange (`ClientUser`, `UpstreamUser`)."""

    __slots__ = (
        "_began_at",
        "_client",
        "_client_blocked_at",
        "_client_ended",
        "_close_to_client_due",
        "_closed_by",
        "_ends_at",
        "_flag",
        "_from_client",
        "_from_server",
        "_heard_at",
        "_leaving",
        "_pinged_at",
        "_reason",
        "_server_blocked_at",
        "_server_told",
        "_services",
        "_upstream",
        "flow",
        "record",
    )

    def __init__(
        self,
        client: ClientSide,
        upstream: UpstreamSide,
        services: Services,
        flow: Flow,
        record: AccessRecord,
        *,
        began_at: float,
    ) -> None:
        """`began_at`: when the handshake came, in the clock of `Services.now`."""
        self.flow = flow
        self.record = record
        self._client = client
        self._upstream: UpstreamSide | None = upstream
        self._services = services
        self._from_client = FrameObserver(masked=True)
        self._from_server = FrameObserver(masked=False)
        self._began_at = began_at
        self._heard_at = self._pinged_at = services.now()
        self._client_ended = False
        """Nothing more comes from the client."""
        self._closed_by: str | None = None
        """Whose Close was seen first."""
        self._client_blocked_at = self._server_blocked_at = NEVER
        """Since when it takes no bytes."""
        self._ends_at = NEVER
        """When it is over, whatever the sides still have to say."""
        self._leaving = False
        """We have said goodbye, or are about to: rule 5."""
        self._close_to_client_due = False
        self._server_told = False
        """The server has had our Close."""
        self._flag: Flag | None = None
        self._reason: str | None = None
        """Why we have said goodbye."""

    @property
    def request_id(self) -> str:
        """Of the handshake, as the access log has it."""
        return self.record.request_id

    def open(self, head: ResponseHead, held: Iterable[bytes], *, client_blocked: bool) -> None:
        """Begin. `held`: what the client sent ahead of time, counted already. `client_blocked`: as an exchange knows
        it."""
        upstream = self._upstream
        assert upstream is not None  # noqa: S101 - it is new
        self._services.count(f'tunnels_opened{{protocol="{self.flow.protocol}"}}')
        upstream.open_tunnel(self)
        for data in held:
            self._pass_to_server(data)
        self._client.open_tunnel(self, head)
        self._client.resume_request()
        if client_blocked:
            self.client_blocked()
        self._arm()

    # -- The client ----------------------------------------------------------------------------------------------------

    def request_body(self, data: bytes) -> None:
        """Bytes from the client."""
        self.record.bytes_in += len(data)
        self._heard_at = self._services.now()
        self._pass_to_server(data)

    def request_end(self, trailers: Trailers = ()) -> None:
        """The client has ended its side. Trailers mean nothing here."""
        if self._upstream is None or self._client_ended:
            return
        self._client_ended = True
        if self._from_client.closed:
            self._end_within(limits.TUNNEL_CLOSE_S)
        elif self._leaving:
            self._finish()
        else:
            self._finish(Flag.DOWNSTREAM_CONNECTION_TERMINATION, "client_closed")

    def request_broke(self, status: int, reason: str) -> None:
        """HTTP/2: the client broke a rule of its stream."""
        self._cut(Flag.DOWNSTREAM_PROTOCOL_ERROR, reason)

    def client_gone(self, detail: str) -> None:
        """Its connection or stream was reset, or broke."""
        upstream = self._upstream
        if upstream is not None:
            upstream.abort()
            self._let_go(upstream, Flag.DOWNSTREAM_CONNECTION_TERMINATION, detail)

    def client_blocked(self) -> None:
        """The client takes no more bytes for now."""
        self._client_blocked_at = self._services.now()
        if self._upstream is not None:
            self._upstream.pause_reading()

    def client_drained(self) -> None:
        """The client takes bytes again."""
        self._client_blocked_at = NEVER
        if self._upstream is not None:
            self._upstream.resume_reading()

    # -- The server ----------------------------------------------------------------------------------------------------

    def response_body(self, data: bytes) -> None:
        """Bytes from the server."""
        if self._upstream is None:
            return
        self._heard_at = self._services.now()
        observer = self._from_server
        if self._leaving:
            # Nothing may follow our Close; the server's own is still waited for.
            sent = observer.observe(data, to_border=True) if self._close_to_client_due else 0
            if sent:
                self.record.bytes_out += sent
                self._client.send_body(data[:sent])
                self._close_to_client()
            observer.observe(data[sent:])
        else:
            self.record.bytes_out += len(data)
            observer.observe(data)
            self._client.send_body(data)
        if observer.closed:
            self._close_seen("closed_by_server")

    def response_end(self, *, reusable: bool, trailers: Trailers = ()) -> None:
        """The server has ended its side: the end of the tunnel."""
        if self._leaving or self._closed_by is not None:
            self._finish()
        else:
            self._finish(Flag.UPSTREAM_CONNECTION_TERMINATION, "upstream_closed_in_tunnel")

    def upstream_blocked(self) -> None:
        """The server takes no more bytes for now."""
        self._server_blocked_at = self._services.now()
        self._client.pause_request()

    def upstream_drained(self) -> None:
        """The server takes bytes again."""
        self._server_blocked_at = NEVER
        self._client.resume_request()

    def upstream_lost(self, detail: str, *, untouched: bool, nothing_sent: bool) -> None:
        """The server's connection broke."""
        self._cut(Flag.UPSTREAM_CONNECTION_TERMINATION, detail)

    def upstream_broke(self, reason: str) -> None:
        """Bytes break no rule of HTTP."""
        self._cut(Flag.UPSTREAM_PROTOCOL_ERROR, reason)

    def response_paused(self) -> None:
        """Bytes are passed on as they come."""

    # -- Time ----------------------------------------------------------------------------------------------------------

    def deadline_passed(self) -> None:
        """Something may be due."""
        if self._upstream is None:
            return
        # Deadlines are kept to a tick.
        now = self._services.now() + limits.TIMER_TICK_S
        if now >= self._ends_at:
            self._time_is_up()
        elif now >= self._client_blocked_at + limits.STREAM_IDLE_S:
            self._cut(Flag.STREAM_IDLE_TIMEOUT, "client_stalled")
        elif now >= self._server_blocked_at + limits.STREAM_IDLE_S:
            self._cut(Flag.STREAM_IDLE_TIMEOUT, "server_stalled")
        elif now >= self._heard_at + limits.TUNNEL_IDLE_S:
            self._leave(Flag.STREAM_IDLE_TIMEOUT, "tunnel_idle")
        elif now >= self._ping_due:
            self._pinged_at = self._services.now()
            self._ping()
        if self._upstream is not None:
            self._arm()

    def goodbye(self) -> None:
        """A draining proxy waits no longer."""
        if self._upstream is not None:
            self._leave(None, "goodbye")

    # -- Inside --------------------------------------------------------------------------------------------------------

    def _pass_to_server(self, data: bytes) -> None:
        upstream = self._upstream
        if upstream is None or self._server_told:
            return
        self._from_client.observe(data)
        upstream.send_body(data)
        if self._from_client.closed:
            self._close_seen("closed_by_client")

    def _close_seen(self, by: str) -> None:
        """Rule 4: the end is near when both have said Close."""
        if self._closed_by is None:
            self._closed_by = by
        if self._from_client.closed and (self._from_server.closed or self._leaving):
            self._end_within(limits.TUNNEL_CLOSE_S)

    def _ping(self) -> None:
        """Rule 3. Not behind anybody's Close, nor in front of a client that takes no bytes."""
        is_free = self._from_server.at_border and self._client_blocked_at == NEVER
        if is_free and self._closed_by is None and not self._leaving:
            self._services.count("tunnel_pings")
            self._client.send_body(websocket.ping())

    def _leave(self, flag: Flag | None, reason: str) -> None:
        """Rule 5."""
        if self._leaving:
            return
        self._leaving = True
        self._flag, self._reason = flag, reason
        if not self._from_server.readable:
            # No frame can be put in: this is what is left.
            self._finish()
            return
        self._end_within(limits.TUNNEL_CLOSE_S)
        self._close_to_client_due = not self._from_server.closed
        if self._from_server.at_border:
            self._close_to_client()

    def _close_to_client(self) -> None:
        if self._close_to_client_due and self._from_server.at_border:
            self._close_to_client_due = False
            if not self._from_server.closed:
                self._client.send_body(websocket.close(GOING_AWAY))

    def _time_is_up(self) -> None:
        """The client has not answered our Close, or the server not the client's, or somebody does not hang up."""
        upstream = self._upstream
        observer = self._from_client
        if upstream is None or self._server_told or observer.closed or not observer.at_border:
            self._finish()
            return
        self._server_told = True
        mask = hashlib.sha256(self._services.new_request_id().encode("ascii")).digest()[:4]
        upstream.send_body(websocket.close(GOING_AWAY, mask))
        self._end_within(limits.TUNNEL_CLOSE_S)

    def _end_within(self, seconds: float) -> None:
        self._ends_at = self._services.now() + seconds
        self._arm()

    @property
    def _ping_due(self) -> float:
        return max(self._heard_at, self._pinged_at) + limits.TUNNEL_PING_S

    def _arm(self) -> None:
        """What moves later moves no timer: that is looked at when this one has passed."""
        due = min(self._ping_due, self._ends_at)
        self._client.set_deadline(max(0.0, due - self._services.now()))

    def _finish(self, flag: Flag | None = None, reason: str | None = None) -> None:
        """End both sides in order."""
        upstream = self._upstream
        if upstream is not None:
            self._let_go(upstream, flag, reason or self._closed_by)
            self._client.exchange_over(whole=True)

    def _cut(self, flag: Flag, reason: str) -> None:
        """Reset both sides."""
        upstream = self._upstream
        if upstream is not None:
            upstream.abort()
            self._let_go(upstream, flag, reason)
            self._client.abort_exchange()

    def _let_go(self, upstream: UpstreamSide, flag: Flag | None, reason: str | None) -> None:
        self._upstream = None
        upstream.detach()
        services = self._services
        services.release_upstream(upstream, False)
        record = self.record
        if self._leaving:
            flag, reason = self._flag, self._reason
        if flag is not None:
            record.flags = (flag,)
        record.detail = reason
        record.duration_s = services.now() - self._began_at
        services.count(f'tunnels_ended{{reason="{reason}"}}')
        services.finished(record)

    def __repr__(self) -> str:
        state = "over" if self._upstream is None else "leaving" if self._leaving else "open"
        return f"Tunnel({self.record.request_id} {state}, {self._from_client!r}, {self._from_server!r})"
