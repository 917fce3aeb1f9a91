"""Fixtures that every tier's tests use."""

import os

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run under trio, as the product does."""
    return "trio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Kernel and lab tests need root. In CI their absence is a failure; at a developer's desk they are skipped."""
    if os.geteuid() == 0 or os.environ.get("CI"):
        return
    skip = pytest.mark.skip(reason="needs root: run `make test` as root")
    for item in items:
        if item.get_closest_marker("kernel") or item.get_closest_marker("lab"):
            item.add_marker(skip)
