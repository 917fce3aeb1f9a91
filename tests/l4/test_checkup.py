"""A whole checkup: agent and snapshot on disk, checks that cannot look, and mending."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from l4.checks import agent, checkup, loopback, restored
from l4.checks.check import Check, Subject
from l4.checks.command import in_words
from l4.restorations import Concern, Restoration
from l4.service import main
from l4.sole_agent import socket_name
from orchestrator.contract.checkup import CheckResult, Severity
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.state_directory import StateDirectory
from tests.l4.checkups import make_uplink, redirector, redirector_snapshot, seen
from tests.l4.edge import enrol, eventually

Inside = Callable[..., Any]
WRONG = Check("wrong", "something", "it matters")


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    state = StateDirectory(tmp_path / "state")
    enrol(state, AgentIdentity(node="proxy-1", role=AgentRole.REDIRECTOR))
    state.save_snapshot(redirector_snapshot())
    return state


@pytest.fixture
def claimed() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that holds the interface as an agent does."""
    name = socket_name(AgentRole.REDIRECTOR, "eth0")
    script = (
        "import socket, sys\n"
        f"s = socket.socket(socket.AF_UNIX); s.bind({name!r}); s.listen(); print('up', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    yield process
    process.kill()
    process.communicate()


def test_a_host_without_an_agent_is_told(state: StateDirectory) -> None:
    found = seen(agent.look, redirector(state.path))["agent"]
    assert (found.severity, found.mend) == (Severity.FAILURE, None)
    assert found.seen == "no edge-l4 redirector runs on eth0"


def test_an_agent_that_was_stopped_is_told_from_one_that_is_gone(
    state: StateDirectory, claimed: "subprocess.Popen[bytes]"
) -> None:
    assert seen(agent.look, redirector(state.path))["agent"].severity is Severity.OK
    os.kill(claimed.pid, signal.SIGSTOP)
    eventually(lambda: seen(agent.look, redirector(state.path))["agent"].is_finding, "it is stopped")
    found = seen(agent.look, redirector(state.path))["agent"]
    assert found.mend == f"kill -CONT {claimed.pid}"
    assert checkup.run_mend(found.mend or "") is None
    eventually(lambda: not seen(agent.look, redirector(state.path))["agent"].is_finding, "it runs again")


def test_a_snapshot_on_disk_that_is_older_than_what_runs_is_told(state: StateDirectory) -> None:
    newer = redirector_snapshot().model_copy(update={"version": 8})
    subject = redirector(state.path, is_agent=True, snapshot=newer)
    found = seen(agent.look, subject)["snapshot_file"]
    assert found.severity is Severity.FAILURE
    assert found.seen == f"{state.snapshot_file} holds revision 7, and the agent runs 8"
    assert seen(agent.look, redirector(state.path, is_agent=True))["snapshot_file"].severity is Severity.OK
    state.snapshot_file.write_text("{}")
    assert seen(agent.look, subject)["snapshot_file"].mend == f"rm {state.snapshot_file}"
    state.snapshot_file.unlink()
    assert seen(agent.look, subject)["snapshot_file"].severity is Severity.WARNING


def test_a_check_that_cannot_look_says_so_and_hides_nothing() -> None:
    def look(_: Subject) -> Iterator[CheckResult]:
        yield WRONG.failure("this", "that")
        raise OSError("no such thing")

    wrong, broken = checkup.run_check(look, redirector())
    assert wrong.is_finding
    assert broken.severity is Severity.UNKNOWN
    assert "no such thing" in broken.seen


def test_what_is_mended_is_what_the_second_look_finds_in_order() -> None:
    before = [
        WRONG.failure("this", "that", mend="true", fixable=True),
        Check("other", "other", "").failure("this", "that", mend="mend-other", fixable=True),
        Check("by_hand", "by hand", "").failure("this", "that", mend="rm -rf x"),
    ]
    after = [WRONG.ok("that"), *before[1:]]
    mended, other, by_hand = checkup.as_mended(before, after, {"mend-other": "no such command"})
    assert (mended.mended_by, mended.is_finding) == ("true", False)
    assert other.advice == "`mend-other` failed: no such command"
    assert by_hand == before[2]


def test_only_what_is_safe_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safe, unsafe = tmp_path / "safe", tmp_path / "unsafe"

    def look(_: Subject) -> Iterator[CheckResult]:
        yield WRONG.ok("there") if safe.exists() else WRONG.failure("", "there", mend=f"touch {safe}", fixable=True)
        yield Check("other", "other", "").failure("this", "that", mend=f"touch {unsafe}")

    monkeypatch.setattr(checkup, "LOOKS", {AgentRole.REDIRECTOR: (look,)})
    monkeypatch.setattr(checkup, "SETTLE_S", 0.0)
    mended, other = trio.run(checkup.examine_and_mend, redirector())
    assert mended.mended_by == f"touch {safe}"
    assert other.is_finding
    assert not unsafe.exists()


def test_a_command_that_fails_says_what_it_said() -> None:
    assert checkup.run_mend("echo oh no >&2; exit 3") == "oh no"
    assert checkup.run_mend("exit 3") == "exit code 3"


@pytest.mark.kernel
def test_the_command_line_finds_and_explains_on_a_host_without_anything(
    inside: Inside, state: StateDirectory, tmp_path: Path
) -> None:
    arguments = ["doctor", "--interface", "lo", "--state", str(state.path), "--bpffs", str(tmp_path)]
    result = inside(CliRunner().invoke, main, arguments)
    assert result.exit_code == 1, result.output
    assert "FAIL  agent: no edge-l4 redirector runs on lo" in result.output
    assert "mend      mkdir -p" in result.output
    machine = inside(CliRunner().invoke, main, [*arguments, "--json"])
    assert '"healthy": false' in machine.output


def test_a_finding_in_words_has_all_that_is_known() -> None:
    finding = WRONG.failure("this", "that", mend="mend it", advice="then look")
    assert in_words(finding) == (
        "FAIL  something: this\n      expected  that\n      why       it matters\n      mend      mend it\n"
        "      to do     then look"
    )
    assert in_words(WRONG.ok("that")) == "ok    something: that"


def test_what_an_agent_put_right_is_told_while_it_is_news_and_for_longer_if_it_goes_on() -> None:
    def told(*ago_s: float) -> list[str]:
        noted = tuple(Restoration(Concern.VIPS, "203.0.113.10/32 was gone", seconds) for seconds in ago_s)
        return [result.seen for result in checkup.run_check(restored.look, redirector(restorations=noted))]

    assert told() == []
    assert told(3.0) == ["in order, since the agent put it right 3 s ago: 203.0.113.10/32 was gone"]
    assert told(60.0) == [], "once, and over"
    assert told(90.0, 80.0, 60.0) == [
        "in order, since the agent put it right 60 s ago, 3 times in 10 minutes: 203.0.113.10/32 was gone"
    ]
    assert told(3000.0, 2000.0, 1000.0) == []


@pytest.mark.kernel
def test_vips_are_put_back_on_a_host_without_an_agent(inside: Inside, state: StateDirectory) -> None:
    inside(make_uplink)
    lost = inside(seen, loopback.look, redirector(state.path))["vip_missing"]
    assert lost.mend == f"edge-l4 vips restore --state {state.path} --interface eth0"
    assert inside(checkup.run_mend, lost.mend) is None
    assert inside(seen, loopback.look, redirector(state.path))["vip_missing"].severity is Severity.OK
