"""`python -m orchestrator.lab.load`: plan and commands on stdin, messages on stdout."""

import os
import sys
from collections.abc import AsyncIterator

import trio

from orchestrator.lab.load.generator import generate
from orchestrator.lab.load.messages import Message
from orchestrator.lab.load.plan import LoadPlan

#: Longest line on stdin: a plan names a few dozen resources and addresses.
MAX_LINE_BYTES = 1_048_576


def write(message: Message) -> None:
    """Blocks if nobody reads: the parent that does not read wants no load either."""
    sys.stdout.write(message.model_dump_json() + "\n")
    sys.stdout.flush()


async def lines(descriptor: int) -> AsyncIterator[str]:
    """Lines of a descriptor until its end. Raises ValueError for one that is longer than `MAX_LINE_BYTES`."""
    received = b""
    async with trio.lowlevel.FdStream(os.dup(descriptor)) as stream:
        async for data in stream:
            received += data
            *whole, received = received.split(b"\n")
            for line in whole:
                yield line.decode()
            if len(received) > MAX_LINE_BYTES:
                raise ValueError(f"a line on stdin is longer than {MAX_LINE_BYTES} bytes")


async def run() -> None:
    commands = lines(sys.stdin.fileno())
    plan = LoadPlan.model_validate_json(await anext(commands))
    await generate(plan, commands, write)


if __name__ == "__main__":
    trio.run(run)
