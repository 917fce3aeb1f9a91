"""Restarts of a running proxy: nobody notices, whatever the new version does, and whoever is killed on the way."""

import os
import signal
import socket
from pathlib import Path

import pytest
import trio

from tests.l7.live_edge import LiveEdge, children_of, running_edge, under_load
from tests.l7.live_proxy import LiveBackend, Request, get, read_response
from tests.l7.test_supervisor import fetch, until_free

RESTARTED = "in service; the one before it has"
FAILED = "no restart: "


def slow_backend(go_on: trio.Event) -> LiveBackend:
    """Answers at once, but for `/slow`, of which the second half waits."""

    async def answer(request: Request) -> None:
        if request.path == "/slow":
            await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
            await go_on.wait()
            await request.stream.send_all(b"other")
            return
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")

    return LiveBackend(answer)


async def begin_download(edge: LiveEdge, backend: LiveBackend) -> trio.SocketStream:
    stream = await trio.open_tcp_stream(*edge.address)
    await stream.send_all(get("/slow"))
    while not any(request.path == "/slow" for request in backend.requests):  # noqa: ASYNC110
        await trio.sleep(0.01)
    return stream


async def test_three_restarts_under_load(tmp_path: Path) -> None:
    async with running_edge(tmp_path, LiveBackend()) as edge:
        before = edge.supervisors()
        async with under_load(edge) as load:
            for number in range(1, 4):
                edge.restart()
                await edge.until_logged(RESTARTED, number)
                await load.go_on()
                await edge.until_logged(f"incarnation {number} has ended")
        assert len(edge.supervisors()) == 1
        assert edge.supervisors() != before
        edge.process.terminate()
        assert await edge.process.wait() == 0
        assert not edge.count("ERROR")


async def test_a_download_goes_on_and_is_counted_and_an_idle_connection_is_told(tmp_path: Path) -> None:
    go_on = trio.Event()
    backend = slow_backend(go_on)
    async with running_edge(tmp_path, backend, "--restart-grace=100") as edge:
        async with await begin_download(edge, backend) as download, await trio.open_tcp_stream(*edge.address) as kept:
            await kept.send_all(get())
            assert b"connection: close" not in (await read_response(kept))[0]
            edge.restart()
            await edge.until_logged(RESTARTED)
            while (metrics := await edge.scrape()).get('edge_l7_leaving_open_flows{protocol="http/1.1"}') != 2:  # noqa: ASYNC110
                await trio.sleep(0.05)
            assert metrics["edge_l7_incarnation"] == 2
            assert metrics["edge_l7_leaving_incarnation"] == 1
            assert metrics["edge_l7_requests_total"] == 1
            while True:  # its turn comes within the spread of 30 s
                await kept.send_all(get())
                if b"connection: close" in (await read_response(kept))[0]:
                    break
                await trio.sleep(0.05)
            go_on.set()
            assert (await read_response(download))[1] == b"firstother"
            await download.aclose()
            await kept.aclose()
            await edge.until_logged("incarnation 1 has ended")
        metrics = await edge.scrape()
        assert "edge_l7_leaving_incarnation" not in metrics
        assert metrics["edge_l7_requests_total"] >= 3
        assert metrics['edge_l7_restarts_total{result="done"}'] == 1


