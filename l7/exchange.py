"""One request's life, protocol-blind: head → route → attempt(s) → streamed answer.

Theory of operation
-------------------
An exchange is told what happened (methods below) and answers by calling the two codecs and the shell. It waits for
nothing, and knows neither sockets nor clocks nor HTTP/1.1.

1. Each request has one exchange, each exchange one response head at most, and one access-log record exactly.
2. The exchange begins with the request head, whole. Host and path must be right for this connection and these routes,
   else the answer is our own and no server hears of it.
3. What is matched is sent: the head carries the normal form of the path from here on.
4. Bodies stream. What one side cannot take stops the reading of the other side, and of nobody else: at most one read
   waits, and request bytes that came before their upstream did.
5. An attempt may be repeated once on a fresh connection, if it went to a pooled connection that died without one byte
   of response, and if either nothing of the request left or its method is idempotent (RFC 9110 section 9.2.2; RFC 9112
   section 9.3.1), and if all of its body so far is still held. Nothing else is ever sent twice.
6. Before the response head has gone out, a failure is our own answer. After it, a failure is a visible cut: the
   client's side is aborted, so that a part is never taken for the whole.
7. An answer that is whole before its request is leaves the rest of the request unread: the client's connection ends
   after it.
8. A handshake for WebSocket is answered by the server; with 101 a tunnel takes the exchange's place (`l7.tunnel`).
   Until then nothing of what the client sends behind it reaches the server, whatever the server takes it for.
9. Once over, an exchange ignores everything.

| phase     | event                         | next      | what is done                                                |
|-----------|-------------------------------|-----------|-------------------------------------------------------------|
| NEW       | begin, route found            | OPENING   | ask for a connection                                        |
| NEW       | begin, a probe's path from an L4 node | OVER | 200 or 503, and no record                      |
| NEW       | begin, refused                | OVER      | own answer 400, 403, 404, 421                               |
| OPENING   | upstream_connected            | AWAITING  | send head and held body; say 100 Continue if awaited        |
| OPENING   | upstream_failed               | OVER      | own answer 503                                              |
| OPENING   | request_body                  | OPENING   | hold it, pause the client                                   |
| AWAITING  | request_body, request_end     | AWAITING  | send it upstream; after the end the route's timeout runs    |
| AWAITING  | interim_head                  | AWAITING  | pass it on, but for 100                                     |
| AWAITING  | response_head                 | STREAMING | send it                                                     |
| AWAITING  | upgraded                      | OVER      | the tunnel goes on                                          |
| AWAITING  | upstream_lost, rule 5         | OPENING   | ask for a fresh connection                                  |
| AWAITING  | upstream_lost, upstream_broke | OVER      | own answer 502                                              |
| STREAMING | response_body                 | STREAMING | send it                                                     |
| STREAMING | response_end                  | OVER      | end the response, release the upstream                      |
| STREAMING | upstream_lost, upstream_broke | OVER      | abort the client                                            |
| OPENING…  | deadline_passed               | OVER      | own answer 408 or 504; abort the client if STREAMING        |
| OPENING…  | request_broke                 | OVER      | own answer 400; abort the client if STREAMING               |
| OPENING…  | client_gone                   | OVER      | drop the upstream                                           |
"""

from enum import Enum, auto
from typing import Final

from l7 import limits
from l7.answer import error_answer
from l7.forwarded import Unbelievable, told_origin
from l7.protocol import websocket
from l7.protocol.message import RequestHead, ResponseHead, Trailers
from l7.routing.matcher import Target
from l7.routing.path import PathRefused, normalise
from l7.shell import Flow, Services
from l7.sides import ClientSide, UpstreamSide
from l7.telemetry.access_log import AccessRecord
from l7.telemetry.flags import Flag
from l7.tunnel import Tunnel
from orchestrator.contract.snapshot import HEALTH_PATH

