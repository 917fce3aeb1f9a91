"""A process of the lab is known by pid and start time. No root needed: these live in our own namespace."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.lab import processes
from orchestrator.lab.processes import ProcessRecord, Role


def started_at(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])


@pytest.fixture
def sleeper() -> Iterator[ProcessRecord]:
    argv = ("sleep", "600")
    with subprocess.Popen(argv) as process:
        try:
            yield ProcessRecord(
                role=Role.NGINX, pid=process.pid, started=started_at(process.pid), namespace="none", argv=argv
            )
        finally:
            process.kill()


def test_a_stopped_process_has_ended_when_stop_returns(sleeper: ProcessRecord) -> None:
    assert processes.is_alive(sleeper)
    assert processes.stop(sleeper)
    assert not processes.is_alive(sleeper)
    assert processes.stop(sleeper), "stopping it again is no error"


def test_a_stranger_that_was_given_the_same_pid_is_never_signalled(sleeper: ProcessRecord) -> None:
    recycled = sleeper.model_copy(update={"started": sleeper.started - 1})
    assert not processes.is_alive(recycled)
    assert not processes.send_signal(recycled, signal.SIGKILL)
    assert processes.stop(recycled)
    assert processes.is_alive(sleeper)


def test_what_ignores_sigterm_is_killed_after_the_grace() -> None:
    argv = ("sh", "-c", "trap '' TERM; echo; read _")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        record = ProcessRecord(
            role=Role.BIRD, pid=process.pid, started=started_at(process.pid), namespace="none", argv=argv
        )
        assert not processes.stop(record, grace_s=0.05)
        assert not processes.is_alive(record)


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen(["true"])
    record = ProcessRecord(
        role=Role.BIRD, pid=process.pid, started=started_at(process.pid), namespace="none", argv=("true",)
    )
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_alive(record)
    process.wait()


def test_a_record_that_was_cut_short_counts_as_none(tmp_path: Path) -> None:
    processes.record_path(tmp_path, Role.BIRD).write_text('{"role": "bi')
    assert processes.read_records(tmp_path) == ()


def test_this_process_and_its_ancestors_are_never_among_those_to_kill(
    monkeypatch: pytest.MonkeyPatch, sleeper: ProcessRecord, tmp_path: Path
) -> None:
    """Who runs `lab down` from a shell inside the lab keeps the shell."""
    monkeypatch.setattr(processes, "NAMESPACES", tmp_path)
    (tmp_path / "ours").symlink_to("/proc/self/ns/net")
    found = processes.pids_in(["ours"])
    assert sleeper.pid in found
    assert os.getpid() not in found
    assert os.getppid() not in found


def test_a_family_is_frozen_and_thawed_as_a_whole() -> None:
    argv = ("sh", "-c", "sleep 30 >/dev/null & echo $!; wait")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        parent = ProcessRecord(
            role=Role.PROXY, pid=process.pid, started=started_at(process.pid), namespace="none", argv=argv
        )
        offspring = parent.model_copy(update={"pid": child, "started": started_at(child)})
        assert processes.signal_family(parent, signal.SIGSTOP) == 2
        wait_until(lambda: processes.is_frozen(parent) and processes.is_frozen(offspring))
        assert processes.is_alive(parent)
        processes.signal_family(parent, signal.SIGCONT)
        wait_until(lambda: not processes.is_frozen(parent) and not processes.is_frozen(offspring))
        assert processes.signal_family(parent, signal.SIGKILL) == 2
        process.wait()
        wait_until(lambda: not processes.is_alive(offspring))


def test_a_stranger_with_the_pid_has_no_family_of_ours(sleeper: ProcessRecord) -> None:
    recycled = sleeper.model_copy(update={"started": sleeper.started - 1})
    assert processes.signal_family(recycled, signal.SIGKILL) == 0
    assert processes.is_alive(sleeper)


def wait_until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)
