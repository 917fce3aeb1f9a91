"""A PROXY header in front of a connection from a trusted source: read before TLS and HTTP see anything.

The bytes are peeked at, and exactly the header is taken: what follows it is OpenSSL's or the codec's. While it is not
whole, the socket's low-water mark (SO_RCVLOWAT, socket(7)) keeps it from being readable all the time.
"""

import socket
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from l7 import limits
from l7.proxy_protocol import Incomplete, NotAProxyHeader, Told, read_header
from l7.transport import WOULD_BLOCK, reason_of

#: State of a connection whose other side has ended (tcp_states.h), in the first byte of TCP_INFO.
_CLOSE_WAIT: Final = 8


class TrustedSources:
    """Whose PROXY headers are believed; whoever else connects sends none."""

    __slots__ = ("_contains", "prefixes")

    def __init__(self, prefixes: tuple[IPv4Network | IPv6Network, ...]) -> None:
        self.prefixes = prefixes
        # Trusted sources are few and connect often.
        self._contains = lru_cache(maxsize=1024)(self._look)

    def __contains__(self, address: object) -> bool:
        return bool(self.prefixes) and self._contains(str(address))

    def _look(self, address: str) -> bool:
        parsed = ip_address(address)
        return any(parsed in prefix for prefix in self.prefixes)

    def __repr__(self) -> str:
        return f"TrustedSources({', '.join(map(str, self.prefixes))})"


class Preface:
    """One connection's. Has no deadline: that is the caller's."""

    __slots__ = ("_low_water",)

    def __init__(self) -> None:
        self._low_water = 1

    def go_on(self, sock: socket.socket) -> Told | None:
        """Call when the socket is readable. Takes the header off it, once it is whole; None: not yet.

        Raises:
            NotAProxyHeader: it will not be, or it breaks a rule.
        """
        try:
            data = sock.recv(limits.MAX_PROXY_HEADER_BYTES, socket.MSG_PEEK)
            if not data:
                raise NotAProxyHeader("closed")
            told = read_header(data)
            sock.recv(told.size)
            if self._low_water > 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        except WOULD_BLOCK:
            return None
        except Incomplete as incomplete:
            self._wait(sock, len(data), incomplete.needed)
            return None
        except OSError as error:
            raise NotAProxyHeader(reason_of(error)) from error
        return told

    def _wait(self, sock: socket.socket, present: int, needed: int) -> None:
        """Let the socket be readable again when so many bytes are there, or when no more can come."""
        if present < self._low_water and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE_WAIT:
            raise NotAProxyHeader("closed")
        if needed != self._low_water:
            self._low_water = needed
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needed)
