"""Processes of the fleet do not log their own requests that go well."""

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import trio
from click.testing import CliRunner

from l4 import service as l4_service
from l7 import service as l7_service
from orchestrator import service as orchestrator_service
from orchestrator.contract import logs
from orchestrator.contract.connection import Connection


@pytest.fixture(autouse=True)
def as_a_process_begins() -> Iterator[None]:
    """Levels of all loggers as they were, and none set for the HTTP client."""
    known = {name: logging.getLogger(name) for name in [*logging.Logger.manager.loggerDict, "httpx2", "httpcore2"]}
    levels = {name: each.level for name, each in known.items()}
    for each in known.values():
        each.setLevel(logging.NOTSET)
    yield
    for name, level in levels.items():
        known[name].setLevel(level)


async def ask_an_orchestrator() -> None:
    """One request that is answered."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, answer, 0)
        endpoint = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with Connection((endpoint,), ssl.create_default_context(), max_answer_bytes=1000) as connection:
            assert (await connection.request("GET", "/v1/node/snapshot")).status == 204
        nursery.cancel_scope.cancel()


async def test_requests_that_go_well_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await ask_an_orchestrator()
        assert "HTTP Request" in caplog.text, "what is to be hushed has another name now"
        caplog.clear()
        logs.hush_requests()
        await ask_an_orchestrator()
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (l4_service.main, ["balancer", "detach"]),
        (l7_service.main, ["run", "--state"]),
        (orchestrator_service.main, ["token"]),
    ],
    ids=["edge-l4", "edge-l7", "edge-orchestrator"],
)
def test_every_process_of_the_fleet_is_hushed(
    command: click.Command, arguments: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By a command that ends at once: it is told too little."""
    if arguments[-1] == "--state":
        arguments = [*arguments, str(tmp_path)]  # where nobody has joined
    with caplog.at_level(logging.INFO):
        assert CliRunner().invoke(command, arguments).exit_code != 0
        assert not logging.getLogger("httpx2").isEnabledFor(logging.INFO)
