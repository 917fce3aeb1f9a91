"""Tells the process manager how it goes: systemd's notification protocol (sd_notify(3)), without its library."""

import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

_VARIABLE = "NOTIFY_SOCKET"


class Notifier:
    """Sends states to whoever started this process, if it asked for them. What cannot be sent is logged."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Takes the socket's name out of the environment: processes that this one starts must not speak for it."""
        name = environment.pop(_VARIABLE, "")
        # An abstract name is written with an @ (unix(7)).
        self._address = "\0" + name[1:] if name.startswith("@") else name

    def ready(self, status: str) -> None:
        """In service: after the start, and after each restart, however that ended."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self, status: str) -> None:
        """A restart has begun. `Type=notify-reload` waits for `ready` from here on."""
        monotonic_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us}\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """A line for people (`systemctl status`)."""
        self._send(f"STATUS={status}")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        one_line_each = state.encode(errors="replace")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(one_line_each, self._address)
            except OSError as error:
                log.warning("the process manager was not told: %s", error)
