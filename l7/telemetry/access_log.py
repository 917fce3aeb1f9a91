"""The access log: one JSON line per request.

The query is not recorded, nor any header but the host: they carry tokens and personal data more often than anything
that an operator needs.
"""

import re
from datetime import UTC, datetime
from json.encoder import encode_basestring as _quote
from typing import Final

from l7 import limits
from l7.client_identity import ClientIdentity
from l7.telemetry.flags import Flag

#: What JSON leaves alone and a terminal or a line-based collector does not: C1 controls and Unicode's line ends.
_UNSAFE: Final = re.compile("[\x7f-\x9f\u2028\u2029]")


#: A gRPC call that ended without a status.
NO_GRPC_STATUS: Final = -1

#: Filled in by `%`, which is one call where a compiled f-string is one for each field.
_LINE: Final = (
    '{"time":"%s","request_id":%s,"client":%s,"vip":%s,"l4_node":%s,"host":%s,"method":%s,"path":%s,"status":%d,'
    '"bytes_in":%d,"bytes_out":%d,"duration_ms":%.3f,"route":%s,"backend":%s,"server":%s,"upstream_ms":%s,'
    '"retries":%d,"flags":"%s","detail":%s,"tls":%s,"protocol":"%s"%s%s}'
)


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
        "grpc_status",
        "host",
        "identity",
        "l4_node",
        "method",
        "path",
        "protocol",
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
        protocol: str,
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
        self.protocol = protocol
        """Of the client's connection: HTTP/1.1 (and 1.0) or HTTP/2."""
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
        self.identity: ClientIdentity | None = None
        """Of the certificate that the client has shown."""
        self.grpc_status: int | None = None
        """How a gRPC call ended, or `NO_GRPC_STATUS`; None: it is no call."""
        self.retries = 0
        self.flags: tuple[Flag, ...] = ()
        self.detail: str | None = None
        """Machine-readable reason, such as `no_route` or `content_length_duplicate`; None if all went well."""

    def __repr__(self) -> str:
        return f"AccessRecord({self.request_id} {self.status} {','.join(self.flags) or '-'} {self.detail or '-'})"


class _Second:
    """The text of the second that was formatted last: records come in order, thousands to a second."""

    __slots__ = ("at", "text")

    def __init__(self) -> None:
        self.at = -1
        self.text = ""


_second: Final = _Second()


def format_line(record: AccessRecord) -> str:
    """One line of JSON, without the newline; whatever a client sent, it holds no control character.

    Written by hand, because it is done for every request: `json.dumps` takes eight times as long for the same line.
    """
    upstream_s = record.upstream_s
    line = _LINE % (
        _timestamp(record.time),
        _quote(record.request_id),
        _quote(record.client),
        _quote(record.vip),
        _name(record.l4_node),
        _text(record.host),
        _text(record.method),
        _text(record.path),
        record.status,
        record.bytes_in,
        record.bytes_out,
        record.duration_s * 1000,
        _name(record.route),
        _name(record.backend),
        _name(record.server),
        "null" if upstream_s is None else "%.3f" % (upstream_s * 1000),
        record.retries,
        ",".join(record.flags) if record.flags else "",
        _name(record.detail),
        _name(record.tls_version),
        record.protocol,
        "" if record.identity is None else record.identity.log_fields,
        "" if record.grpc_status is None else _grpc(record.grpc_status),
    )
    if line.isascii() and "\x7f" not in line:
        return line
    return _UNSAFE.sub(_escape, line)


def _timestamp(time: float) -> str:
    milliseconds = int(time * 1000)
    at = milliseconds // 1000
    second = _second
    if at != second.at:
        second.at = at
        second.text = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{second.text}.{milliseconds % 1000:03d}+00:00"


def _text(value: bytes) -> str:
    """Bytes of a client as text: one character per byte, so that nothing it sent is lost or fails to decode."""
    return _quote(value[: limits.MAX_LOG_FIELD_BYTES].decode("latin-1"))


def _grpc(status: int) -> str:
    return f',"grpc_status":{"null" if status == NO_GRPC_STATUS else status}'


def _name(value: str | None) -> str:
    return "null" if value is None else _quote(value)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
