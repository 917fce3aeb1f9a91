"""Heads of HTTP/1.1 messages that hold nothing unusual, split in one call.

Plain is a head without a single oddity: CRLF everywhere, names that are tokens without `_`, values that are not
empty, a method and a target (`/...`) of the usual kind, `Connection` only as `keep-alive`, and of the `special` names
none but that one, `Host` and `Content-Length`. What is not plain gives None, and `l7.protocol.http1.head` reads it
strictly.

Where the hot modules are compiled, `l7/native/plain_head.c` stands in this one's place. As plain Python this would gain
nothing over the strict reader, so nothing is plain here.
"""

from l7.protocol.message import Headers


def split_request(
    head: bytes, special: frozenset[bytes], most: int, /
) -> tuple[bytes, bytes, bytes, bytes, bytes | None, Headers] | None:
    """Method, path, query with its mark, host, content-length and other fields of a whole head of at most `most`."""
    return None


def split_response(head: bytes, special: frozenset[bytes], most: int, /) -> tuple[int, bytes, Headers] | None:
    """Status (final, and of a response that has a body), content-length and other fields of a whole head."""
    return None
