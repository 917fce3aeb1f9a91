"""One lab for all tests that need one: it comes up once, and each test leaves it as it found it."""

import os
from collections.abc import Iterator

import pytest
import trio

from orchestrator.lab import Lab, LabSpec, lab_down, lab_up

#: Never the default name: a lab that somebody has up for looking around is not ours to touch. Names hold the process,
#: so that two test runs on one machine do not meet.
SHARED = f"test{os.getpid()}"


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    lab_down(SHARED)
    lab = trio.run(lab_up, LabSpec(name=SHARED))
    yield lab
    lab_down(SHARED)


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The shared lab, whole before and after the test: links healed, everything running."""
    yield shared_lab
    shared_lab.mend()
