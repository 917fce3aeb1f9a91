"""Metrics: plain integers in each worker, added up by the supervisor, written as Prometheus reads them.

A counter's key is its name, with its labels if it has any, as it will be exported without prefix and suffix:
`retries_connect` or `responses{backend="shop-web",code="2xx"}`. Labels come from the configuration and from fixed
sets, never from clients, so the number of keys is bounded.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from l7.telemetry.access_log import NO_GRPC_STATUS, AccessRecord
from l7.telemetry.flags import Flag

PREFIX = "edge_l7_"

#: Upper bounds of the buckets of request durations, in seconds (Prometheus: default buckets, without the first).
DURATION_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_HELP = {
    "requests": "Requests answered or refused.",
    "requests_by_protocol": "Requests answered or refused, by the protocol of the client's connection.",
    "request_body_bytes": "Bytes of request bodies, without framing.",
    "response_body_bytes": "Bytes of response bodies, without framing.",
    "responses": "Responses by backend (- if none was chosen) and class of their status (none if the client saw none).",
    "forwarded_for_unbelievable": "Requests that came around a trusted hop: X-Forwarded-For has too few addresses.",
    "grpc_calls": "gRPC calls by backend (- if none was chosen) and status (none if they ended without one).",
    "response_flags": "Requests by response flag.",
    "requests_refused": "Requests that broke a rule of their protocol, by the name of the rule.",
    "request_seconds_bucket": "Requests, without WebSockets, that took at most le seconds.",
    "connections_accepted": "Client connections accepted.",
    "proxy_headers_refused": "Connections of trusted sources closed for their PROXY header, by what is wrong.",
    "connections_refused": "Client connections refused, by reason.",
    "tls_handshakes": "TLS handshakes that succeeded: full ones, and sessions resumed.",
    "tls_handshakes_failed": "TLS handshakes that failed, by reason.",
    "tls_tickets_unknown": "Session tickets under keys that are not known: aged out, or not of this fleet.",
    "http2_floods": "HTTP/2 connections closed for a flood, by kind.",
    "http2_flood_warnings": "HTTP/2 connections asked to leave because a flood began, by kind.",
    "http2_connection_errors": "HTTP/2 connections ended because a rule was broken, by reason.",
    "http2_streams_refused": "HTTP/2 streams beyond the concurrent ones, or after a goodbye: not begun.",
    "http2_requests_reset_unseen": "HTTP/2 requests that came together with their own reset: never begun.",
    "http2_streams_stalled": "HTTP/2 responses reset because the client did not take their rest.",
    "upstream_http2_floods": "HTTP/2 connections to servers closed for a flood, by kind.",
    "upstream_http2_connection_errors": "HTTP/2 connections to servers ended because a rule was broken, by reason.",
    "upstream_http2_goaways": "HTTP/2 connections to servers that the server asked to leave.",
    "tunnels_open": "WebSockets that are open.",
    "tunnels_opened": "WebSockets opened, by the protocol of the client's connection.",
    "tunnels_ended": "WebSockets ended, by what ended them.",
    "tunnel_pings": "Pings sent to clients of WebSockets in which nothing moved.",
    "certificate_not_after_seconds": "Unix time at which a host's certificate ends; of several, the earliest.",
    "worker_restarts": "Workers that ended by themselves and were started again.",
    "access_log_dropped": "Access-log records dropped because the log could not be written fast enough.",
}


#: The detail is the name of a rule, from a fixed set.
_REFUSALS = (Flag.DOWNSTREAM_PROTOCOL_ERROR, Flag.DURATION_TIMEOUT)


class Counters:
    """Named integers."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Counters({self._values})"

    def add(self, key: str, amount: int = 1) -> None:
        """Count."""
        values = self._values
        values[key] = values.get(key, 0) + amount

    def totals(self) -> dict[str, int]:
        """A copy."""
        return dict(self._values)


