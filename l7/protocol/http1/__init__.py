"""HTTP/1.1 and 1.0, both sides, without I/O (RFC 9110, RFC 9112)."""

from l7.protocol.http1.client import UpstreamConnection
from l7.protocol.http1.server import ServerConnection

__all__ = ["ServerConnection", "UpstreamConnection"]
