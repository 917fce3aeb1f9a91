"""The lab's processes: started in a host's namespace, remembered by pid and start time, ended by pid.

A record of each lies in its host's directory, so that any later command finds it. A pid alone is not an identity: the
kernel gives it out again. The record therefore holds the start time too, and signals go through a pidfd that was
opened before the start time was compared.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from orchestrator.contract.base import Contract
from orchestrator.lab.errors import LabError

NAMESPACES: Final = Path("/run/netns")

#: How long a process may take to end after SIGTERM before it is killed: longer than `edge-l7`, which leaves its open
#: connections 30 s (systemd, which would ask the same of it, gives 90 s).
TERM_GRACE_S = 40.0

#: How long the kernel may take to end a process after SIGKILL: it is held up only by a system call in progress.
KILL_GRACE_S = 5.0

#: Rounds of "kill all that are in these namespaces": a supervisor may start a worker while it is being killed.
MAX_SWEEPS = 10


class Role(StrEnum):
    """What a process of the lab does. The first three are the agents of the contract."""

    BALANCER = "balancer"
    REDIRECTOR = "redirector"
    PROXY = "proxy"
    ORCHESTRATOR = "orchestrator"
    BIRD = "bird"
    NGINX = "nginx"
    UDP_ECHO = "udp-echo"


class ProcessRecord(Contract):
    """A process that was started: enough to find it again, to tell it from a stranger, and to start it anew."""

    role: Role
    pid: Annotated[int, Field(ge=1)]
    started: int
    """Start time in clock ticks since boot (proc(5), /proc/pid/stat field 22)."""
    namespace: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    parent: int
    started: int


def _stat(pid: int) -> _Stat | None:
    """Of /proc/pid/stat; None if there is no such process. The command name may hold spaces and parentheses."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(state=fields[0], parent=int(fields[1]), started=int(fields[19]))


def is_alive(record: ProcessRecord) -> bool:
    """Whether this very process runs still. A zombie, which only waits for its parent, does not."""
    stat = _stat(record.pid)
    return stat is not None and stat.started == record.started and stat.state not in "ZX"


def is_frozen(record: ProcessRecord) -> bool:
    """Whether it was stopped by SIGSTOP and not continued since."""
    stat = _stat(record.pid)
    return stat is not None and stat.started == record.started and stat.state == "T"


def signal_family(record: ProcessRecord, number: signal.Signals) -> int:
    """Signals a process and all that descend from it, parents first, so that nobody is replaced. How many they were."""
    family = _family(record)
    try:
        for descriptor in family.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        for descriptor in family.values():
            os.close(descriptor)
    return len(family)


def family_of(record: ProcessRecord) -> tuple[int, ...]:
    """Pids of a process and all that descend from it, parents first; none if it has ended."""
    family = _family(record)
    for descriptor in family.values():
        os.close(descriptor)
    return tuple(family)


def _family(record: ProcessRecord) -> dict[int, int]:
    """Pid → descriptor of a process and its descendants, parents first. The caller closes them."""
    descriptor = _open(record.pid)
    if descriptor is None:
        return {}
    if not is_alive(record):
        os.close(descriptor)
        return {}
    found = {record.pid: descriptor}
    parents = {record.pid}
    everyone = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    while parents:
        children = set()
        for pid in everyone:
            # Looked at once it is open: a pid that was given to somebody else has another parent.
            opened = _open(pid)
            stat = _stat(pid)
            if opened is not None and stat is not None and stat.parent in parents:
                found[pid] = opened
                children.add(pid)
            elif opened is not None:
                os.close(opened)
        parents = children
    return found


def kill_named(name: str, namespace: str) -> int:
    """Kills whoever runs under a name in a namespace and waits for the end: daemons, of which there is no record. How
    many they were.
    """
    killed = 0
    for pid in pids_in([namespace]):
        descriptor = _open(pid)
        if descriptor is None:
            continue
        try:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    _wait(pid, descriptor, KILL_GRACE_S)
                    killed += 1
        finally:
            os.close(descriptor)
    return killed


def record_path(directory: Path, role: Role) -> Path:
    return directory / f"{role}.process.json"


