"""`edge-l7 run`: from the snapshot on disk, with no orchestrator anywhere, until it is told to stop."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from l7.service import main
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.state_directory import Enrolment, StateDirectory
from tests.l7.live_proxy import LOOPBACK, LiveBackend, Request, get, make_snapshot, read_response, self_signed
from tests.l7.test_supervisor import fetch, free_address, until_refused


def joined_state(path: Path) -> StateDirectory:
    """The directory of an agent that joined an orchestrator that is gone."""
    state = StateDirectory(path)
    own = self_signed("proxy-1.example.com")
    state.save_enrolment(
        Enrolment(
            identity=AgentIdentity(node="proxy-1", role=AgentRole.PROXY),
            endpoints=(f"https://{LOOPBACK}:{free_address()[1]}",),
        ),
        ca_pem=own.chain_pem,
        certificate_pem=own.chain_pem,
        key_pem=own.key_pem.encode(),
    )
    return state


async def start(state: StateDirectory, *options: str) -> trio.Process:
    """The command, as an init system would start it."""
    command = [sys.executable, "-c", "from l7.service import main; main()", "run", "--state", str(state.path), *options]
    return await trio.lowlevel.open_process(command, stderr=subprocess.DEVNULL)


async def until_served(address: tuple[str, int]) -> None:
    while True:
        try:
            await fetch(address)
        except OSError:
            await trio.sleep(0.05)
        else:
            return


async def test_it_serves_from_disk_and_ends_after_the_last_download(tmp_path: Path) -> None:
    go_on = trio.Event()

    async def slowly(request: Request) -> None:
        if request.path == "/":
            await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
            return
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
        await go_on.wait()
        await request.stream.send_all(b"other")

    backend = LiveBackend(slowly)
    state, address, metrics = joined_state(tmp_path / "state"), free_address(), free_address()
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.serve)
        state.save_snapshot(make_snapshot([backend], address))
        log = tmp_path / "access.log"
        with trio.fail_after(30):
            process = await start(
                state, "--workers", "1", "--access-log", str(log), "--metrics", f"{metrics[0]}:{metrics[1]}"
            )
            await until_served(address)
            async with await trio.open_tcp_stream(*metrics) as scrape:
                await scrape.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b"edge_l7_workers 1\n" in (await read_response(scrape))[1]
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(get("/slow"))
                while not any(request.path == "/slow" for request in backend.requests):  # noqa: ASYNC110
                    await trio.sleep(0.01)
                process.send_signal(signal.SIGTERM)
                await until_refused(address)
                assert process.poll() is None
                go_on.set()
                assert (await read_response(stream))[1] == b"firstother"
            assert await process.wait() == 0
        assert '"path":"/slow","status":200' in log.read_text()
        nursery.cancel_scope.cancel()


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async def never(request: Request) -> None:
        if request.path != "/":
            await trio.sleep_forever()
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")

    backend = LiveBackend(never)
    state, address = joined_state(tmp_path / "state"), free_address()
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.serve)
        state.save_snapshot(make_snapshot([backend], address))
        with trio.fail_after(30):
            process = await start(state, "--workers", "1")
            await until_served(address)
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(get("/never"))
                while not any(request.path == "/never" for request in backend.requests):  # noqa: ASYNC110
                    await trio.sleep(0.01)
                process.send_signal(signal.SIGTERM)
                await until_refused(address)
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
        nursery.cancel_scope.cancel()


def test_a_first_start_without_a_token_says_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["run", "--state", str(tmp_path)])
    assert result.exit_code == 1
    assert "--orchestrator, --token-file and --node" in result.output


@pytest.mark.parametrize("value", ["9100", "192.0.2.1:", "192.0.2.1:99999", ":9100"])
def test_a_bad_metrics_address_is_refused(tmp_path: Path, value: str) -> None:
    result = CliRunner().invoke(main, ["run", "--state", str(tmp_path), "--metrics", value])
    assert result.exit_code == 2
    assert "ADDRESS:PORT" in result.output
