"""The process at the other end of a local socket, and what it is doing."""

import os
import socket
import struct
from pathlib import Path

_CREDENTIALS = struct.Struct("=3i")  # struct ucred: pid, uid, gid
#: Seconds. The kernel connects at once, unless the listener's queue is full.
_TIMEOUT_S = 1.0


def process_behind(address: Path | str) -> int | None:
    """Who listens on a Unix socket; None if nobody does. The kernel tells, so it need not answer (unix(7))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect(os.fspath(address))
            pid, _, _ = _CREDENTIALS.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
        except OSError:
            return None
    return int(pid) or None


def process_state(pid: int) -> str | None:
    """One letter of proc(5), /proc/pid/stat: "T" if it is stopped. None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2]
