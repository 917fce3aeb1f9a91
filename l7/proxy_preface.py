"""A PROXY header in front of a connection from a trusted source: read before TLS and HTTP see anything.

The bytes are peeked at, and exactly the header is taken: what follows it is OpenSSL's or the codec's. While it is not
whole, the socket's low-water mark (SO_RCVLOWAT, socket(7)) keeps it from being readable all the time.
"""

import socket
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address

from l7 import limits
from l7.low_water import LowWater
from l7.proxy_protocol import Incomplete, NotAProxyHeader, Told, read_header
from l7.transport import WOULD_BLOCK, reason_of


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
        self._low_water = LowWater()

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
            self._low_water.lower(sock)
        except WOULD_BLOCK:
            return None
        except Incomplete as incomplete:
            if not self._low_water.wait(sock, len(data), incomplete.needed):
                raise NotAProxyHeader("closed") from None
            return None
        except OSError as error:
            raise NotAProxyHeader(reason_of(error)) from error
        return told
