"""A child process under structured concurrency: it never outlives the block that started it."""

import os
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

#: How long a child may take to end after SIGTERM before it is killed.
TERM_GRACE_S: Final = 5.0

#: Longest line that is taken from a child.
MAX_LINE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Child:
    """A running process and its three pipes."""

    pid: int
    stdin: trio.abc.SendStream
    stdout: trio.abc.ReceiveStream
    stderr: trio.abc.ReceiveStream
    _process: trio.Process

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        return await self._process.wait()


@asynccontextmanager
async def child_process(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """Start a command (`environment` adds to ours). At the end of the block it is ended, if it runs still.

    It has a session of its own: Ctrl-C on the terminal is for whoever started it, who then ends it in order. Its
    stderr must be read, or be short: a full pipe stops it. Raises OSError if it cannot be started.
    """
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise OSError(f"no pipes to {command[0]}")
    try:
        yield Child(process.pid, process.stdin, process.stdout, process.stderr, process)
    finally:
        with trio.CancelScope(shield=True):
            await _end(process)


async def _end(process: trio.Process) -> None:
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(TERM_GRACE_S):
            await process.wait()
    if process.poll() is None:
        process.kill()
        await process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            await pipe.aclose()


async def lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[str]:
    """Lines of a stream until its end. Raises ValueError for one that is longer than `MAX_LINE_BYTES`."""
    rest = b""
    async for data in stream:
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
        if len(rest) > MAX_LINE_BYTES:
            raise ValueError(f"a line is longer than {MAX_LINE_BYTES} bytes")
    if rest:
        yield rest.decode(errors="replace")
