"""Loading a kernel program anew over the running one, when an operator says so.

`edge-l4 balancer reload` asks the agent over the socket by which the agent holds its interface (l4/sole_agent.py), and
is told what became of it. SIGHUP asks the same; the answer is in the agent's log. The new program is compiled, loaded
and filled beside the running one, and takes its place in one step: no packet is lost.
"""

import json
import logging
import os
import signal
import socket
import struct
from dataclasses import dataclass
from typing import NoReturn, Protocol

import trio

from l4.sole_agent import socket_name
from orchestrator.contract.node import AgentRole

log = logging.getLogger(__name__)

#: Seconds that a question may take to arrive, and that an answer may take: a program is compiled first.
_QUESTION_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 150.0

_QUESTION = b"reload\n"
_MAX_ANSWER = 64 * 1024
_CREDENTIALS = struct.Struct("=3i")  # struct ucred: pid, uid, gid


class NotReloaded(Exception):
    """The program was not replaced; the text says why. What ran before runs on."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """What took place."""

    interface: str
    before: int | None
    """The kernel's id of the program that ran; None if none did."""
    after: int
    mode: str
    """ "native" or "generic"."""

    def __str__(self) -> str:
        was = "attached" if self.before is None else f"in place of program {self.before}"
        return f"{self.interface}: program {self.after} {was}, {self.mode}"


class Reloadable(Protocol):
    """An agent with a kernel program."""

    async def reload(self) -> Replacement:
        """Raises NotReloaded."""


async def answer_reloads(claim: socket.socket, agent: Reloadable) -> NoReturn:
    """Task: answers questions on the agent's claim, one after the other. Only root and the agent's own user may ask."""
    listener = trio.socket.from_stdlib_socket(claim)
    while True:
        connection, _ = await listener.accept()
        with connection:
            _, user, _ = _CREDENTIALS.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if user not in (0, os.geteuid()):
                continue
            question = b""
            try:
                with trio.move_on_after(_QUESTION_TIMEOUT_S):
                    question = await connection.recv(len(_QUESTION))
                if question == _QUESTION:
                    await connection.send(json.dumps(await _reload(agent)).encode())
            except OSError as error:
                log.info("somebody asked for a reload and did not wait for the answer: %s", error)


async def reload_on_hangup(agent: Reloadable) -> NoReturn:
    """Task: SIGHUP asks for a reload, as it does with other daemons."""
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        async for _ in signals:
            await _reload(agent)
    raise AssertionError("signals never end")


def ask_for_reload(role: AgentRole, interface: str) -> str:
    """Asks the agent on an interface of this network namespace. Returns what it did. Raises NotReloaded."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_TIMEOUT_S)
        try:
            connection.connect(socket_name(role, interface))
        except OSError:
            raise NotReloaded(f"no edge-l4 {role} runs on {interface} in this network namespace") from None
        try:
            connection.sendall(_QUESTION)
            answer = b"".join(iter(lambda: connection.recv(_MAX_ANSWER), b""))
        except OSError as error:
            raise NotReloaded(f"the edge-l4 {role} on {interface} did not answer: {error}") from error
    if not answer:
        raise NotReloaded(f"the edge-l4 {role} on {interface} hung up: ask as root, and when it is in service")
    told = json.loads(answer)
    if "error" in told:
        raise NotReloaded(told["error"])
    return str(told["done"])


async def _reload(agent: Reloadable) -> dict[str, str]:
    try:
        done = str(await agent.reload())
    except NotReloaded as error:
        log.error("program not loaded anew: %s", error)
        return {"error": str(error)}
    log.info("program loaded anew: %s", done)
    return {"done": done}
