"""Fixtures and rules that every tier's tests share."""

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

from l7 import compiled

PRIVILEGED = ("kernel", "lab")

# How long an example takes says more of what else the machine does.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run under trio, as the product does."""
    return "trio"


def is_privileged(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in PRIVILEGED)


def pytest_report_header() -> str:
    """Which of the two is tested."""
    return f"hot modules of the proxy: {compiled.STATE}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Kernel and lab tests need root: without it they are skipped at a desk, and attempted all the same in CI."""
    if os.geteuid() == 0 or os.environ.get("CI"):
        return
    skip = pytest.mark.skip(reason="needs root: run `make test` as root")
    for item in filter(is_privileged, items):
        item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped kernel or lab test is a failure: otherwise a machine without XDP would look healthy."""
    report = yield
    if report.skipped and os.environ.get("CI") and is_privileged(item):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI must run every kernel and lab test: {report.longrepr}"
    return report
