"""`edge-l7 run` from a copy of the code that a test may change, and clients that count what goes wrong."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

import l7
from orchestrator.contract.route import Backend, Certificate
from tests.l7.live_proxy import LiveBackend, get, make_snapshot, read_response
from tests.l7.test_service import joined_state
from tests.l7.test_supervisor import free_address

REPOSITORY = Path(l7.__file__).parent.parent


@dataclass
class LiveEdge:
    """A keeper with what it started."""

    process: trio.Process
    address: tuple[str, int]
    metrics: tuple[str, int]
    code: Path
    """The directory that the package `l7` is imported from. What is changed there runs after a restart."""
    log: Path
    access_log: Path

    def install(self, module: str, old: str, new: str) -> None:
        """Another version: in `l7/<module>`, one text is replaced by another."""
        path = self.code / "l7" / module
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def reinstall(self, module: str) -> None:
        """As it was."""
        shutil.copy(REPOSITORY / "l7" / module, self.code / "l7" / module)

    def restart(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def supervisors(self) -> list[int]:
        """Process ids of incarnations, oldest first."""
        return children_of(self.process.pid)

    def count(self, text: str) -> int:
        """How often the log says this."""
        return self.log.read_text().count(text)

    async def until_logged(self, text: str, times: int = 1) -> None:
        while self.count(text) < times:
            assert self.process.poll() is None, self.log.read_text()
            await trio.sleep(0.05)

    async def scrape(self) -> dict[str, float]:
        """Metrics by name and labels."""
        async with await trio.open_tcp_stream(*self.metrics) as stream:
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            _head, body = await read_response(stream)
        lines = [line.rpartition(" ") for line in body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}


def children_of(pid: int) -> list[int]:
    """Process ids, oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            fields = stat[stat.rindex(")") + 2 :].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append((int(fields[19]), int(entry.name)))
    return [child for _, child in sorted(found)]


@asynccontextmanager
async def running_edge(
    directory: Path,
    backend: LiveBackend,
    *options: str,
    environment: dict[str, str] | None = None,
    certificate: Certificate | None = None,
    backends: tuple[Backend, ...] | None = None,
) -> AsyncIterator[LiveEdge]:
    """In service; stopped at the end of the block, with all its processes. `backends`: instead of the one."""
    code = directory / "code"
    shutil.copytree(REPOSITORY / "l7", code / "l7", ignore=shutil.ignore_patterns("__pycache__"))
    state, address, metrics = joined_state(directory / "state"), free_address(), free_address()
    path = os.pathsep.join([str(code), str(REPOSITORY)])
    plain = {"EDGEFLEET_COMPILED": "no"}  # it runs from a copy of the sources, which tests change
    log, access_log = directory / "edge.log", directory / "access.log"
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.serve)
        snapshot = make_snapshot([backend], address, certificate)
        state.save_snapshot(snapshot if backends is None else snapshot.model_copy(update={"backends": backends}))
        command = [sys.executable, "-m", "l7.service", "run", f"--state={state.path}", "--workers=1"]
        command += [f"--metrics={metrics[0]}:{metrics[1]}", f"--access-log={access_log}", "--restart-grace=10"]
        with log.open("ab") as file:
            process = await trio.lowlevel.open_process(
                [*command, *options],
                cwd=code,
                env={**os.environ, **plain, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        edge = LiveEdge(process, address, metrics, code, log, access_log)
        try:
            with trio.fail_after(200):
                await edge.until_logged("incarnation 1 is in service")
                yield edge
        finally:
            with trio.CancelScope(shield=True):
                for _ in range(2):  # a second signal ends it at once
                    if process.poll() is None:
                        process.terminate()
                        with trio.move_on_after(1):
                            await process.wait()
                await process.wait()
        nursery.cancel_scope.cancel()


@dataclass
class Load:
    """Clients of both manners: a connection for each request, and one that is kept while the proxy keeps it."""

    address: tuple[str, int]
    done: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for keep in (True, True, False, False):
                nursery.start_soon(self._ask_for_ever, keep)

    async def _ask_for_ever(self, keep: bool) -> None:
        stream: trio.SocketStream | None = None
        while True:
            try:
                if stream is None:
                    stream = await trio.open_tcp_stream(*self.address)
                await stream.send_all(get(close=not keep))
                head, body = await read_response(stream)
            except (OSError, AssertionError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.failures[f"{type(error).__name__}: {error}"] += 1
                stream = None
                await trio.sleep(0.01)
                continue
            if not head.startswith(b"HTTP/1.1 200 ") or body != b"hello":
                self.failures[head.decode()] += 1
            self.done += 1
            if b"connection: close" in head.lower():
                await stream.aclose()
                stream = None
            await trio.sleep(0.005)

    async def go_on(self, requests: int = 100) -> None:
        """Until so many more are answered."""
        enough = self.done + requests
        while self.done < enough:  # noqa: ASYNC110 - clients are tasks beside this one
            await trio.sleep(0.01)


@asynccontextmanager
async def under_load(edge: LiveEdge) -> AsyncIterator[Load]:
    """No request of the block fails, and no connection is refused."""
    load = Load(edge.address)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        await load.go_on()
        yield load
        await load.go_on()
        nursery.cancel_scope.cancel()
    assert not load.failures
