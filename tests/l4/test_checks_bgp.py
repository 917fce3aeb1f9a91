"""BIRD, a real one: not there, stopped, without a session, with one that somebody switched off."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from l4.bgp import bird_configuration
from l4.bird import Bird
from l4.checks import bgp
from l4.checks.checkup import run_mend
from l4.checks.process import process_state
from orchestrator.contract.checkup import CheckResult, Severity
from tests.l4.checkups import BGP, balancer, make_uplink
from tests.l4.edge import VIPS, eventually

pytestmark = pytest.mark.kernel

Inside = Callable[..., Any]


def look(bird: Bird) -> dict[str, CheckResult]:
    async def results() -> dict[str, CheckResult]:
        return {result.id: result async for result in bgp.look(balancer(bird=bird))}

    return trio.run(results)


@pytest.fixture
def bird(inside: Inside, tmp_path: Path) -> Iterator[Bird]:
    inside(make_uplink)
    bird = Bird(tmp_path)
    bird.configuration_file.write_text(bird_configuration(BGP, {vip.network for vip in VIPS}, bird.log_file))
    yield bird
    pid = bgp.bird_process(bird)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def started(inside: Inside, bird: Bird) -> int:
    """Start BIRD by the command shown; its process. It goes into the background first and writes its pid file then."""
    assert inside(run_mend, inside(look, bird)["bird"].mend) is None
    eventually(lambda: bgp.bird_process(bird) is not None, "BIRD's pid file is written")
    pid = bgp.bird_process(bird)
    assert pid is not None
    return pid


def test_a_bird_that_is_not_there_is_started_by_the_command_shown(inside: Inside, bird: Bird) -> None:
    found = inside(look, bird)["bird"]
    assert found.severity is Severity.FAILURE
    assert "does not answer" in found.seen
    started(inside, bird)
    assert inside(look, bird)["bird"].severity is Severity.OK


def test_a_bird_that_was_stopped_is_told_from_one_that_is_gone(inside: Inside, bird: Bird) -> None:
    pid = started(inside, bird)
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: process_state(pid) == "T", "BIRD is stopped")
    found = inside(look, bird)["bird"]
    assert found.severity is Severity.FAILURE
    assert found.mend == f"kill -CONT {pid}"
    assert inside(run_mend, found.mend) is None
    assert inside(look, bird)["bird"].severity is Severity.OK


def test_a_session_that_is_not_established_and_one_that_is_switched_off(inside: Inside, bird: Bird) -> None:
    started(inside, bird)
    found = inside(look, bird)["bgp_session"]
    assert found.severity is Severity.FAILURE
    assert found.seen.startswith("198.18.2.1 (AS 64600): ")
    assert found.mend is None
    assert "port 179" in (found.advice or "")
    birdc = ["birdc", "-s", str(bird.control_socket)]
    subprocess.run([*birdc, "disable", "neighbor_1"], check=True, capture_output=True)
    found = inside(look, bird)["bgp_session"]
    assert found.seen == "198.18.2.1 (AS 64600): switched off by hand"
    assert found.mend == f"birdc -s {bird.control_socket} enable neighbor_1"
    assert not found.fixable, "whoever did that may have had a reason"
    assert inside(run_mend, found.mend) is None
    assert "switched off" not in inside(look, bird)["bgp_session"].seen


def test_a_node_that_speaks_no_bgp_needs_no_bird(bird: Bird) -> None:
    async def results() -> list[CheckResult]:
        subject = balancer(bird=bird)
        assert subject.snapshot is not None
        silent = subject.snapshot.model_copy(update={"bgp": None})
        return [result async for result in bgp.look(balancer(bird=bird, snapshot=silent))]

    assert trio.run(results) == []