class RequestMetrics:
    """What is counted about every request: a handful of additions each."""

    __slots__ = (
        "_buckets",
        "_calls",
        "_classes",
        "_flags",
        "_protocols",
        "_refused",
        "bytes_in",
        "bytes_out",
        "requests",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self._buckets = [0] * (len(DURATION_BUCKETS_S) + 1)
        self._classes: dict[str | None, list[int]] = {}
        self._calls: dict[tuple[str | None, int], int] = {}
        self._flags: dict[str, int] = {}
        self._protocols: dict[str, int] = {}
        self._refused: dict[str, int] = {}

    def count(self, record: AccessRecord) -> None:
        """Count one finished request."""
        self.requests += 1
        self._protocols[record.protocol] = self._protocols.get(record.protocol, 0) + 1
        self.bytes_in += record.bytes_in
        self.bytes_out += record.bytes_out
        if record.status != 101:  # a WebSocket's life says nothing about how fast requests are answered
            self._buckets[bisect_left(DURATION_BUCKETS_S, record.duration_s)] += 1
        classes = self._classes.get(record.backend)
        if classes is None:
            classes = self._classes[record.backend] = [0] * 6
        classes[record.status // 100] += 1
        if record.grpc_status is not None:
            call = record.backend, record.grpc_status
            self._calls[call] = self._calls.get(call, 0) + 1
        for flag in record.flags:
            self._flags[flag] = self._flags.get(flag, 0) + 1
            if flag in _REFUSALS and record.detail is not None:
                self._refused[record.detail] = self._refused.get(record.detail, 0) + 1

    def totals(self) -> dict[str, int]:
        """Everything, by key."""
        totals = {
            "requests": self.requests,
            "request_body_bytes": self.bytes_in,
            "response_body_bytes": self.bytes_out,
        }
        below = 0
        for bound, number in zip((*map(str, DURATION_BUCKETS_S), "+Inf"), self._buckets, strict=True):
            below += number
            totals[f'request_seconds_bucket{{le="{bound}"}}'] = below
        for backend, classes in self._classes.items():
            for first_digit, number in enumerate(classes):
                if number:
                    code = f"{first_digit}xx" if first_digit else "none"
                    totals[f'responses{{backend="{backend or "-"}",code="{code}"}}'] = number
        for (backend, status), number in self._calls.items():
            said = "none" if status == NO_GRPC_STATUS else status
            totals[f'grpc_calls{{backend="{backend or "-"}",status="{said}"}}'] = number
        for protocol, number in self._protocols.items():
            totals[f'requests_by_protocol{{protocol="{protocol}"}}'] = number
        for flag, number in self._flags.items():
            totals[f'response_flags{{flag="{flag}"}}'] = number
        for reason, number in self._refused.items():
            totals[f'requests_refused{{reason="{reason}"}}'] = number
        return totals


def add_up(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of several workers' totals, key by key."""
    total: dict[str, int] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + value
    return total


def tunnels_open(counters: Mapping[str, int]) -> int:
    """WebSockets that one worker, by its counters, has open."""
    opened = sum(value for key, value in counters.items() if key.startswith("tunnels_opened{"))
    return opened - sum(value for key, value in counters.items() if key.startswith("tunnels_ended{"))


def exposition(counters: Mapping[str, int], gauges: Mapping[str, int]) -> str:
    """The text format of Prometheus, version 0.0.4. Keys of gauges are written like those of counters."""
    lines: list[str] = []
    for kind, values in (("counter", counters), ("gauge", gauges)):
        seen: set[str] = set()
        for key in sorted(values):
            name, brace, labels = key.partition("{")
            metric = PREFIX + name + ("_total" if kind == "counter" and not name.endswith("_bucket") else "")
            if metric not in seen:
                seen.add(metric)
                lines.append(f"# HELP {metric} {_HELP.get(name, name.replace('_', ' ').capitalize() + '.')}")
                # Buckets stand without the sum that a Prometheus histogram has, so they are declared as what they are.
                lines.append(f"# TYPE {metric} {kind}")
            lines.append(f"{metric}{brace}{labels} {values[key]}")
    return "\n".join(lines) + "\n"
