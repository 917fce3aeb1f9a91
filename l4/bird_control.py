"""BIRD's control socket: one command a connection, and what BIRD says of itself in reply."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import trio

#: Seconds. BIRD answers in milliseconds; this keeps an agent from hanging on one that is stuck.
_CONTROL_TIMEOUT_S = 5.0

#: A reply ends with the line that has a space behind its code. From 8000 on, codes are failures (BIRD's
#: `doc/reply_codes`).
_REPLY = re.compile(r"^(\d{4})([ -])(.*)$")
_FIRST_FAILURE = 8000
_STATUS = 13
_PROTOCOL_LIST = 1002

#: The status of a BIRD that is not done with an earlier `configure`.
_RECONFIGURING = "Reconfiguration in progress"
#: What a session announces goes through this.
_OUTPUT_FILTER = "Output filter:"

#: Largest reply that is read. `show protocols all` takes some 1500 octets a session.
_MAX_REPLY = 256 * 1024

#: Lines of a reply, each with its code.
Reply = list[tuple[int, str]]


class BirdError(Exception):
    """BIRD is not there, does not answer, or refused."""


@dataclass(frozen=True, slots=True)
class SessionState:
    """A BGP session in BIRD's words."""

    protocol: str
    """ "start", "up", "down": down is what an operator switched off."""
    info: str
    """ "Established", "Active        Socket: Connection refused", ..."""

    @property
    def is_established(self) -> bool:
        return "Established" in self.info.split()

    @property
    def is_disabled(self) -> bool:
        return self.protocol == "down"

    @property
    def in_words(self) -> str:
        return "switched off by hand" if self.is_disabled else " ".join(self.info.split()) or self.protocol


async def command(control_socket: Path, text: str) -> Reply:
    """Sends one command. Raises BirdError: nobody answers, or BIRD refuses."""
    try:
        with trio.fail_after(_CONTROL_TIMEOUT_S):
            async with await trio.open_unix_socket(control_socket) as stream:
                await _read_reply(stream)  # the greeting
                await stream.send_all(f"{text}\n".encode())
                lines = await _read_reply(stream)
    except trio.TooSlowError as error:
        raise BirdError(f"BIRD on {control_socket} took more than {_CONTROL_TIMEOUT_S:.0f} s") from error
    except (OSError, trio.BrokenResourceError) as error:
        raise BirdError(f"BIRD does not answer on {control_socket}: {error}") from error
    code, message = lines[-1]
    if code >= _FIRST_FAILURE:
        raise BirdError(f"BIRD refused `{text}`: {message} ({code})")
    return lines


async def wait_until_gone(control_socket: Path) -> bool:
    """Holds a connection until the BIRD at its other end is gone: the kernel says so within the same moment, whoever
    started BIRD. False at once if nobody listens."""
    try:
        async with await trio.open_unix_socket(control_socket) as stream:
            while await stream.receive_some():
                pass
    except trio.BrokenResourceError:
        return True
    except OSError:
        return False
    return True


def is_reconfiguring(status: Reply) -> bool:
    """Whether BIRD is not done with an earlier change, by its reply to `show status`."""
    return any(code == _STATUS and text == _RECONFIGURING for code, text in status)


def established_sessions(protocols: Reply) -> dict[str, bool]:
    """Whether each BGP session, by the name of its protocol, is established: from `show protocols`."""
    return {name: state.is_established for name, state in session_states(protocols).items()}


def session_states(protocols: Reply) -> dict[str, SessionState]:
    """Each BGP session, by the name of its protocol: from `show protocols`."""
    # Name, protocol, table, state, since, info.
    fields = [text.split(maxsplit=5) for code, text in protocols if code == _PROTOCOL_LIST]
    return {
        field[0]: SessionState(field[3], field[5] if len(field) > 5 else "")
        for field in fields
        if len(field) > 3 and field[1] == "BGP"
    }


def export_filters(protocols: Reply) -> set[str]:
    """Names of the filters through which BGP sessions announce: from `show protocols all`."""
    found = set()
    is_bgp = False
    for code, text in protocols:
        if code == _PROTOCOL_LIST:
            is_bgp = text.split()[1:2] == ["BGP"]
        elif is_bgp and text.startswith(_OUTPUT_FILTER):
            found.add(text.removeprefix(_OUTPUT_FILTER).strip())
    return found


async def _read_reply(stream: trio.SocketStream) -> Reply:
    """Reads to the end of a reply."""
    received = b""
    while True:
        chunk = await stream.receive_some()
        received += chunk
        if not chunk:
            raise trio.BrokenResourceError("connection closed in the middle of a reply")
        if len(received) > _MAX_REPLY:
            raise BirdError(f"BIRD's reply is longer than {_MAX_REPLY} octets")
        if received.endswith(b"\n"):
            lines, is_whole = _lines(received.decode(errors="replace").splitlines())
            if is_whole:
                return lines


def _lines(texts: Iterable[str]) -> tuple[Reply, bool]:
    """The reply so far, and whether that is all of it. Continuation lines, which begin with a space, have the code
    before them."""
    lines: Reply = []
    for text in texts:
        parsed = _REPLY.match(text)
        if parsed is None:
            lines.append((lines[-1][0] if lines else 0, text.strip()))
            continue
        # The first line under a code may be a continuation in all but its code: its text is indented too.
        lines.append((int(parsed[1]), parsed[3].strip()))
        if parsed[2] == " ":
            return lines, True
    return lines, False
