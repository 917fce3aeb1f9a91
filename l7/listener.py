"""Listening sockets: how they are bound, and how connections are accepted from them.

One socket per address, shared by all workers, rather than one per worker (SO_REUSEPORT). With a socket each,
connections that wait in the queue of a worker that dies, or whose socket is closed, are reset; with a shared one any
sibling takes them. The price is that several idle workers wake for one connection: EPOLLEXCLUSIVE does not help,
because it does not reach through the nested epoll descriptor that the reactor waits on (tried). The wakes cost only
workers that have nothing to do.

A socket is bound before its VIP is on the host's loopback (IP_FREEBIND), so that neither agent of the host waits for
the other.
"""

import socket
from typing import Protocol

from l7 import limits
from l7.proxy_preface import TrustedSources
from l7.reactor import READ, SILENT, Pollable, Reactor

#: linux/in6.h; not in the standard library's `socket`.
IPV6_FREEBIND = 78
IP_FREEBIND = 15


def listen(address: str, port: int) -> socket.socket:
    """A non-blocking listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it: heads and chunks leave as they come.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        sock.bind((address, port))
        sock.listen(limits.LISTEN_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


class Door(Protocol):
    """Whoever takes the connections that an acceptor accepts."""

    def accepted(self, acceptor: "Acceptor", sock: socket.socket, address: tuple[str, int]) -> None:
        """A client's connection, blocking mode not yet set. The callee owns the socket."""

    def accept_failed(self, acceptor: "Acceptor", error: OSError) -> None:
        """No connection could be accepted (out of descriptors or memory)."""


class Acceptor(Pollable):
    """Accepts connections on one listening socket, a few per step."""

    __slots__ = ("_door", "_reactor", "bound", "sock", "tls", "trusted_hops", "trusted_sources", "vip")

    def __init__(
        self, reactor: Reactor, sock: socket.socket, door: Door, *, vip: str, tls: bool, bound: tuple[str, int]
    ) -> None:
        """`bound`: the socket's address and port."""
        super().__init__()
        self._reactor = reactor
        self._door = door
        self.sock = sock
        self.bound = bound
        self.vip = vip
        self.tls = tls
        self.trusted_hops = 0
        """Before this proxy, on the way of those who connect here; see `l7.forwarded`."""
        self.trusted_sources = TrustedSources(())
        """Whose connections begin with a PROXY header."""

    def __repr__(self) -> str:
        return f"<Acceptor {self.vip} on {self.bound[0]} port {self.bound[1]}>"

    def start(self) -> None:
        """Begin to accept."""
        self._reactor.add(self, self.sock.fileno(), READ)

    def step(self, events: int) -> bool:
        """Accept some. What is left in the queue is signalled again."""
        self._accept(limits.ACCEPTS_PER_STEP)
        return False

    def accept_rest(self) -> None:
        """Accept what waits in the queue: the socket is about to be closed, and that would reset it."""
        self._accept(limits.LISTEN_BACKLOG)

    def _accept(self, at_most: int) -> None:
        for _ in range(at_most):
            try:
                sock, address = self.sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                # Gone before it was accepted (accept(2): ECONNABORTED, and pending network errors).
                continue
            except OSError as error:
                # Level-triggered, so it would be tried again at once: pause.
                self._reactor.want(self, SILENT)
                self._reactor.wheel.set(self, self._reactor.now + limits.ACCEPT_PAUSE_S)
                self._door.accept_failed(self, error)
                return
            self._door.accepted(self, sock, (address[0], address[1]))

    def expired(self, now: float) -> None:
        """The pause is over."""
        self._reactor.want(self, READ)

    def settle(self) -> None:
        """Notes nothing."""

    def close(self) -> None:
        """Stop accepting. Siblings that share the socket go on."""
        self._reactor.drop(self)
        self.sock.close()

    def failed(self) -> None:
        """Its code raised, for one connection: go on with the next."""
        self.start()