#: Methods that may be sent twice (RFC 9110 section 9.2.2; RFC 4918 and RFC 3253 for WebDAV's).
IDEMPOTENT: Final = frozenset(
    (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PROPFIND", b"PROPPATCH", b"REPORT", b"SEARCH")
)


PROBED_PATH: Final = HEALTH_PATH.encode("ascii")


class Phase(Enum):
    """Where an exchange stands: see the table above."""

    NEW = auto()
    OPENING = auto()
    AWAITING = auto()
    STREAMING = auto()
    OVER = auto()


_NEW: Final = Phase.NEW
_OPENING: Final = Phase.OPENING
_AWAITING: Final = Phase.AWAITING
_STREAMING: Final = Phase.STREAMING
_OVER: Final = Phase.OVER


class Exchange:
    """One request. The shell calls only `upstream_connected` and `upstream_failed`; the codecs call the rest."""

    __slots__ = (
        "_backend",
        "_client",
        "_client_blocked",
        "_connected_at",
        "_extra",
        "_head",
        "_held",
        "_held_bytes",
        "_holding",
        "_interims",
        "_request_ended",
        "_request_trailers",
        "_reused",
        "_services",
        "_started_at",
        "_target",
        "_timeout_s",
        "_upstream",
        "_upstream_blocked",
        "flow",
        "phase",
        "record",
    )

    def __init__(self, client: ClientSide, services: Services, flow: Flow, head: RequestHead) -> None:
        self.flow = flow
        self.phase = _NEW
        self._client = client
        self._services = services
        self._head = head
        self._backend = ""
        self._target: Target | None = None
        self._timeout_s = 0.0
        self._upstream: UpstreamSide | None = None
        self._reused = False
        self._extra = b""
        self._request_ended = head.length == 0
        self._request_trailers: Trailers = ()
        # Body bytes that were taken from the client and may have to be sent (again): rules 4 and 5.
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._holding = True
        self._client_blocked = False
        self._upstream_blocked = False
        self._interims = 0
        self._connected_at = 0.0
        self._started_at = services.now()
        self.record = AccessRecord(
            time=services.wall_time(),
            request_id=services.new_request_id(),
            client=flow.client,
            vip=flow.vip,
            l4_node=flow.l4_node,
            tls_version=flow.tls_version,
            protocol=flow.protocol,
            method=head.method,
            host=head.host,
            path=head.path,
        )
        self.record.identity = flow.identity

    @property
    def request_id(self) -> str:
        """As the access log has it."""
        return self.record.request_id

    # -- The request ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The head is here: route it and ask for a connection."""
        head = self._head
        try:
            path = normalise(head.path) if head.path != b"*" else head.path
        except PathRefused as refused:
            self._fail(400, Flag.DOWNSTREAM_PROTOCOL_ERROR, refused.reason)
            return
        if self.flow.is_probe and path == PROBED_PATH:
            self._answer_probe()
            return
        head.path = path
        record = self.record
        record.path = path
        cover = self.flow.cover
        if cover is not None and not cover.covers(head.host):
            # RFC 9110 section 15.5.20: another host's certificate is no promise for this one.
            self._fail(421, Flag.NO_ROUTE, "host_not_covered_by_certificate")
            return
        routes = self._services.routes
        if routes.client_policy(head.host) != self.flow.client_policy:
            # The handshake asked for other certificates than this host does, or for none.
            self._fail(421, Flag.NO_ROUTE, "client_certificate_policy")
            return
        if not self.flow.client_allowed:
            self._fail(403, Flag.UNAUTHORIZED, "client_certificate_not_allowed")
            return
        target = routes.match(head.host, path)
        if target is None:
            self._fail(404, Flag.NO_ROUTE, "no_route")
            return
        record.route = target.route
        record.backend = self._backend = target.backend
        self._target = target
        self._timeout_s = target.timeout_s
        forwarded = self._ask_hops() if self.flow.trusted_hops else self.flow.forwarded
        self._extra = forwarded + b"x-request-id: " + record.request_id.encode("ascii")
        if head.websocket_key == b"":
            head.websocket_key = websocket.key_of(record.request_id)
            head.headers.append((b"sec-websocket-key", head.websocket_key))
        self._open(fresh=False)

    def refuse(self, status: int, reason: str) -> None:
        """Instead of `begin`: the request broke a rule of its protocol, or did not come in time (408)."""
        self._fail(status, Flag.DURATION_TIMEOUT if status == 408 else Flag.DOWNSTREAM_PROTOCOL_ERROR, reason)

    def request_body(self, data: bytes) -> None:
        """Bytes of the request's body."""
        if self.phase is _OVER:
            return
        self.record.bytes_in += len(data)
        upstream = self._upstream
        if upstream is None or self._head.websocket_key is not None:
            self._held.append(data)
            self._held_bytes += len(data)
            self._client.pause_request()
            return
        if self._holding:
            self._hold(data)
        upstream.send_body(data)
        if self.phase is not _STREAMING:
            self._client.set_deadline(self._body_wait())

    def request_end(self, trailers: Trailers = ()) -> None:
        """The request is whole."""
        if self.phase is _OVER:
            return
        if self._head.websocket_key is not None:
            self._fail(400, Flag.DOWNSTREAM_PROTOCOL_ERROR, "websocket_ended")
            return
        self._request_ended = True
        self._request_trailers = trailers
        if self._upstream is not None:
            self._upstream.send_end(trailers)
            if self.phase is _AWAITING:
                self._client.set_deadline(self._timeout_s)

    def request_broke(self, status: int, reason: str) -> None:
        """The request's body broke a rule of its protocol."""
        self._fail(status, Flag.DOWNSTREAM_PROTOCOL_ERROR, reason)

    def client_gone(self, detail: str) -> None:
        """The client left, or its connection broke."""
        if self.phase is _OVER:
            return
        self._note(Flag.DOWNSTREAM_CONNECTION_TERMINATION, detail)
        self._drop_upstream()
        self._finish()

    def client_blocked(self) -> None:
        """The client takes no more bytes for now."""
        self._client_blocked = True
        if self._upstream is not None:
            self._upstream.pause_reading()

    def client_drained(self) -> None:
        """The client takes bytes again."""
        self._client_blocked = False
        if self._upstream is not None:
            self._upstream.resume_reading()
            if self.phase is _STREAMING:
                self._client.set_deadline(limits.STREAM_IDLE_S)

    def deadline_passed(self) -> None:
        """The deadline that was set last is over."""
        phase = self.phase
        if phase is _STREAMING:
            stalled = "client_stalled" if self._client_blocked else "response_stalled"
            self._fail(504, Flag.STREAM_IDLE_TIMEOUT, stalled)
        elif phase is _OPENING:
            self._fail(504, Flag.UPSTREAM_REQUEST_TIMEOUT, "connection_wait_timeout")
        elif phase is _AWAITING and (self._request_ended or self._upstream_blocked):
            waiting_for = "response_timeout" if self._request_ended else "upstream_write_timeout"
            self._fail(504, Flag.UPSTREAM_REQUEST_TIMEOUT, waiting_for)
        elif phase is _AWAITING:
            self._fail(408, Flag.STREAM_IDLE_TIMEOUT, "request_body_timeout")

    def goodbye(self) -> None:
        """A draining proxy waits no longer: but an exchange has an end of its own."""

    # -- The upstream's connection -------------------------------------------------------------------------------------

    def upstream_connected(self, connection: UpstreamSide, *, reused: bool) -> None:
        """The answer to `Services.open_upstream`. `reused`: it has carried a request before."""
        if self.phase is not _OPENING:
            self._services.release_upstream(connection, True)
            return
        self.phase = _AWAITING
        self._upstream = connection
        self._reused = reused
        self._connected_at = self._services.now()
        self.record.server = connection.server
        head = self._head
        if head.websocket_key is not None and not connection.takes_websockets:
            self._fail(502, Flag.UPSTREAM_PROTOCOL_ERROR, "websocket_not_offered")
            return
        connection.send_request(self, head, self._extra)
        if head.length:
            self._send_held(connection)
        self._client.set_deadline(self._timeout_s if self._request_ended else self._body_wait())

    def upstream_failed(self, flag: Flag, detail: str, server: str | None = None) -> None:
        """The other answer: UF connecting failed, UH no server, UO a bound was reached. `detail`: `connect_timeout`,
        `connection_refused`, ... (a name, not a sentence). `server`: the one that was tried, for the log."""
        if self.phase is not _OPENING:
            return
        self.record.server = server
        self._fail(503, flag, detail)

    def upstream_blocked(self) -> None:
        """The server takes no more bytes for now."""
        self._upstream_blocked = True
        self._client.pause_request()

    def upstream_drained(self) -> None:
        """The server takes bytes again."""
        self._upstream_blocked = False
        self._client.resume_request()

    def upstream_lost(self, detail: str, *, untouched: bool, nothing_sent: bool) -> None:
        """The connection ended before its response did. `untouched`: not one byte of response has come;
        `nothing_sent`: not one byte of the request has left."""
        if self.phase is _OVER:
            return
        head = self._head
        if (
            self.phase is _AWAITING
            and self._reused
            and untouched
            and self._holding
            and self.record.retries < limits.MAX_STALE_RETRIES
            and (nothing_sent or head.method in IDEMPOTENT)
        ):
            self._drop_upstream()
            self.record.retries += 1
            self._services.count("retries_stale_connection")
            self._open(fresh=True)
            return
        self._fail(502, Flag.UPSTREAM_CONNECTION_TERMINATION, detail)

    def upstream_broke(self, reason: str) -> None:
        """The response broke a rule of its protocol."""
        self._fail(502, Flag.UPSTREAM_PROTOCOL_ERROR, reason)

    # -- The response --------------------------------------------------------------------------------------------------

    def interim_head(self, head: ResponseHead) -> None:
        """A 1xx head: passed on (RFC 9110 section 15.2), but for 100, which this side did not ask for."""
        self._interims += 1
        if self._interims > limits.MAX_INTERIM_RESPONSES:
            self.upstream_broke("too_many_interim_responses")
        elif head.status != 100:
            self._client.send_interim(head)

    def response_head(self, head: ResponseHead) -> None:
        """The final head."""
        if self.phase is not _AWAITING:
            return
        self.phase = _STREAMING
        self.record.status = head.status
        self.record.upstream_s = self._services.now() - self._connected_at
        if self._holding:
            self._let_go()
        self._client.send_head(head, last=not self._request_ended)

    def upgraded(self, head: ResponseHead) -> None:
        """101: the server has switched to WebSocket."""
        upstream = self._upstream
        if self.phase is not _AWAITING or upstream is None:
            return
        self.phase = _OVER
        self._upstream = None
        self.record.status = head.status
        self.record.upstream_s = self._services.now() - self._connected_at
        held, self._held = self._held, []
        tunnel = Tunnel(self._client, upstream, self._services, self.flow, self.record, began_at=self._started_at)
        tunnel.open(head, held, client_blocked=self._client_blocked)

    def response_body(self, data: bytes) -> None:
        """Bytes of the response's body."""
        if self.phase is _STREAMING:
            self.record.bytes_out += len(data)
            self._client.send_body(data)

    def response_end(self, *, reusable: bool, trailers: Trailers = ()) -> None:
        """The response is whole, and the connection has let go of the exchange. `reusable`: it could carry another
        request now."""
        upstream = self._upstream
        if self.phase is not _STREAMING or upstream is None:
            return
        self._upstream = None
        whole = self._request_ended
        if self._client_blocked and reusable:
            upstream.resume_reading()
        self._services.release_upstream(upstream, reusable)
        self._finish()
        self._client.exchange_over(whole=whole, trailers=trailers)

    def response_paused(self) -> None:
        """A batch of response bytes has been passed on, and more is to come."""
        if self.phase is _STREAMING:
            self._client.set_deadline(limits.STREAM_IDLE_S)

    # -- Inside --------------------------------------------------------------------------------------------------------

    def _ask_hops(self) -> bytes:
        """Where the request came from, by the word of the hops before this one."""
        flow = self.flow
        try:
            origin = told_origin(flow.client, tls=flow.tls, claims=self._head.claims, trusted_hops=flow.trusted_hops)
        except Unbelievable:
            self._services.count("forwarded_for_unbelievable")
            return flow.forwarded
        self.record.client = origin.client
        return origin.lines if flow.identity is None else origin.lines + flow.identity.header

    def _open(self, *, fresh: bool) -> None:
        self.phase = _OPENING
        self._services.open_upstream(self, self._backend, fresh)
        if self.phase is _OPENING:
            # The shell bounds connecting; this bounds waiting for a turn as well.
            self._client.set_deadline(limits.CONNECT_S + self._timeout_s)

    def _body_wait(self) -> float:
        """Seconds until more of the request's body must have come: a part renews one deadline, and not the other."""
        allowed = limits.REQUEST_BODY_S + self.record.bytes_in / limits.MIN_BYTES_PER_S
        left = self._started_at + allowed - self._services.now()
        return min(limits.STREAM_IDLE_S, left) if left > 0.0 else 0.0

    def _send_held(self, connection: UpstreamSide) -> None:
        """Send the body so far, and let the client go on with the rest."""
        for data in self._held:
            connection.send_body(data)
        self._holding = self._reused and self._held_bytes <= limits.MAX_REPLAY_BYTES
        if not self._holding:
            self._let_go()
        if self._request_ended:
            connection.send_end(self._request_trailers)
        elif self._head.expects_continue:
            # Decided here, as nginx does: `Expect` is not sent upstream, and the client uploads nothing to a dead end.
            self._head.expects_continue = False
            if not self.record.bytes_in:
                self._client.send_continue()
        self._client.resume_request()

    def _hold(self, data: bytes) -> None:
        self._held_bytes += len(data)
        if self._held_bytes > limits.MAX_REPLAY_BYTES:
            self._holding = False
            self._let_go()
        else:
            self._held.append(data)

    def _let_go(self) -> None:
        self._holding = False
        if self._held:
            self._held = []

    def _note(self, flag: Flag, detail: str) -> None:
        record = self.record
        if record.retries and flag is not Flag.DOWNSTREAM_CONNECTION_TERMINATION:
            record.flags = (flag, Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED)
        else:
            record.flags = (flag,)
        record.detail = detail

    def _fail(self, status: int, flag: Flag, detail: str) -> None:
        """Rule 6: our own answer, or a visible cut."""
        phase = self.phase
        if phase is _OVER:
            return
        self._note(flag, detail)
        self._drop_upstream()
        if phase is _STREAMING:
            self._cut(status, detail)
            return
        record = self.record
        head, body = self._own_answer(status, detail)
        record.status = head.status
        broken = flag is Flag.DOWNSTREAM_PROTOCOL_ERROR
        whole = self._request_ended and not broken
        self._client.send_head(head, last=not whole)
        if self._head.method != b"HEAD":
            record.bytes_out = len(body)
            self._client.send_body(body)
        self._finish()
        self._client.exchange_over(whole=whole)

    def _own_answer(self, status: int, detail: str) -> tuple[ResponseHead, bytes]:
        """Head and body of an error that is ours to tell."""
        return error_answer(status, detail, self.record.request_id)

    def _cut(self, _status: int, _detail: str) -> None:
        """End a response that has begun, so that a part is never taken for the whole."""
        self._finish()
        self._client.abort_exchange()

    def _answer_probe(self) -> None:
        """An L4 node asks whether this proxy serves. It is told, and nobody else hears of it."""
        is_serving = self._services.is_serving
        body = b"serving\n" if is_serving else b"not serving\n"
        headers = [(b"content-type", b"text/plain"), (b"cache-control", b"no-store")]
        head = ResponseHead(200 if is_serving else 503, headers, length=len(body), content_length=len(body))
        self.phase = _OVER
        self._services.count("probes_answered")
        self._client.send_head(head, last=not self._request_ended)
        if self._head.method != b"HEAD":
            self._client.send_body(body)
        self._client.exchange_over(whole=self._request_ended)

    def _drop_upstream(self) -> None:
        """Whatever the upstream is doing for this exchange, it need not go on."""
        self._upstream_blocked = False
        upstream = self._upstream
        if upstream is not None:
            self._upstream = None
            upstream.detach()
            self._services.release_upstream(upstream, False)
        elif self.phase is _OPENING:
            self._services.abandon_upstream(self)

    def _finish(self) -> None:
        self.phase = _OVER
        self._held = []
        self.record.duration_s = self._services.now() - self._started_at
        self._services.finished(self.record)

    def __repr__(self) -> str:
        return f"Exchange({self.record.request_id} {self.phase.name.lower()}, {self._head!r})"
