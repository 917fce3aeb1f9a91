"""The kernel program of one L4 node after the other is replaced by a freshly loaded one, under traffic."""

import json
from typing import Final

import trio

from orchestrator.contract.node import AgentRole
from orchestrator.lab.chaos.scenario import Figures, Scenario, Stage
from orchestrator.lab.errors import LabError
from orchestrator.lab.fabric import run_in
from orchestrator.lab.processes import Role
from orchestrator.lab.topology import HOST_INTERFACE, LabHost

REPLACEMENTS: Final = 20
RESTART_S: Final = 30.0


async def play(stage: Stage) -> Figures:
    """Each by a restart of the agent: the old program forwards until the new one is attached over it."""
    nodes = stage.lab.topology.l4_nodes
    programs: set[tuple[str, int]] = set()
    for number in range(REPLACEMENTS):
        node = nodes[number % len(nodes)]
        before = await trio.to_thread.run_sync(_program_id, node)
        await trio.to_thread.run_sync(stage.lab.restart_process, node.name, Role.BALANCER)
        await stage.edgectl.until_reported(node.name, AgentRole.BALANCER, within_s=RESTART_S)
        after = await trio.to_thread.run_sync(_program_id, node)
        if after != before:
            programs.add((node.name, after))
        if (number + 1) % 5 == 0:
            stage.view.event(f"{number + 1} programs replaced")
    return {"replacements": len(programs)}


def _program_id(node: LabHost) -> int:
    """Of the program that the node's interface runs. Raises LabError if it runs none."""
    (link,) = json.loads(run_in(node.namespace, ["ip", "-json", "link", "show", "dev", HOST_INTERFACE]))
    try:
        return int(link["xdp"]["prog"]["id"])
    except KeyError:
        raise LabError(f"{HOST_INTERFACE} on {node.name} runs no XDP program") from None


def expect(figures: Figures) -> list[str]:
    if figures["replacements"] < REPLACEMENTS:
        return [f"only {figures['replacements']:g} of {REPLACEMENTS} restarts replaced the program"]
    return []


SCENARIO: Final = Scenario(
    "program-replacements", f"{REPLACEMENTS} kernel programs replaced under traffic", play, expect=expect
)
