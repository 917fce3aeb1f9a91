"""A gRPC call: an exchange whose errors, deadline and end are told in gRPC's own words (PROTOCOL-HTTP2.md).

1. The client's `grpc-timeout` is the call's deadline, whatever it is busy with; the route may bound it. What is left of
   it is sent on with each attempt. Once it is over the call ends with DEADLINE_EXCEEDED.
2. Streams may live long and be silent for long: timeouts of routes and bodies are not for calls. A call without a
   deadline ends when nothing has moved for `GRPC_IDLE_S`.
3. An error of ours is no HTTP error but a head alone, with HTTP 200 and `grpc-status`. After the head it is trailers,
   so that a part is not taken for the whole and the client learns why.
"""

from collections.abc import Callable
from typing import Final

from l7 import grpc, limits
from l7.answer import PROXY_NAME
from l7.exchange import Exchange, Phase
from l7.grpc import Status
from l7.protocol.message import RequestHead, ResponseHead, Trailers
from l7.shell import Flow, Services
from l7.sides import ClientSide, UpstreamSide
from l7.telemetry.access_log import NO_GRPC_STATUS
from l7.telemetry.flags import Flag
from l7.timers import NEVER

#: What a RST_STREAM means that came instead of a status ("Errors"); all others are INTERNAL.
_RESETS: Final = {
    "stream_reset_cancel": Status.CANCELLED,
    "stream_reset_refused_stream": Status.UNAVAILABLE,
    "stream_reset_enhance_your_calm": Status.RESOURCE_EXHAUSTED,
}
_EXPIRED: Final = "grpc_deadline"
_TIMEOUT_LINE: Final = b"\r\ngrpc-timeout: "


class Patience:
    """How long a call waits: rules 1 and 2. Not the exchange itself, which streams would then hold by two ways."""

    __slots__ = ("_now", "expires_at", "is_connecting")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.expires_at = NEVER
        """In the clock of `now`."""
        self.is_connecting = False
        """Making a connection is bounded as for everybody."""

    def __call__(self, seconds: float | None) -> float | None:
        """For how long to wait where another exchange would wait so many seconds."""
        if seconds is None:
            return None
        if not self.is_connecting:
            seconds = limits.GRPC_IDLE_S
        return max(0.0, min(seconds, self.expires_at - self._now()))


class GrpcExchange(Exchange):
    """One call."""

    __slots__ = ("_own_lines", "patience")

    def __init__(self, client: ClientSide, services: Services, flow: Flow, head: RequestHead) -> None:
        super().__init__(client, services, flow, head)
        self.patience = Patience(services.now)
        self._own_lines: bytes | None = None
        """What we say upstream, but for the time that is left. None: it has not been routed yet."""
        self.record.grpc_status = NO_GRPC_STATUS

    def _open(self, *, fresh: bool) -> None:
        if self._own_lines is None:
            self._own_lines = self._extra
            self.patience.expires_at = self._started_at + self._allowed()
        self.patience.is_connecting = True
        super()._open(fresh=fresh)

    def _allowed(self) -> float:
        call, target = self._head.grpc, self._target
        asked = call.timeout_s if call is not None and call.timeout_s is not None else NEVER
        most = target.grpc_max_deadline_s if target is not None else None
        return asked if most is None else min(asked, most)

    def upstream_connected(self, connection: UpstreamSide, *, reused: bool) -> None:
        """Tell the server how much time is left."""
        self.patience.is_connecting = False
        expires_at = self.patience.expires_at
        if self._own_lines is not None and expires_at < NEVER:
            left = max(0.0, expires_at - self._services.now())
            self._extra = self._own_lines + _TIMEOUT_LINE + grpc.write_timeout(left)
        super().upstream_connected(connection, reused=reused)

    def request_body(self, data: bytes) -> None:
        """Bytes that come are a sign of life, also after the response has begun."""
        super().request_body(data)
        if self.phase is Phase.STREAMING:
            self._client.set_deadline(limits.GRPC_IDLE_S)

    def deadline_passed(self) -> None:
        """Rule 1, or 2."""
        if self.phase is Phase.OVER:
            return
        # The clock of a step may be a little behind the one that the deadline was set by.
        if self._services.now() >= self.patience.expires_at - limits.TIMER_TICK_S / 2:
            self._fail(504, Flag.UPSTREAM_REQUEST_TIMEOUT, _EXPIRED)
        elif self.phase is Phase.OPENING or self.phase is Phase.STREAMING:
            super().deadline_passed()
        else:
            self._fail(504, Flag.STREAM_IDLE_TIMEOUT, "grpc_idle_timeout")

    def response_head(self, head: ResponseHead) -> None:
        """It may be all that there is, with the status in it."""
        if head.length == 0:
            self._take_status(head.headers)
        super().response_head(head)

    def response_end(self, *, reusable: bool, trailers: Trailers = ()) -> None:
        """The status is in the trailers."""
        self._take_status(trailers)
        super().response_end(reusable=reusable, trailers=trailers)

    def client_gone(self, detail: str) -> None:
        """The client has cancelled the call, or is gone: nobody hears of its end."""
        if self.phase is not Phase.OVER:
            self.record.grpc_status = Status.CANCELLED
        super().client_gone(detail)

    def _take_status(self, fields: Trailers) -> None:
        status = grpc.read_status(fields)
        if status is not None:
            self.record.grpc_status = status

    def _own_answer(self, status: int, detail: str) -> tuple[ResponseHead, bytes]:
        head = grpc.trailers_only(self._status(status, detail), f"{PROXY_NAME}: {detail}")
        head.headers.append((b"x-request-id", self.record.request_id.encode("ascii")))
        return head, b""

    def _cut(self, status: int, detail: str) -> None:
        trailers = grpc.status_lines(self._status(status, detail), f"{PROXY_NAME}: {detail}")
        self._finish()
        self._client.exchange_over(whole=self._request_ended, trailers=trailers)

    def _status(self, status: int, detail: str) -> Status:
        if detail == _EXPIRED:
            found = Status.DEADLINE_EXCEEDED
        elif detail.startswith("stream_reset_"):
            found = _RESETS.get(detail, Status.INTERNAL)
        else:
            found = grpc.status_of_http(status)
        self.record.grpc_status = found
        return found
