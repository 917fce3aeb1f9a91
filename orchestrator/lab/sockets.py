"""Sockets in another host's network namespace, for whoever runs outside of it."""

import socket
import threading

from pyroute2 import netns

from orchestrator.lab.errors import LabError


def connected(namespace: str, address: str, port: int, *, timeout_s: float) -> socket.socket:
    """A TCP connection that begins in a namespace; it may be used from any thread. Blocks. Raises LabError.

    A socket stays in the namespace in which it was made. Only a thread that ends afterwards enters it.
    """
    made: list[socket.socket] = []
    failures: list[Exception] = []

    def connect() -> None:
        try:
            netns.setns(namespace)
            made.append(socket.create_connection((address, port), timeout_s))
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join()
    if not made:
        raise LabError(f"no connection to {address}:{port} in {namespace}: {failures[0] if failures else 'timeout'}")
    return made[0]
