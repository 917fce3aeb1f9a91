"""A client that keeps many connections open, each idle behind one request; run as a process of its own.

Prints `ready` when all are there, and holds them until its input ends.
"""

import resource
import select
import socket
import sys

import click

from tests.bench.l7.site import HOST, path

#: Connections that wait for their answer at a time.
WINDOW = 64
#: Of one address: proxies bound how many of them a client may have.
PER_ADDRESS = 1000


@click.command()
@click.argument("address")
@click.argument("count", type=int)
def main(address: str, count: int) -> None:
    """Hold connections."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 64, count + 64))
    request = f"GET {path('small')} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    poll = select.epoll()
    connections: list[socket.socket] = []
    waiting: dict[int, socket.socket] = {}
    while len(connections) < count or waiting:
        if len(connections) < count and len(waiting) < WINDOW:
            own = f"127.1.0.{1 + len(connections) // PER_ADDRESS}"
            connection = socket.create_connection((address, 80), 5.0, source_address=(own, 0))
            connection.sendall(request)
            connections.append(connection)
            waiting[connection.fileno()] = connection
            poll.register(connection.fileno(), select.EPOLLIN)
            continue
        for descriptor, _events in poll.poll():
            answer = waiting.pop(descriptor).recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise click.ClickException(f"{len(connections)} connections, then {answer!r}")
            poll.unregister(descriptor)
    click.echo("ready")
    sys.stdin.read()
    poll.register(connections[0].fileno(), select.EPOLLIN)
    if poll.poll(0):
        raise click.ClickException("connections were closed meanwhile")


if __name__ == "__main__":
    main()