def log_path(directory: Path, role: Role) -> Path:
    return directory / f"{role}.log"


def start(directory: Path, namespace: str, role: Role, argv: Sequence[str]) -> ProcessRecord:
    """Starts a command in a namespace, in a session of its own, its output appended to `<role>.log`.

    `nsenter --net` and not `ip netns exec`: the latter gives the command a mount namespace with a fresh /sys, in which
    what it mounts and pins would be invisible to everyone else.
    """
    log = os.fsencode(log_path(directory, role))
    command = ["nsenter", f"--net={NAMESPACES / namespace}", "--", *argv]
    pid = os.posix_spawnp(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, b"/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGPIPE),
    )
    stat = _stat(pid)
    if stat is None:
        raise LabError(f"{role} ended as soon as it was started: {' '.join(argv)}", hint=f"look at {log.decode()}")
    record = ProcessRecord(role=role, pid=pid, started=stat.started, namespace=namespace, argv=tuple(argv))
    record_path(directory, role).write_text(record.model_dump_json(indent=2))
    return record


def read_record(directory: Path, role: Role) -> ProcessRecord | None:
    """The record of a role on a host; None if it was never started there, or if `up` was killed while writing it."""
    try:
        return ProcessRecord.model_validate_json(record_path(directory, role).read_text())
    except (FileNotFoundError, ValidationError):
        return None


def read_records(directory: Path) -> tuple[ProcessRecord, ...]:
    """All processes ever started on a host, in the order of their roles."""
    return tuple(record for role in Role if (record := read_record(directory, role)) is not None)


def send_signal(record: ProcessRecord, number: signal.Signals) -> bool:
    """False if the process is gone already; a stranger with its pid is never signalled."""
    descriptor = _open(record.pid)
    if descriptor is None:
        return False
    try:
        if not is_alive(record):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def stop(record: ProcessRecord, number: signal.Signals = signal.SIGTERM, *, grace_s: float = TERM_GRACE_S) -> bool:
    """Signals and waits for the end; kills after the grace. True if it ended within the grace."""
    descriptor = _open(record.pid)
    if descriptor is None:
        return True
    try:
        if not send_signal(record, number):
            return True
        if _wait(record.pid, descriptor, grace_s):
            return True
        send_signal(record, signal.SIGKILL)
        if not _wait(record.pid, descriptor, KILL_GRACE_S):
            raise LabError(f"process {record.pid} ({record.role}) does not end, not even by SIGKILL")
        return False
    finally:
        os.close(descriptor)


def pids_in(namespaces: Iterable[str]) -> tuple[int, ...]:
    """Everyone whose network namespace is one of these, but for this process and its ancestors."""
    inodes = set()
    for namespace in namespaces:
        with contextlib.suppress(FileNotFoundError):
            inodes.add(_inode(NAMESPACES / namespace))
    spared = set(_ancestry(os.getpid()))
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in spared:
            continue
        # A process may end between the listing and the look.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if _inode(entry / "ns/net") in inodes:
                found.append(int(entry.name))
    return tuple(sorted(found))


def kill_all_in(namespaces: Sequence[str]) -> int:
    """Kills whoever is left in these namespaces, known or not, and waits until they are empty. How many there were."""
    killed: set[int] = set()
    for _ in range(MAX_SWEEPS):
        pids = pids_in(namespaces)
        if not pids:
            return len(killed)
        descriptors = {pid: descriptor for pid in pids if (descriptor := _open(pid)) is not None}
        try:
            for descriptor in descriptors.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            for pid, descriptor in descriptors.items():
                _wait(pid, descriptor, KILL_GRACE_S)
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        killed.update(pids)
    raise LabError(f"processes {', '.join(map(str, pids_in(namespaces)))} in the lab's namespaces do not end")


def _inode(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _ancestry(pid: int) -> Iterable[int]:
    while pid:
        yield pid
        stat = _stat(pid)
        pid = stat.parent if stat else 0


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _wait(pid: int, descriptor: int, timeout_s: float) -> bool:
    """Whether the process ended in time. A child of ours is reaped, so that it does not stay as a zombie."""
    deadline = time.monotonic() + timeout_s
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        return False
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return True
