"""A hundred changes of the pool, one upon another: every L4 node swaps its table each time."""

import io
from pathlib import Path
from typing import Final

import trio
from ruamel.yaml import YAML

from orchestrator.contract.node import AgentRole
from orchestrator.lab.agent_counters import counters_of
from orchestrator.lab.chaos.scenario import Figures, Scenario, Stage

SWAPS: Final = 100

#: Seconds between two looks at whether all L4 nodes have swapped, and at most for one change to arrive.
LOOK_S: Final = 0.05
ARRIVAL_S: Final = 10.0


async def play(stage: Stage) -> Figures:
    """The weight of one proxy after the other is doubled and halved again."""
    original = (stage.lab.configuration / "platform.yaml").read_text()
    before = await _swaps_of_each_node(stage)
    try:
        for number in range(SWAPS):
            await trio.to_thread.run_sync(_weigh, stage.lab.configuration, number)
            await stage.edgectl.apply(stage.lab.configuration)
            await _until_swapped(stage, before, number + 1)
            if (number + 1) % 20 == 0:
                stage.view.event(f"{number + 1} table swaps on each L4 node")
    finally:
        (stage.lab.configuration / "platform.yaml").write_text(original)
        with trio.CancelScope(shield=True):
            await stage.edgectl.apply(stage.lab.configuration)
    after = await _swaps_of_each_node(stage)
    return {f"table_swaps_{name}": after[name] - before[name] for name in after}


def _weigh(configuration: Path, number: int) -> None:
    """Another weight for the member whose turn it is: 2 and 1, in turn."""
    path = configuration / "platform.yaml"
    yaml = YAML()
    content = yaml.load(path.read_text())
    members = content["pools"][0]["members"]
    member = members[number // 2 % len(members)]
    member["weight"] = 3 - int(member.get("weight", 1))
    text = io.StringIO()
    yaml.dump(content, text)
    path.write_text(text.getvalue())


async def _until_swapped(stage: Stage, before: dict[str, float], swaps: int) -> None:
    with trio.fail_after(ARRIVAL_S):
        while True:
            now = await _swaps_of_each_node(stage)
            if all(now[name] - before[name] >= swaps for name in now):
                return
            await trio.sleep(LOOK_S)


async def _swaps_of_each_node(stage: Stage) -> dict[str, float]:
    return {
        node.name: (await trio.to_thread.run_sync(counters_of, node, AgentRole.BALANCER))["table_swaps"]
        for node in stage.lab.topology.l4_nodes
    }


def expect(figures: Figures) -> list[str]:
    return [f"{name} is {value:g}, not {SWAPS}" for name, value in figures.items() if value < SWAPS]


SCENARIO: Final = Scenario("table-swaps", f"{SWAPS} changes of the pool, one upon another", play, expect=expect)
