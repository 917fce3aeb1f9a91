"""One lab for all tests that need one: it comes up once, and each test leaves it as it found it."""

import os
from collections.abc import Iterator
from time import monotonic, sleep

import pytest
import trio

from orchestrator.lab import Lab, LabSpec, checks, lab_down, lab_up

#: Never the default name: a lab that somebody has up for looking around is not ours to touch. Names hold the process,
#: so that two test runs on one machine do not meet.
SHARED = f"test{os.getpid()}"

#: Seconds for proxies to be found healthy after what a test did to them.
WHOLE_AGAIN_S = 60.0


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    lab_down(SHARED)
    lab = trio.run(lab_up, LabSpec(name=SHARED))
    yield lab
    lab_down(SHARED)


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The shared lab, whole before and after the test: links healed, everything running, every proxy in service."""
    yield shared_lab
    shared_lab.mend()
    deadline = monotonic() + WHOLE_AGAIN_S
    while missing := checks.members_serve(shared_lab):
        assert monotonic() < deadline, f"the test leaves a lab that is not whole: {missing}"
        sleep(0.2)
