"""BIRD and its sessions, asked of BIRD itself."""

import shlex
from collections.abc import AsyncIterator
from pathlib import Path

from l4.bgp import session_name
from l4.bird import Bird
from l4.bird_control import BirdError, session_states
from l4.checks.check import Check, Subject
from l4.checks.process import process_behind, process_state
from orchestrator.contract.checkup import CheckResult
from orchestrator.contract.snapshot import BalancerSnapshot

BIRD = Check(
    "bird",
    "BIRD",
    "BIRD announces this node's VIPs: without it, routers send nothing here, and the other L4 nodes carry its share",
)
SESSION = Check(
    "bgp_session",
    "BGP sessions",
    "the router at the other end sends this node nothing; if no session is left, the other L4 nodes carry its share",
)


async def look(subject: Subject) -> AsyncIterator[CheckResult]:
    snapshot, bird = subject.snapshot, subject.place.bird
    if not isinstance(snapshot, BalancerSnapshot) or snapshot.bgp is None or bird is None:
        return
    try:
        states = session_states(await bird.command("show protocols"))
    except BirdError as error:
        yield _down(bird, str(error), has_agent=subject.is_agent)
        return
    yield BIRD.ok(f"answers on {bird.control_socket}")
    established = 0
    for number, neighbor in enumerate(snapshot.bgp.neighbors, start=1):
        name = session_name(number)
        state = states.get(name)
        if state is not None and state.is_established:
            established += 1
            continue
        seen = "BIRD has no such session" if state is None else state.in_words
        is_off = state is not None and state.is_disabled
        yield SESSION.failure(
            f"{neighbor.address} (AS {neighbor.asn}): {seen}",
            "established",
            mend=f"birdc -s {shlex.quote(str(bird.control_socket))} enable {name}" if is_off else None,
            fixable=False,
            advice=None
            if is_off
            else f"ping the router; `birdc -s {bird.control_socket} show protocols all {name}` tells BIRD's last error;"
            " see that TCP port 179 passes, and that AS numbers, address and password are those of the router",
        )
    if established:
        yield SESSION.ok(f"{established} of {len(snapshot.bgp.neighbors)} established")


def _down(bird: Bird, error: str, *, has_agent: bool) -> CheckResult:
    pid = bird_process(bird)
    if pid is not None and process_state(pid) == "T":
        return BIRD.failure(
            f"BIRD (process {pid}) is stopped: somebody sent it SIGSTOP, or a debugger holds it",
            "a BIRD that answers",
            mend=f"kill -CONT {pid}",
            fixable=True,
        )
    if pid is not None:
        return BIRD.failure(error, "a BIRD that answers", mend=f"kill -KILL {pid} && sleep 1 && {_start(bird)}")
    return BIRD.failure(
        error,
        "a BIRD that answers",
        mend=_start(bird),
        fixable=True,
        advice=f"the agent starts it, too, and its log says why that fails; BIRD's own log is {bird.log_file}"
        if has_agent
        else f"BIRD's own log is {bird.log_file}",
    )


def bird_process(bird: Bird) -> int | None:
    """BIRD's process: by its pid file if it wrote one, else by its socket. None if it is not there.

    The kernel names who called listen(2), and a BIRD that went into the background has forked since.
    """
    try:
        pid = int(bird.pid_file.read_text())
        if Path(f"/proc/{pid}/comm").read_text().strip() == "bird":
            return pid
    except (OSError, ValueError):
        pass
    pid_behind = process_behind(bird.control_socket)
    return pid_behind if pid_behind is not None and process_state(pid_behind) is not None else None


def _start(bird: Bird) -> str:
    def quoted(path: Path) -> str:
        return shlex.quote(str(path))

    files = (bird.configuration_file, bird.control_socket, bird.pid_file)
    return "bird -c {} -s {} -P {}".format(*map(quoted, files))