@pytest.mark.parametrize(
    ("module", "old", "new", "reason"),
    [
        pytest.param("supervisor.py", "import logging\n", "import nowhere\n", "exit code 1", id="crashes-at-start"),
        pytest.param(
            "worker.py",
            "    gc.freeze()\n",
            "    raise SystemExit(3)\n",
            "worker 0 ended while it built the snapshot",
            id="workers-crash",
        ),
        pytest.param(
            "keeper_link.py",
            "def release()",
            "import time; time.sleep(99)\ndef release()",
            "not in service within 20 s",
            id="hangs",
        ),
        pytest.param(
            "handover.py",
            "PROTOCOL: Final = 1",
            "PROTOCOL: Final = 2",
            "speaks version 2 of the handover",
            id="other-protocol",
        ),
        pytest.param(
            "handover.py",
            '"in-service"',
            '"unheard-of"',
            "does not match any of the expected tags",
            id="unknown-message",
        ),
        pytest.param(
            "listening.py",
            "        fresh: dict",
            "        raise AddressTaken('no room')\n        fresh: dict",
            "no room",
            id="refuses-the-snapshot",
        ),
        pytest.param(
            "supervisor.py", "        self._tell_change()\n\n", "        os.abort()\n\n", "SIGABRT", id="aborts-late"
        ),
    ],
)
async def test_a_new_version_that_fails_leaves_the_old_one_serving(
    tmp_path: Path, module: str, old: str, new: str, reason: str
) -> None:
    async with running_edge(tmp_path, LiveBackend(), "--restart-timeout=20") as edge:
        serving = edge.supervisors()
        async with under_load(edge) as load:
            edge.install(module, old, new)
            edge.restart()
            await edge.until_logged(FAILED)
            await load.go_on()
            assert edge.supervisors() == serving
        assert reason in edge.log.read_text()
        while (metrics := await edge.scrape())['edge_l7_restarts_total{result="failed"}'] != 1:  # noqa: ASYNC110
            await trio.sleep(0.05)
        assert metrics["edge_l7_incarnation"] == 1
        edge.reinstall(module)
        async with under_load(edge):
            edge.restart()
            await edge.until_logged(RESTARTED)
        assert (await edge.scrape())["edge_l7_incarnation"] == 3


async def test_a_second_restart_is_refused_until_the_first_is_over(tmp_path: Path) -> None:
    go_on = trio.Event()
    backend = slow_backend(go_on)
    async with running_edge(tmp_path, backend, "--restart-grace=100") as edge:
        async with await begin_download(edge, backend) as download:
            edge.restart()
            await edge.until_logged("incarnation 2 is of release")
            edge.restart()
            await edge.until_logged(f"{FAILED}a restart is under way")
            await edge.until_logged(RESTARTED)
            edge.restart()
            await edge.until_logged(f"{FAILED}incarnation 1 leaves still, with 1 flows")
            assert len(edge.supervisors()) == 2
            go_on.set()
            assert (await read_response(download))[1] == b"firstother"
        await edge.until_logged("incarnation 1 has ended")
        edge.restart()
        await edge.until_logged(RESTARTED, 2)


async def test_what_outstays_the_grace_is_reset(tmp_path: Path) -> None:
    backend = slow_backend(trio.Event())
    async with running_edge(tmp_path, backend, "--restart-grace=2") as edge:
        async with await begin_download(edge, backend) as download:
            edge.restart()
            await edge.until_logged("incarnation 1 has ended")
            with pytest.raises(trio.BrokenResourceError):
                while await download.receive_some(100):
                    pass
        assert (await edge.scrape())['edge_l7_connections_reset_total{reason="stopped"}'] == 1


async def test_an_old_incarnation_that_hangs_is_killed(tmp_path: Path) -> None:
    backend = slow_backend(trio.Event())
    async with running_edge(tmp_path, backend, "--restart-grace=3") as edge:
        async with await begin_download(edge, backend):
            old = edge.supervisors()[0]
            workers = children_of(old)
            edge.restart()
            await edge.until_logged(RESTARTED)
            for pid in (*workers, old):
                os.kill(pid, signal.SIGSTOP)
            await edge.until_logged("incarnation 1 did not end in time; killed")
            await edge.until_logged("incarnation 1 has ended")
            assert all(map(is_zombie, (*workers, old)))
        assert (await fetch(edge.address)).endswith(b"hello")


def is_zombie(pid: int) -> bool:
    """It has ended, and nobody has waited for it yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat[stat.rindex(")") + 2] == "Z"


async def kill(*pids: int) -> None:
    """Returns when they are dead."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    while not all(map(is_zombie, pids)):  # noqa: ASYNC110
        await trio.sleep(0.01)


async def test_the_new_one_is_killed_before_it_is_ready(tmp_path: Path) -> None:
    async with running_edge(tmp_path, LiveBackend()) as edge:
        async with under_load(edge):
            edge.restart()
            await edge.until_logged("incarnation 2 is of release")
            os.kill(edge.supervisors()[-1], signal.SIGKILL)
            await edge.until_logged(f"{FAILED}incarnation 2 did not come into service: it ended with SIGKILL")
        assert len(edge.supervisors()) == 1


