"""Normal form of a path. What is matched is what is sent upstream, so that proxy and backend cannot see two paths.

As Envoy's edge advice has it (`normalize_path`, `merge_slashes`), and stricter where a backend might decode once more:

1. Percent-encoded unreserved characters are decoded, other encodings get upper-case digits (RFC 3986 section 6.2.2).
2. Empty elements are merged: `//` is `/`.
3. Dot segments are removed (RFC 3986 section 5.2.4).
4. Refused: a broken encoding, an encoded NUL, an encoded slash or backslash (Envoy's REJECT_REQUEST for
   `path_with_escaped_slashes_action`), a dot segment above the root or with a parameter (`/..;x/`), and characters that
   no path has.
"""

import re
from typing import Final

_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"

#: Characters that a path may hold as they are: pchar (RFC 3986 section 3.3), slash, and `[ ] ^ |`, which browsers send.
_PLAIN: Final = _UNRESERVED + b"!$&'()*+,;=:@/[]^|"

#: A path that is its own normal form: no element is empty but the last, and none begins with a dot. Written so that
#: there is one way only to match, or a long path would cost exponential time.
_ELEMENT: Final = rb"[\w~!$&'()*+,;=:@\[\]^|-][\w~!$&'()*+,;=:@\[\]^|.-]*"
_NORMAL: Final = re.compile(rb"/(?:" + _ELEMENT + rb"(?:/" + _ELEMENT + rb")*/?)?")

_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_SLASHES: Final = re.compile(rb"//+")
_ENCODED_REFUSED: Final = {b"\0": "path_nul", b"/": "path_escaped_slash", b"\\": "path_escaped_slash"}


class PathRefused(Exception):
    """The path has no normal form."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def normalise(path: bytes) -> bytes:
    """Normal form of an absolute path without query.

    Raises:
        PathRefused: it has none (rule 4).
    """
    return path if _NORMAL.fullmatch(path) else _normalise(path)


def _normalise(path: bytes) -> bytes:
    if not path.startswith(b"/"):
        raise PathRefused("path_form")
    if path.translate(None, _PLAIN + b"%"):
        raise PathRefused("path_character")
    path = _SLASHES.sub(b"/", _ENCODED.sub(_decode, path))
    if b"/." not in path:
        return path
    elements: list[bytes] = []
    segments = path[1:].split(b"/")
    for segment in segments:
        if segment == b"..":
            if not elements:
                raise PathRefused("path_above_root")
            elements.pop()
        elif segment.startswith((b".;", b"..;")):
            raise PathRefused("path_dot_segment_parameter")
        elif segment != b".":
            elements.append(segment)
    if segments[-1] in (b".", b".."):
        elements.append(b"")
    return b"/" + b"/".join(elements)


def _decode(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if digits is None:
        raise PathRefused("path_percent_encoding")
    character = bytes.fromhex(digits.decode("ascii"))
    if character in _ENCODED_REFUSED:
        raise PathRefused(_ENCODED_REFUSED[character])
    return character if character in _UNRESERVED else b"%" + digits.upper()
