"""The BIRD process of an L4 node: its configuration is checked, loaded and kept loaded.

BIRD outlives the agent: it is not its child, so that VIPs stay announced while the agent restarts. Whoever runs BIRD
with the control socket in the BIRD directory (an init system, say) is welcome; if nobody does, it is started here.

One change of its configuration is in flight at most: BIRD may still be ending sessions of the last one, and then the
next waits. Of those that wait, the newest is sent and the others never are.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import trio

from l4.bgp import announcement_of_filter
from l4.bird_control import (
    BirdError,
    Reply,
    command,
    established_sessions,
    export_filters,
    is_reconfiguring,
    wait_until_gone,
)
from l4.capabilities import SYS_NICE, effective_capabilities
from l4.restorations import Concern, Restorations
from orchestrator.contract.node import Announcement

__all__ = ("Bird", "BirdError")

log = logging.getLogger(__name__)

#: BIRD lives where only root's PATH looks.
_SYSTEM_PATH = "/usr/sbin:/sbin"

#: Seconds. BIRD starts and parses in milliseconds.
_PROCESS_TIMEOUT_S = 10.0

#: Seconds that BIRD may take for a change, and between two looks. A session that must end first takes a second or two.
_RECONFIGURATION_S = 5.0
_RECONFIGURATION_POLL_S = 0.05

#: Seconds between two looks for a BIRD that is not there, and between two starts of one that does not stay.
_ABSENT_POLL_S = 1.0
_RESTART_PAUSE_S = 1.0

#: Real-time priority of BIRD (sched(7); 1 is the least, and enough to be before all ordinary work). BFD's 150 ms are
#: over before other processes of a busy machine have had their turns, and then a router drops a node that is well.
_PRIORITY = 10

#: `bird.conf` may hold passwords. The directory's group reads it too: a BIRD that an init system runs may be in it.
_FILE_MODE = 0o640


class Bird:
    """BIRD with all its files in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # What this process had BIRD load. What an earlier one did is not known for sure.
        self._loaded: str | None = None
        self._wanted: str | None = None
        self._one_change = trio.Lock()
        self.restorations = Restorations()
        """When BIRD was started again lately."""

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

        Waits while BIRD is busy with an earlier one; returns without having sent this one if a later one came
        meanwhile. BIRD keeps the sessions that a change does not concern. Raises BirdError: what ran before runs on.
        """
        self._wanted = configuration
        async with self._one_change:
            if self._wanted != configuration:
                return
            if not await self.answers():
                self._write(self.configuration_file, configuration)
                await self._start()
            elif self._loaded != configuration:
                await self._reconfigure(configuration)
            self._loaded = configuration

    async def keep_running(self) -> NoReturn:
        """Task: starts BIRD again the moment that it is gone, with what was loaded last."""
        while True:
            if not await wait_until_gone(self.control_socket) or self._loaded is None:
                await trio.sleep(_ABSENT_POLL_S)
                continue
            log.error("BIRD is gone: starting it again")
            async with self._one_change:
                try:
                    if not await self.answers():  # an init system may have been faster
                        self._write(self.configuration_file, self._loaded)
                        await self._start()
                        self.restorations.note(Concern.BIRD, "it was gone, and was started again")
                except BirdError as error:
                    log.error("%s", error)
            await trio.sleep(_RESTART_PAUSE_S)

    async def answers(self) -> bool:
        """Whether a BIRD listens on the control socket."""
        try:
            await self.command("show status")
        except BirdError:
            return False
        return True

    async def sessions(self) -> dict[str, bool]:
        """Whether each BGP session, by the name of its protocol, is established. Raises BirdError."""
        return established_sessions(await self.command("show protocols"))

    async def announcement(self) -> Announcement | None:
        """How BIRD announces now, by the filters that it runs with. None: it has no session of ours. Raises BirdError.

        In the middle of a change sessions may differ: what announces more counts.
        """
        filters = export_filters(await self.command("show protocols all"))
        return _strongest(map(announcement_of_filter, filters))

    async def command(self, text: str) -> Reply:
        """Sends one command to the control socket. Raises BirdError."""
        return await command(self.control_socket, text)

    async def _reconfigure(self, configuration: str) -> None:
        await self._settled()
        before = self.configuration_file.read_text() if self.configuration_file.exists() else None
        self._write(self.configuration_file, configuration)
        try:
            await self.command("configure")
        except BirdError:
            if before is not None:  # what BIRD still runs with, and would start again with
                self._write(self.configuration_file, before)
            raise
        await self._settled()
        log.info("BIRD took its configuration")

    async def _settled(self) -> None:
        """Waits until BIRD is done with what it was last told. Raises BirdError if that takes too long."""
        with trio.move_on_after(_RECONFIGURATION_S):
            while is_reconfiguring(await self.command("show status")):  # noqa: ASYNC110 - BIRD tells when asked
                await trio.sleep(_RECONFIGURATION_POLL_S)
            return
        raise BirdError(
            f"BIRD is busy with an earlier change for more than {_RECONFIGURATION_S:.0f} s: `birdc show protocols`"
        )

    async def _start(self) -> None:
        # BIRD goes into the background by itself once it has read its configuration and listens.
        files = ("-c", str(self.configuration_file), "-s", str(self.control_socket), "-P", str(self.pid_file))
        await _run_bird(*files, ahead=_ahead_of_others())
        log.info("started BIRD, as nobody answered on %s; its log is %s", self.control_socket, self.log_file)

    def _write(self, file: Path, text: str) -> None:
        """Replaces a file in one step, by one that only the owner and the directory's group can read."""
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            fresh = file.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            fresh.touch(0o600, exist_ok=False)
            group = self.directory.stat().st_gid
            if fresh.stat().st_gid != group:
                os.chown(fresh, -1, group)
            fresh.chmod(_FILE_MODE)
            fresh.write_text(text)
            fresh.replace(file)
        except OSError as error:
            raise BirdError(f"{file}: {error.strerror}: choose another directory with --bird-dir") from error


def _strongest(found: Iterable[Announcement | None]) -> Announcement | None:
    kinds = set(found)
    return next((kind for kind in Announcement if kind in kinds), None)


def _ahead_of_others() -> list[str]:
    """What starts a command with real-time priority; nothing if this process may not give that."""
    chrt = shutil.which("chrt", path=os.environ.get("PATH", "") + ":" + _SYSTEM_PATH)
    if chrt is None or not effective_capabilities() & SYS_NICE:
        log.warning("BIRD starts without real-time priority, which takes chrt(1) and CAP_SYS_NICE: load may end BFD")
        return []
    return [chrt, "--rr", str(_PRIORITY)]


async def _run_bird(*arguments: str, ahead: Sequence[str] = ()) -> None:
    bird = shutil.which("bird", path=os.environ.get("PATH", "") + ":" + _SYSTEM_PATH)
    if bird is None:
        raise BirdError("BIRD is not installed: install bird2 (Debian), which announces the VIPs by BGP")
    with trio.move_on_after(_PROCESS_TIMEOUT_S):
        finished = await trio.run_process(
            [*ahead, bird, *arguments], capture_stdout=True, capture_stderr=True, check=False
        )
        if finished.returncode:
            said = (finished.stderr + finished.stdout).decode(errors="replace").strip()
            raise BirdError(f"`{bird} {' '.join(arguments)}` failed with {finished.returncode}: {said}")
        return
    raise BirdError(f"`{bird} {' '.join(arguments)}` did not end within {_PROCESS_TIMEOUT_S:.0f} s")
