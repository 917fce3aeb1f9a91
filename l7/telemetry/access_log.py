"""The access log: one JSON line per request.

The query is not recorded, nor any header but the host: they carry tokens and personal data more often than anything
that an operator needs.
"""

import json
import re
from datetime import UTC, datetime
from typing import Final

from l7 import limits
from l7.telemetry.flags import Flag

#: What JSON leaves alone and a terminal or a line-based collector does not: C1 controls and Unicode's line ends.
_UNSAFE: Final = re.compile("[\x7f-\x9f\u2028\u2029]")


class AccessRecord:
    """What is known about one request. Filled in while it lives, formatted later, in batches (`format_line`)."""

    __slots__ = (
        "backend",
        "bytes_in",
        "bytes_out",
        "client",
        "detail",
        "duration_s",
        "flags",
        "host",
        "l4_node",
        "method",
        "path",
        "request_id",
        "retries",
        "route",
        "server",
        "status",
        "time",
        "tls_version",
        "upstream_s",
        "vip",
    )

    def __init__(
        self,
        *,
        time: float,
        request_id: str,
        client: str,
        vip: str,
        l4_node: str | None,
        tls_version: str | None,
        method: bytes,
        host: bytes,
        path: bytes,
    ) -> None:
        self.time = time
        """Unix time of the request head."""
        self.request_id = request_id
        self.client = client
        self.vip = vip
        self.l4_node = l4_node
        self.tls_version = tls_version
        self.method = method
        """Empty if the request was refused before it was understood; so are host and path."""
        self.host = host
        self.path = path
        """As it was matched and sent upstream, without the query."""
        self.route: str | None = None
        self.backend: str | None = None
        self.server: str | None = None
        """The server of the last attempt."""
        self.status = 0
        """As the client saw it; 0 if it saw none."""
        self.bytes_in = 0
        """Of the request body, without framing."""
        self.bytes_out = 0
        """Of the response body, without framing."""
        self.duration_s = 0.0
        """From the request head to the end of the response, seconds."""
        self.upstream_s: float | None = None
        """From the connection's being there to the response head, seconds; None if there was none."""
        self.retries = 0
        self.flags: tuple[Flag, ...] = ()
        self.detail: str | None = None
        """Machine-readable reason, such as `no_route` or `content_length_duplicate`; None if all went well."""

    def __repr__(self) -> str:
        return f"AccessRecord({self.request_id} {self.status} {','.join(self.flags) or '-'} {self.detail or '-'})"


def format_line(record: AccessRecord) -> str:
    """One line of JSON, without the newline; whatever a client sent, it holds no control character."""
    line = json.dumps(
        {
            "time": datetime.fromtimestamp(record.time, UTC).isoformat(timespec="milliseconds"),
            "request_id": record.request_id,
            "client": record.client,
            "vip": record.vip,
            "l4_node": record.l4_node,
            "host": _text(record.host),
            "method": _text(record.method),
            "path": _text(record.path),
            "status": record.status,
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
            "duration_ms": _milliseconds(record.duration_s),
            "route": record.route,
            "backend": record.backend,
            "server": record.server,
            "upstream_ms": None if record.upstream_s is None else _milliseconds(record.upstream_s),
            "retries": record.retries,
            "flags": ",".join(record.flags),
            "detail": record.detail,
            "tls": record.tls_version,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )
    return _UNSAFE.sub(_escape, line)


def _text(value: bytes) -> str:
    """Bytes of a client as text: one character per byte, so that nothing it sent is lost or fails to decode."""
    return value[: limits.MAX_LOG_FIELD_BYTES].decode("latin-1")


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
