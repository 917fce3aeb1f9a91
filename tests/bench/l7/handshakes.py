"""A client that does nothing but TLS 1.3 handshakes; run as a process of its own, on the clients' core.

Each connection ends in order behind its handshake: the client says so, and waits until the server has closed, so that
neither resets the other and all that a proxy does for a connection is in its time.
"""

import contextlib
import json
import select
import socket
import ssl
import time
from dataclasses import asdict
from pathlib import Path

import click

from tests.bench.l7.load import Load, percentiles
from tests.bench.l7.site import HOST, path

#: Under way at a time.
PARALLEL = 8


def a_session(address: str, context: ssl.SSLContext) -> ssl.SSLSession:
    """A session to resume. Its ticket comes with the first answer at the latest."""
    with context.wrap_socket(socket.create_connection((address, 443)), server_hostname=HOST) as tls:
        tls.sendall(f"GET {path('small')} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        tls.recv(65536)
        session = tls.session
    if session is None or not session.has_ticket:
        raise click.ClickException(f"{address} gives no tickets")
    return session


class Attempt:
    """A connection, from its beginning to the server's end of it."""

    def __init__(self, address: str, context: ssl.SSLContext, session: ssl.SSLSession | None) -> None:
        self.took_us = 0.0
        """From the first packet to the end of the handshake; 0: it goes on."""
        self._began = time.perf_counter()
        self._resumes = session is not None
        sock = socket.create_connection((address, 443))
        sock.setblocking(False)
        self.tls = context.wrap_socket(sock, server_hostname=HOST, session=session, do_handshake_on_connect=False)

    def step(self) -> bool:
        """Go on as far as possible; whether it is over."""
        try:
            if not self.took_us:
                self.tls.do_handshake()
                self.took_us = (time.perf_counter() - self._began) * 1e6
                if self.tls.session_reused is not self._resumes:
                    raise click.ClickException(f"resumed: {self.tls.session_reused}, asked for: {self._resumes}")
                # Sends the goodbye, then stumbles over tickets that come before the server's own.
                with contextlib.suppress(ssl.SSLError):
                    self.tls.unwrap()
            # Below TLS: tickets and the goodbye are not looked at.
            if socket.socket.recv(self.tls, 65536):
                return False
        except (ssl.SSLWantReadError, BlockingIOError):
            return False
        self.tls.close()
        return True


@click.command()
@click.option("--seconds", type=float, required=True)
@click.option("--resumed/--full", required=True)
@click.argument("address")
@click.argument("authority", type=click.Path(path_type=Path))
def main(seconds: float, resumed: bool, address: str, authority: Path) -> None:
    """Print how many, and how long they took, as one line of JSON."""
    context = ssl.create_default_context(cafile=str(authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    session = a_session(address, context) if resumed else None
    poll = select.epoll()
    attempts: dict[int, Attempt] = {}
    times: list[float] = []
    began = now = time.perf_counter()
    while now < began + seconds or attempts:
        while len(attempts) < PARALLEL and now < began + seconds:
            attempt = Attempt(address, context, session)
            attempt.step()
            attempts[attempt.tls.fileno()] = attempt
            poll.register(attempt.tls.fileno(), select.EPOLLIN)
        for descriptor, _events in poll.poll(5.0):
            if attempts[descriptor].step():
                times.append(attempts.pop(descriptor).took_us)
        now = time.perf_counter()
        if now > began + seconds + 5.0:
            raise click.ClickException(f"{len(attempts)} connections do not end")
    p50, p99 = percentiles(times)
    click.echo(json.dumps(asdict(Load(len(times), now - began, p50, p99))))


if __name__ == "__main__":
    main()
