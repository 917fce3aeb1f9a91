"""Waiting for a lab's processes: bounded, over at once when one dies, and one error instead of a group."""

import subprocess
from pathlib import Path

import pytest
import trio

from orchestrator.lab import processes
from orchestrator.lab.errors import LabError
from orchestrator.lab.lab import Lab
from orchestrator.lab.processes import ProcessRecord, Role
from orchestrator.lab.spec import LabSpec
from orchestrator.lab.waiting import together, until


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(LabSpec(name="waiting"), tmp_path)


def record_dead_process(lab: Lab, last_words: str) -> None:
    """What a router's BIRD leaves that ended: its record and its log."""
    with subprocess.Popen(["true"]) as process:
        pass
    directory = lab.directory("router")
    directory.mkdir(parents=True)
    record = ProcessRecord(role=Role.BIRD, pid=process.pid, started=1, namespace="none", argv=("true",))
    processes.record_path(directory, Role.BIRD).write_text(record.model_dump_json())
    processes.log_path(directory, Role.BIRD).write_text(last_words)


async def test_nothing_missing_is_no_wait(lab: Lab) -> None:
    await until(lab, "routes", lambda: None, timeout_s=0)


async def test_what_is_missing_is_named_when_the_time_is_up(lab: Lab) -> None:
    with pytest.raises(LabError, match="routes: no session, "):
        await until(lab, "routes", lambda: "no session", timeout_s=-1)


async def test_a_process_that_ended_ends_the_wait_with_the_end_of_its_log(lab: Lab) -> None:
    record_dead_process(lab, "line one\nsyntax error\n")
    with pytest.raises(LabError, match=r"bird on router has ended(.|\n)*  syntax error"):
        await until(lab, "routes", lambda: "no session", timeout_s=3600)


async def test_the_first_failure_ends_the_other_steps_and_comes_out_alone() -> None:
    cancelled = False

    async def patient() -> None:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled = True
            raise

    async def failing() -> None:
        raise LabError("no clang")

    with pytest.raises(LabError, match="no clang"):
        await together(patient, failing)
    assert cancelled


async def test_a_bug_is_no_lab_error_and_is_not_swallowed() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        await together(broken)
    assert raised.group_contains(ZeroDivisionError)
