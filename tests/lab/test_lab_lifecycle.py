"""Up and down: complete when it says so, nothing left when it is gone, whatever happened in between."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from orchestrator.lab import (
    Lab,
    LabError,
    LabSpec,
    find_lab,
    lab_down,
    lab_exec,
    lab_status,
    lab_up,
    processes,
    running_labs,
    teardown,
)
from orchestrator.lab.lab import root_of

pytestmark = pytest.mark.lab

NAME = f"cycle{os.getpid()}"

#: The smallest that has everything.
SMALL = LabSpec(name=NAME, l4_nodes=1, proxies=1, backends=1)

#: Brings a lab up in a process of its own, which ends itself in a given way as soon as `up` has come this far.
INTERRUPTED_UP = """
import os, signal, sys, trio
from orchestrator.lab import LabSpec, lab_up
number, far = signal.Signals[sys.argv[2]], float(sys.argv[3])

def progress(text, fraction):
    if fraction is not None and fraction >= far:
        os.kill(os.getpid(), number)

trio.run(lab_up, LabSpec.model_validate_json(sys.argv[1]), progress)
"""


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    mounts = mount_points()
    yield
    lab_down(NAME)
    assert leftovers() == []
    assert mount_points() == mounts


def leftovers() -> list[str]:
    """Whatever a lab of this name could have left on the machine."""
    root = root_of(NAME)
    return [
        *teardown.namespaces_of(NAME),
        *map(str, teardown.mounts_under(root)),
        *([str(root)] if root.exists() else []),
        *(line for line in process_list() if NAME in line),
    ]


def mount_points() -> set[str]:
    """Where something is mounted, but for the directory of namespaces, which is every user's (ip-netns(8))."""
    points = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    return {point for point in points if not point.startswith("/run/netns")}


def process_list() -> list[str]:
    done = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    own = {str(os.getpid()), str(os.getppid())}
    return [line for line in done.stdout.splitlines() if line.split()[0] not in own]


def interrupted_up(number: signal.Signals, far: float) -> int:
    command = [sys.executable, "-c", INTERRUPTED_UP, SMALL.model_dump_json(), number.name, str(far)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode


def test_up_is_complete_and_down_leaves_nothing() -> None:
    lab = trio.run(lab_up, SMALL)
    status = lab_status(NAME)
    assert status.healthy, status
    assert NAME in running_labs()
    assert find_lab(NAME) == lab
    assert {process.role for host in status.hosts for process in host.processes} == set(processes.Role)
    assert lab_down(NAME)
    assert leftovers() == []
    assert NAME not in running_labs()
    assert not lab_down(NAME), "down again is no error, and says that nothing was there"


@pytest.mark.parametrize("far", [0.25, 0.55], ids=["after-the-network", "with-the-agents-started"])
def test_down_clears_away_what_a_killed_up_left(far: float) -> None:
    assert interrupted_up(signal.SIGKILL, far) == -signal.SIGKILL
    assert teardown.namespaces_of(NAME), "there is something to clear away"
    assert not lab_status(NAME).complete
    assert lab_down(NAME)
    assert leftovers() == []


def test_ctrl_c_takes_down_what_came_up() -> None:
    assert interrupted_up(signal.SIGINT, 0.55) != 0
    assert leftovers() == []


def test_up_after_a_killed_up_clears_away_without_being_asked() -> None:
    interrupted_up(signal.SIGKILL, 0.25)
    lab = trio.run(lab_up, SMALL)
    assert lab.status().healthy


def test_a_lab_that_is_up_is_not_replaced_unasked() -> None:
    lab = trio.run(lab_up, SMALL)
    before = lab.process("control", processes.Role.ORCHESTRATOR)
    with pytest.raises(LabError, match="is up already"):
        trio.run(lab_up, SMALL)
    assert processes.is_alive(before)
    with pytest.raises(LabError, match="has no host 'proxy-9'"):
        lab_exec(NAME, "proxy-9", ["true"])
    assert lab_exec(NAME, "proxy-1", ["sh", "-c", "exit 7"]) == 7


def test_a_namespace_of_somebody_else_is_refused_and_left_alone() -> None:
    stranger = f"{NAME}-client"
    subprocess.run(["ip", "netns", "add", stranger], check=True)
    try:
        with pytest.raises(LabError, match=f"{stranger} exists"):
            trio.run(lab_up, SMALL)
        assert teardown.namespaces_of(NAME) == [stranger]
    finally:
        subprocess.run(["ip", "netns", "del", stranger], check=True)


def test_a_process_that_dies_during_up_ends_it_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.lab import router

    monkeypatch.setattr(router, "bird_configuration", lambda _topology, *_: "this is no configuration\n")
    with pytest.raises(LabError, match=r"bird on router has ended(.|\n)*syntax error"):
        trio.run(lab_up, SMALL)
    assert leftovers() == []


def test_down_of_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(LabError, match="is not a lab's name"):
        lab_down("../../etc")


def test_a_lab_is_closed_to_everybody_but_root() -> None:
    lab: Lab = trio.run(lab_up, SMALL)
    assert lab.root.stat().st_mode & 0o077 == 0
    secrets: list[Path] = [*lab.root.rglob("*.key"), *lab.root.rglob("*.token")]
    assert secrets
    assert all(path.stat().st_mode & 0o077 == 0 for path in secrets)
