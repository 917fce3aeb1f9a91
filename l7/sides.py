"""Where an exchange touches the protocols on both of its sides, and whoever finds it a server.

```
 client ── ServerConnection ◀─(ClientSide)── Exchange ──(UpstreamSide)─▶ UpstreamConnection ── server
                            ─(ClientUser)─▶    or    ◀─(UpstreamUser)─
                                             Tunnel
```
"""

from typing import Protocol

from l7.protocol.message import RequestHead, ResponseHead, Trailers
from l7.proxy_protocol import Ends
from l7.telemetry.flags import Flag


class ClientSide(Protocol):
    """A codec towards the client, as an exchange uses it (HTTP/1.1: `ServerConnection`; HTTP/2: `ServerStream`)."""

    def send_continue(self) -> None:
        """Say `100 Continue`."""

    def send_interim(self, head: ResponseHead) -> None:
        """Pass a 1xx head on, or drop it if the client's protocol has none."""

    def send_head(self, head: ResponseHead, *, last: bool) -> None:
        """Send the final head. `last`: the connection cannot go on after this response."""

    def open_tunnel(self, tunnel: "ClientUser", head: ResponseHead) -> None:
        """Say that the server has switched to WebSocket. From now on `tunnel` is told what the client does, and bytes
        pass as they are, in `request_body` and `send_body`; those that came ahead of time first."""

    def send_body(self, data: bytes) -> None:
        """Send bytes of the body, framed."""

    def pause_request(self) -> None:
        """Read no more of the request's body. Idempotent."""

    def resume_request(self) -> None:
        """Undo `pause_request`. Idempotent."""

    def set_deadline(self, seconds: float | None) -> None:
        """Call the exchange's `deadline_passed` in so many seconds; replaces the deadline before."""

    def exchange_over(self, *, whole: bool, trailers: Trailers = ()) -> None:
        """The response's body is complete, and with it the exchange is over. `whole`: the request is complete, too; if
        not, the connection (HTTP/2: the stream) ends here. `trailers`: sent if protocol, framing and client allow. See
        also `abort_exchange`."""

    def abort_exchange(self) -> None:
        """The exchange is over, and its response is not: cut it visibly."""


class ClientUser(Protocol):
    """An exchange, or the tunnel that it became, as the codec towards the client tells it what the client does."""

    def request_body(self, data: bytes) -> None:
        """Bytes of the body, or of the tunnel."""

    def request_end(self, trailers: Trailers = ()) -> None:
        """The request is whole, or the client has ended its side of the tunnel."""

    def request_broke(self, status: int, reason: str) -> None:
        """The body broke a rule of its protocol."""

    def client_gone(self, detail: str) -> None:
        """The client left, or its connection broke."""

    def client_blocked(self) -> None:
        """The client takes no more bytes for now."""

    def client_drained(self) -> None:
        """The client takes bytes again."""

    def deadline_passed(self) -> None:
        """The deadline that was set last is over."""

    def goodbye(self) -> None:
        """A draining proxy waits no longer: what has no end of its own ends."""


class UpstreamSide(Protocol):
    """A codec towards a server, as an exchange uses it (HTTP/1.1: `UpstreamConnection`)."""

    @property
    def server(self) -> str:
        """Name of the server."""

    @property
    def takes_websockets(self) -> bool:
        """Whether the server can be asked for one at all."""

    def send_request(self, exchange: "UpstreamUser", head: RequestHead, extra: bytes) -> None:
        """Begin a request; from now on it is told what the server does. `extra`: header
        lines of ours, without the last line's end."""

    def send_body(self, data: bytes) -> None:
        """Send bytes of the body, framed."""

    def send_end(self, trailers: Trailers = ()) -> None:
        """The body is whole. `trailers`: sent if protocol and framing allow."""

    def pause_reading(self) -> None:
        """Read no more of the response. Idempotent."""

    def resume_reading(self) -> None:
        """Undo `pause_reading`. Idempotent."""

    def open_tunnel(self, tunnel: "UpstreamListener") -> None:
        """The server has switched to WebSocket: from now on `tunnel` is told what it does."""

    def abort(self) -> None:
        """Reset the connection when it is released, so that the server does not take a cut for an end."""

    def detach(self) -> None:
        """The exchange is done with it; it is told no more."""


class ClientFlow(Protocol):
    """A client's connection, as those see it who connect to servers on its behalf (`l7.shell.Flow`)."""

    owns_upstreams: bool
    """Whether connections to servers are, or were, its own."""

    @property
    def ends(self) -> Ends | None:
        """What servers are told of it, if they are."""


class UpstreamListener(Protocol):
    """An exchange, or the tunnel that it became, as the codec towards the server tells it what the server does."""

    def upstream_blocked(self) -> None:
        """The server takes no more bytes for now."""

    def upstream_drained(self) -> None:
        """The server takes bytes again."""

    def upstream_lost(self, detail: str, *, untouched: bool, nothing_sent: bool) -> None:
        """The connection ended before its response did."""

    def upstream_broke(self, reason: str) -> None:
        """The response broke a rule of its protocol."""

    def response_body(self, data: bytes) -> None:
        """Bytes of the response's body, or of the tunnel."""

    def response_end(self, *, reusable: bool, trailers: Trailers = ()) -> None:
        """The response is whole. `reusable`: the connection could carry another request now."""

    def response_paused(self) -> None:
        """A batch of response bytes has been passed on, and more is to come."""


class UpstreamUser(UpstreamListener, Protocol):
    """An exchange, as those see it who find it a server and read the server's heads. `Exchange` says more."""

    @property
    def flow(self) -> ClientFlow:
        """The client's connection."""

    @property
    def request_id(self) -> str:
        """Of the request, as the access log has it."""

    def upstream_connected(self, connection: UpstreamSide, *, reused: bool) -> None:
        """The connection that was asked for. `reused`: it has carried a request before."""

    def upstream_failed(self, flag: Flag, detail: str, server: str | None = None) -> None:
        """There is none. `detail`: a name, not a sentence; `server`: the one that was tried."""

    def interim_head(self, head: ResponseHead) -> None:
        """A 1xx head."""

    def upgraded(self, head: ResponseHead) -> None:
        """101: the server has switched to WebSocket. What follows are bytes of the tunnel."""

    def response_head(self, head: ResponseHead) -> None:
        """The final head."""
