"""What the lab's backends serve, known byte for byte by whoever asks: so that a client can call an answer corrupt.

    GET  /bytes/<size>[?rate=<bytes per second>]   the first <size> bytes of the lab's own sequence; throttled on wish
    PUT  /uploads/<name>                           201; the body is stored in the lab's `uploads` directory
    GET  /healthz                                  200
    GET  /<anything else>                          200, the backend's name

Every backend holds the same files and stores into the same directory: it does not matter which one a request reaches.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BYTES_PATH: Final = "/bytes/"
UPLOADS_PATH: Final = "/uploads/"
HEALTH_PATH: Final = "/healthz"

SMALL: Final = 1_024
"""Bytes of the answer to a short request."""
LONG: Final = (48_000, 56_000, 64_000, 72_000)
"""Bytes of downloads that are throttled to last: they differ, so that flows that began together do not end together."""
LARGE: Final = (1_000_000, 8_000_000)
"""Bytes of downloads at full speed."""

#: Longest body that a backend stores, in bytes.
MAX_UPLOAD_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that every backend serves."""

    path: str
    size: int
    sha256: str


def content_of(size: int) -> bytes:
    """The bytes behind `/bytes/<size>`: SHAKE-256 (FIPS 202) of a fixed label, so that no two stretches are alike."""
    return hashlib.shake_256(b"edgefleet lab content").digest(size)


def resource(size: int) -> Resource:
    """`/bytes/<size>`, with its SHA-256."""
    return Resource(f"{BYTES_PATH}{size}", size, hashlib.sha256(content_of(size)).hexdigest())


def small() -> Resource:
    """For short requests."""
    return resource(SMALL)


def downloads() -> tuple[Resource, ...]:
    """For long, throttled flows."""
    return tuple(map(resource, LONG))


def write_content(root: Path) -> None:
    """Lays the files down under `root`, once for all backends."""
    directory = root / BYTES_PATH.strip("/")
    directory.mkdir(parents=True)
    for size in (SMALL, *LONG, *LARGE):
        (directory / str(size)).write_bytes(content_of(size))
