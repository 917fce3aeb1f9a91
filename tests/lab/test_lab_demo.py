"""The demo holds; without second chances it does not; interrupted, it leaves nothing."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.lab import lab_down
from orchestrator.lab.commands import program
from orchestrator.lab.lab import LABS
from orchestrator.lab.processes import NAMESPACES

pytestmark = pytest.mark.lab

NAME = f"demo{os.getpid()}"

#: What the whole command may take on two cores.
LONGEST_S = 120


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Of each run, whatever became of it."""
    yield
    left = [path.name for path in NAMESPACES.iterdir() if path.name.startswith(f"{NAME}-")]
    root = (LABS / NAME).exists()
    lab_down(NAME)
    assert (left, root) == ([], False)


def demo(*options: str) -> "subprocess.Popen[str]":
    command = [program("edgectl"), "lab", "demo", "--json", "--name", NAME, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=2 * LONGEST_S)
    finally:
        process.kill()
    return process.returncode, out, err


def result(out: str) -> dict[str, Any]:
    content = json.loads(out)
    assert isinstance(content, dict)
    return content


def is_reset(broken: dict[str, Any]) -> bool:
    """By a host that does not know it: an open flow, or one whose row changed in the middle of its handshake."""
    return broken["how"] == "reset" or (broken["how"] == "refused" and "Connection reset by peer" in broken["detail"])


def test_two_drains_and_a_dead_l4_node_break_nothing() -> None:
    code, out, err = ended(demo())
    assert code == 0, err + out
    seen = result(out)
    assert seen["holds"] is True
    assert (seen["flows_broken"], seen["requests_failed"]) == (0, 0)
    assert seen["long_flows"] >= 300
    assert seen["requests"] >= 5000
    assert seen["ipv6_flows"] > 0
    assert seen["second_chances"] > 0
    assert [drain["name"] for drain in seen["drains"]] == ["proxy-1", "proxy-2"]
    assert all(drain["seconds"] > 0 and drain["flows_at_start"] > 0 for drain in seen["drains"])
    assert 0 < seen["l4_failover_ms"] < 1000
    assert seen["seconds"] <= LONGEST_S


def test_without_second_chances_flows_break_and_the_demo_says_so() -> None:
    code, out, err = ended(demo("--no-second-chance"))
    assert code == 1, err + out
    seen = result(out)
    assert seen["holds"] is False
    assert seen["flows_broken"] > 0
    assert seen["second_chances"] == 0
    assert "reset" in {broken["how"] for broken in seen["breakages"]}
    assert [broken for broken in seen["breakages"] if not is_reset(broken)] == []
    assert seen["seconds"] <= LONGEST_S


def test_interrupted_under_load_it_leaves_nothing() -> None:
    process = demo()
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if '"drain proxy-1"' in line:
                break
        process.send_signal(signal.SIGINT)
    finally:
        code, out, _ = ended(process)
    assert (code, out) == (130, "")
