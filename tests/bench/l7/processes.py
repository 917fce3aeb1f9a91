"""Processes of a measurement: each on a core of its own choice, its time and memory by /proc, ended by its id."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_END_S = 5.0


@contextmanager
def process(
    command: Sequence[str | Path],
    *,
    core: int,
    stdin: int | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs while the block does, with all its descendants on this core; then it is ended, and they with it."""
    started = subprocess.Popen(
        ["taskset", "--cpu-list", str(core), *command], stdin=stdin, stdout=stdout, stderr=stderr
    )
    try:
        yield started
    finally:
        family = tree(started.pid)
        started.terminate()
        try:
            started.wait(_END_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        _end_the_rest(family[1:])


def _end_the_rest(pids: Sequence[int]) -> None:
    """Descendants that have outlived their parent."""
    until = time.monotonic() + _END_S
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.02)


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found.extend(map(int, task.read_text().split()))
    return found


def cpu_seconds(pid: int) -> float:
    """Time that a process and its descendants have spent, in user and kernel mode."""
    return sum(_ticks(each) for each in tree(pid)) / _TICKS_PER_S


def _ticks(pid: int) -> int:
    # Behind the name, which may hold anything but is in brackets: field 3 comes first (proc(5)).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def resident_bytes(pid: int) -> int:
    """Memory of a process and its descendants."""
    total = 0
    for each in tree(pid):
        pages = int(Path(f"/proc/{each}/statm").read_text().split()[1])
        total += pages * os.sysconf("SC_PAGESIZE")
    return total
