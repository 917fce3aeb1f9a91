"""The BIRD process of an L4 node: its configuration is checked, loaded and kept loaded.

BIRD outlives the agent: it is not its child, so that VIPs stay announced while the agent restarts. Whoever runs BIRD
with the control socket in the BIRD directory (an init system, say) is welcome; if nobody does, it is started here.
"""

import logging
import os
import re
import shutil
from pathlib import Path

import trio

log = logging.getLogger(__name__)

#: BIRD lives where only root's PATH looks.
_SYSTEM_PATH = "/usr/sbin:/sbin"

#: Seconds. BIRD answers in milliseconds; these keep an agent from hanging on one that is stuck.
_CONTROL_TIMEOUT_S = 5.0
_PROCESS_TIMEOUT_S = 10.0

#: A reply ends with the line that has a space behind its code. From 8000 on, codes are failures (BIRD's
#: `doc/reply_codes`).
_REPLY = re.compile(r"^(\d{4})([ -])(.*)$")
_FIRST_FAILURE = 8000
_PROTOCOL_LIST = 1002

#: Largest reply that is read. `show protocols` takes some 80 octets a line.
_MAX_REPLY = 64 * 1024


class BirdError(Exception):
    """BIRD is not there, does not answer, or refused."""


class Bird:
    """BIRD with all its files in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # What this process had BIRD load. What an earlier one did is not known for sure.
        self._loaded: str | None = None

    def __repr__(self) -> str:
        return f"<Bird in {self.directory}>"

    @property
    def configuration_file(self) -> Path:
        return self.directory / "bird.conf"

    @property
    def control_socket(self) -> Path:
        return self.directory / "bird.ctl"

    @property
    def pid_file(self) -> Path:
        return self.directory / "bird.pid"

    @property
    def log_file(self) -> Path:
        return self.directory / "bird.log"

    async def check(self, configuration: str) -> None:
        """Has BIRD parse a configuration without using it. Raises BirdError with BIRD's own words."""
        candidate = self.directory / "candidate.conf"
        self._write(candidate, configuration)
        await _run_bird("-p", "-c", str(candidate))

    async def load(self, configuration: str) -> None:
        """Makes a checked configuration the running one, if it is not yet. Starts BIRD if nobody answers.

        BIRD keeps the sessions that a change does not concern. Raises BirdError.
        """
        if not await self.answers():
            self._write(self.configuration_file, configuration)
            await self._start()
        elif self._loaded != configuration:
            self._write(self.configuration_file, configuration)
            await self.command("configure")
            log.info("BIRD took its configuration")
        self._loaded = configuration

    async def answers(self) -> bool:
        """Whether a BIRD listens on the control socket."""
        try:
            await self.command("show status")
        except BirdError:
            return False
        return True

    async def sessions(self) -> dict[str, bool]:
        """Whether each BGP session, by the name of its protocol, is established. Raises BirdError."""
        lines = await self.command("show protocols")
        fields = [text.split() for code, text in lines if code == _PROTOCOL_LIST]
        return {field[0]: "Established" in field for field in fields if len(field) > 3 and field[1] == "BGP"}

    async def command(self, text: str) -> list[tuple[int, str]]:
        """Sends one command to the control socket. Returns the reply as (code, text) lines. Raises BirdError."""
        try:
            with trio.fail_after(_CONTROL_TIMEOUT_S):
                async with await trio.open_unix_socket(self.control_socket) as stream:
                    await _read_reply(stream)  # the greeting
                    await stream.send_all(f"{text}\n".encode())
                    lines = await _read_reply(stream)
        except trio.TooSlowError as error:
            raise BirdError(f"BIRD on {self.control_socket} took more than {_CONTROL_TIMEOUT_S:.0f} s") from error
        except (OSError, trio.BrokenResourceError) as error:
            raise BirdError(f"BIRD does not answer on {self.control_socket}: {error}") from error
        code, message = lines[-1]
        if code >= _FIRST_FAILURE:
            raise BirdError(f"BIRD refused `{text}`: {message} ({code})")
        return lines

    async def _start(self) -> None:
        # BIRD goes into the background by itself once it has read its configuration and listens.
        await _run_bird(*("-c", str(self.configuration_file), "-s", str(self.control_socket), "-P", str(self.pid_file)))
        log.info("started BIRD, as nobody answered on %s; its log is %s", self.control_socket, self.log_file)

    def _write(self, file: Path, text: str) -> None:
        """Replaces a file in one step."""
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            fresh = file.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(file)
        except OSError as error:
            raise BirdError(f"{file}: {error.strerror}: choose another directory with --bird-dir") from error


async def _run_bird(*arguments: str) -> None:
    bird = shutil.which("bird", path=os.environ.get("PATH", "") + ":" + _SYSTEM_PATH)
    if bird is None:
        raise BirdError("BIRD is not installed: install bird2 (Debian), which announces the VIPs by BGP")
    with trio.move_on_after(_PROCESS_TIMEOUT_S):
        finished = await trio.run_process([bird, *arguments], capture_stdout=True, capture_stderr=True, check=False)
        if finished.returncode:
            said = (finished.stderr + finished.stdout).decode(errors="replace").strip()
            raise BirdError(f"`{bird} {' '.join(arguments)}` failed with {finished.returncode}: {said}")
        return
    raise BirdError(f"`{bird} {' '.join(arguments)}` did not end within {_PROCESS_TIMEOUT_S:.0f} s")


async def _read_reply(stream: trio.SocketStream) -> list[tuple[int, str]]:
    """Reads to the end of a reply. Continuation lines, which begin with a space, have the code before them."""
    received = b""
    while True:
        chunk = await stream.receive_some()
        received += chunk
        if not chunk:
            raise trio.BrokenResourceError("connection closed in the middle of a reply")
        if len(received) > _MAX_REPLY:
            raise BirdError(f"BIRD's reply is longer than {_MAX_REPLY} octets")
        if not received.endswith(b"\n"):
            continue
        lines: list[tuple[int, str]] = []
        for line in received.decode(errors="replace").splitlines():
            parsed = _REPLY.match(line)
            if parsed is None:
                lines.append((lines[-1][0] if lines else 0, line.strip()))
                continue
            lines.append((int(parsed[1]), parsed[3]))
            if parsed[2] == " ":
                return lines
