"""A process of the lab is known by pid and start time. No root needed: these live in our own namespace."""

import os
import signal
import subprocess
from collections.abc import Iterator
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
