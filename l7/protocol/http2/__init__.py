"""HTTP/2 (RFC 9113) without sockets: bytes in, events out; events in, bytes out. HTTP/1.1's counterpart."""

from l7.protocol.http2.server import Http2Connection

__all__ = ["Http2Connection"]
