"""A private network namespace for tests that set addresses, routes and sockets for real."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pyroute2 import IPRoute, netns

LOOPBACK_INDEX = 1


def bring_loopback_up() -> None:
    with IPRoute() as netlink:
        netlink.link("set", index=LOOPBACK_INDEX, state="up")


@pytest.fixture
def inside() -> Iterator[Callable[..., Any]]:
    """Runs a function in a network namespace of the test's own: `inside(function, *arguments)`."""
    name = f"l4-agent-test-{os.getpid()}"
    netns.create(name)
    try:
        with ThreadPoolExecutor(1, initializer=netns.setns, initargs=(name,)) as thread:

            def run(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
                return thread.submit(function, *arguments, **named).result()

            run(bring_loopback_up)
            yield run
    finally:
        netns.remove(name)
