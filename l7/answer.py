"""Answers that the proxy makes itself: one envelope, and a header that says whose answer it is."""

import json

from l7.protocol import websocket
from l7.protocol.message import ResponseHead

#: Who made the answer (RFC 9209). Backends' own `Proxy-Status` fields are dropped, so that this one can be believed.
PROXY_NAME = "edgefleet"

#: Stable code per status, for programs. The detail names the exact reason.
_CODES = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    408: "request_timeout",
    413: "content_too_large",
    414: "uri_too_long",
    417: "expectation_failed",
    421: "misdirected_request",
    431: "request_header_fields_too_large",
    500: "internal_error",
    501: "not_implemented",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
    505: "http_version_not_supported",
}


#: What helps a client to do better, by the detail.
_HINTS = {
    # RFC 6455 section 4.4.
    "websocket_version": [(b"sec-websocket-version", websocket.VERSION)],
}


def error_answer(status: int, detail: str, request_id: str) -> tuple[ResponseHead, bytes]:
    """Head and body of an error that the proxy reports: `{"error": {"code", "detail", "request_id"}}`."""
    code = _CODES[status]
    error = {"code": code, "detail": detail, "request_id": request_id}
    body = json.dumps({"error": error}, separators=(",", ":")).encode("ascii") + b"\n"
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"proxy-status", f'{PROXY_NAME}; error={_proxy_error(status)}; details="{detail}"'.encode("ascii")),
        (b"x-request-id", request_id.encode("ascii")),
        *_HINTS.get(detail, ()),
    ]
    return ResponseHead(status, headers, length=len(body), content_length=len(body)), body


def _proxy_error(status: int) -> str:
    """Error type of RFC 9209 section 2.3."""
    if status == 502:
        return "http_protocol_error"
    if status == 503:
        return "destination_unavailable"
    if status == 504:
        return "http_response_timeout"
    if status == 404:
        return "destination_not_found"
    return "proxy_internal_error" if status == 500 else "http_request_error"
