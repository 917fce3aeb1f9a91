"""`python -m orchestrator.lab.load`: plan and commands on stdin, messages on stdout."""

import os
import sys

import trio

from orchestrator.lab.child import lines
from orchestrator.lab.load.generator import generate
from orchestrator.lab.load.messages import Message
from orchestrator.lab.load.plan import LoadPlan


def write(message: Message) -> None:
    """Blocks if nobody reads: the parent that does not read wants no load either."""
    sys.stdout.write(message.model_dump_json() + "\n")
    sys.stdout.flush()


async def run() -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        commands = lines(stdin)
        plan = LoadPlan.model_validate_json(await anext(commands))
        await generate(plan, commands, write)


if __name__ == "__main__":
    trio.run(run)