async def test_the_old_one_is_killed_while_the_new_one_starts(tmp_path: Path) -> None:
    async with running_edge(tmp_path, LiveBackend()) as edge:
        edge.restart()
        await edge.until_logged("incarnation 2 is of release")
        os.kill(edge.supervisors()[0], signal.SIGKILL)
        # What comes meanwhile waits in the queue, which the keeper holds open.
        assert (await fetch(edge.address)).endswith(b"hello")
        await edge.until_logged("incarnation 2 is in service")
        assert len(edge.supervisors()) == 1


async def test_the_present_one_is_killed_and_what_comes_meanwhile_waits_for_the_next(tmp_path: Path) -> None:
    async with running_edge(tmp_path, LiveBackend()) as edge:
        victim = edge.supervisors()[0]
        await kill(*children_of(victim), victim)
        async with await trio.open_tcp_stream(*edge.address) as stream:
            await stream.send_all(get())
            assert (await read_response(stream))[1] == b"hello"
        assert edge.count("incarnation 1: it ended with SIGKILL: see the log; the next starts") == 1
        while (await edge.scrape()).get("edge_l7_incarnation_crashes_total") != 1:  # noqa: ASYNC110
            await trio.sleep(0.05)


async def test_the_new_one_is_killed_while_the_old_one_leaves(tmp_path: Path) -> None:
    go_on = trio.Event()
    backend = slow_backend(go_on)
    async with running_edge(tmp_path, backend, "--restart-grace=100") as edge:
        async with await begin_download(edge, backend) as download:
            edge.restart()
            await edge.until_logged(RESTARTED)
            new = edge.supervisors()[-1]
            await kill(*children_of(new), new)
            assert (await fetch(edge.address)).endswith(b"hello")
            await edge.until_logged("incarnation 3 is in service")
            go_on.set()
            assert (await read_response(download))[1] == b"firstother"
        await edge.until_logged("incarnation 1 has ended")


async def test_without_its_keeper_it_finishes_what_is_open_and_frees_the_address(tmp_path: Path) -> None:
    go_on = trio.Event()
    backend = slow_backend(go_on)
    async with running_edge(tmp_path, backend) as edge, await begin_download(edge, backend) as download:
        edge.process.kill()
        await until_free(edge.address)
        go_on.set()
        assert (await read_response(download))[1] == b"firstother"


async def test_a_stop_in_the_middle_of_a_restart_ends_both(tmp_path: Path) -> None:
    backend = slow_backend(trio.Event())
    async with running_edge(tmp_path, backend, "--restart-grace=100", "--stop-grace=1") as edge:
        async with await begin_download(edge, backend):
            edge.restart()
            await edge.until_logged(RESTARTED)
            edge.process.terminate()
            assert await edge.process.wait() == 0
        assert not edge.supervisors()


async def test_a_rotated_access_log_is_opened_anew(tmp_path: Path) -> None:
    async with running_edge(tmp_path, LiveBackend()) as edge:
        await fetch(edge.address)
        while not edge.access_log.exists():  # noqa: ASYNC110
            await trio.sleep(0.05)
        edge.access_log.rename(tmp_path / "access.log.1")
        edge.process.send_signal(signal.SIGUSR1)
        while not edge.access_log.exists() or '"status":200' not in edge.access_log.read_text():
            await fetch(edge.address)


async def test_the_process_manager_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = str(tmp_path / "notify")
        manager.bind(name)
        manager.setblocking(False)
        listening = trio.socket.from_stdlib_socket(manager)
        async with running_edge(tmp_path, LiveBackend(), environment={"NOTIFY_SOCKET": name}) as edge:
            assert (await listening.recv(4096)).startswith(b"READY=1\nSTATUS=incarnation 1 is in service")
            edge.restart()
            told = (await listening.recv(4096)).decode().splitlines()
            assert told[0] == "RELOADING=1"
            assert told[1].startswith("MONOTONIC_USEC=")
            assert (await listening.recv(4096)).startswith(b"READY=1\nSTATUS=incarnation 2 is in service")
            edge.install("supervisor.py", "import logging\n", "import nowhere\n")
            await edge.until_logged("incarnation 1 has ended")
            edge.restart()
            assert (await listening.recv(4096)).startswith(b"RELOADING=1\n")
            assert (await listening.recv(4096)).startswith(b"READY=1\nSTATUS=incarnation 2 goes on: ")
            edge.process.terminate()
            assert (await listening.recv(4096)).startswith(b"STOPPING=1\n")
