"""The fleet as an operator handles it: by `edgectl`, a process, so that the lab tests what people use."""

import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from orchestrator.contract.node import AgentRole
from orchestrator.contract.operator import DrainView, StatusView
from orchestrator.lab.child import child_process, lines
from orchestrator.lab.commands import program
from orchestrator.lab.errors import LabError

#: Between two looks at the fleet.
LOOK_S = 0.3

#: Lines of a failed command's stderr that are quoted.
MAX_LINES_KEPT = 20


class Edgectl:
    """Commands on one fleet. All raise LabError, with what the command said, if it fails."""

    def __init__(self, context: Path) -> None:
        self._context = context

    async def drain(self, node: str, seen: Callable[[DrainView], None]) -> DrainView:
        """Drain a node and wait until it is drained; each view on the way is shown to `seen`."""

        def progress(line: str) -> None:
            view = json.loads(line)
            if "node" in view:  # beside views there are notes
                seen(DrainView.model_validate(view))

        output = json.loads(await self._run(["drain", node, "--json"], progress))
        output.pop("seconds", None)
        return DrainView.model_validate(output)

    async def undrain(self, node: str) -> None:
        await self._run(["undrain", node, "--json"])

    async def drain_l4(self, *which: str) -> None:
        """Drain an L4 node (`l4-1`), or all of a site (`--site`, `east`), and wait until no packet comes there."""
        await self._run(["drain", *which, "--json"])

    async def undrain_l4(self, *which: str) -> None:
        """And wait until it announces its VIPs again."""
        await self._run(["undrain", *which, "--json"])

    async def apply(self, configuration: Path) -> None:
        """Put a configuration directory in force."""
        await self._run(["apply", str(configuration), "--json"])

    async def guard(self, *arguments: str) -> None:
        """One change of the guard: `limit`, `block`, ..."""
        await self._run(["guard", *arguments, "--json"])

    async def until_reported(self, node: str, role: AgentRole, *, within_s: float) -> None:
        """Wait for a report that the agent made after now, and in which it runs the newest revision."""
        began = trio.current_time()
        with trio.move_on_after(within_s):
            while True:
                asked_at = trio.current_time()
                status = StatusView.model_validate_json(await self._run(["status", "--json"]))
                for agent in (agent for view in status.nodes if view.name == node for agent in view.agents):
                    fresh = agent.report_age_s is not None and asked_at - agent.report_age_s > began
                    if agent.role is role and fresh and agent.up_to_date:
                        return
                await trio.sleep(LOOK_S)
        raise LabError(f"{role} on {node} has not come back within {within_s:g} s", hint="look at its log")

    async def _run(self, argv: Sequence[str], progress: Callable[[str], None] | None = None) -> str:
        command = [program("edgectl"), *argv, "--context", str(self._context)]
        said: deque[str] = deque(maxlen=MAX_LINES_KEPT)
        output: list[str] = []
        async with child_process(command, environment={"NO_COLOR": "1"}) as child:
            async with trio.open_nursery() as nursery:  # both pipes at once: neither may fill up
                nursery.start_soon(_gather, child.stdout, output)
                async for line in lines(child.stderr):
                    if not line.startswith("{"):
                        said.append(line)
                    elif progress is not None:
                        progress(line)
            code = await child.wait()
        if code != 0:
            raise LabError(f"`edgectl {' '.join(argv)}` failed with exit code {code}: {' '.join(said)}")
        return "\n".join(output)


async def _gather(stream: trio.abc.ReceiveStream, output: list[str]) -> None:
    async for line in lines(stream):
        output.append(line)  # noqa: PERF401 - it is the caller's list
