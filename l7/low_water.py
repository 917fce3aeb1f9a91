"""Waiting for more of what is peeked at: the low-water mark (SO_RCVLOWAT, socket(7)) keeps a socket whose first bytes
stay in the kernel from being readable all the time.
"""

import socket
from typing import Final

#: State of a connection whose other side has ended (tcp_states.h), in the first byte of TCP_INFO.
_CLOSE_WAIT: Final = 8


class LowWater:
    """One socket's."""

    __slots__ = ("_mark",)

    def __init__(self) -> None:
        self._mark = 1

    def wait(self, sock: socket.socket, present: int, needed: int) -> bool:
        """Let the socket be readable again when so many bytes are there, or when no more can come.

        False: no more can come already. Raises OSError.
        """
        if present < self._mark and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE_WAIT:
            return False
        if needed != self._mark:
            self._mark = needed
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needed)
        return True

    def lower(self, sock: socket.socket) -> None:
        """Waiting is over: one byte makes the socket readable. Raises OSError."""
        if self._mark > 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
