"""One line of JSON per request, whatever a client sent."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from l7 import limits
from l7.telemetry.access_log import AccessRecord, format_line
from l7.telemetry.flags import Flag


def record(*, method: bytes = b"GET", host: bytes = b"www.example.com", path: bytes = b"/a") -> AccessRecord:
    return AccessRecord(
        time=1_700_000_000.1234,
        request_id="id-1",
        client="192.0.2.7",
        vip="web-v4",
        l4_node="l4-1",
        tls_version="TLSv1.3",
        protocol="HTTP/1.1",
        method=method,
        host=host,
        path=path,
    )


def test_a_line_says_it_all() -> None:
    entry = record()
    entry.route, entry.backend, entry.server = "all", "web", "web-1"
    entry.status, entry.bytes_in, entry.bytes_out = 200, 3, 4
    entry.duration_s, entry.upstream_s, entry.retries = 0.0123456, 0.01, 1
    entry.flags = (Flag.UPSTREAM_CONNECTION_TERMINATION, Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED)
    entry.detail = "connection_reset"
    assert json.loads(format_line(entry)) == {
        "time": "2023-11-14T22:13:20.123+00:00",
        "request_id": "id-1",
        "client": "192.0.2.7",
        "vip": "web-v4",
        "l4_node": "l4-1",
        "host": "www.example.com",
        "method": "GET",
        "path": "/a",
        "status": 200,
        "bytes_in": 3,
        "bytes_out": 4,
        "duration_ms": 12.346,
        "route": "all",
        "backend": "web",
        "server": "web-1",
        "upstream_ms": 10.0,
        "retries": 1,
        "flags": "UC,URX",
        "detail": "connection_reset",
        "tls": "TLSv1.3",
        "protocol": "HTTP/1.1",
    }


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_no_control_character_gets_through_and_nothing_is_lost(path: bytes, method: bytes) -> None:
    line = format_line(record(method=method, path=path))
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)
    assert json.loads(line)["path"].encode("latin-1") == path
    assert json.loads(line)["method"].encode("latin-1") == method


def test_long_fields_are_cut() -> None:
    line = format_line(record(path=b"/" + b"a" * 100_000))
    assert len(json.loads(line)["path"]) == limits.MAX_LOG_FIELD_BYTES
