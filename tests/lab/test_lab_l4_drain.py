"""L4 nodes leave and come back under load, and no flow notices; the last one does not leave."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from time import monotonic, sleep

import pytest
import trio

from orchestrator.lab import VIP_V4, VIP_V6, Lab, LabSpec, checks, lab_down, lab_up, router
from orchestrator.lab.chaos.run import play_one
from orchestrator.lab.chaos.scenario import Figures, Scenario, ScenarioResult, Stage
from orchestrator.lab.commands import program
from orchestrator.lab.load.messages import BreakageSeen, Tick
from orchestrator.lab.processes import Role

pytestmark = pytest.mark.lab

NAME = f"l4drain{os.getpid()}"
FLOWS = 60
PATIENCE_S = 60.0
REFUSED_BY_A_GUARD = 3


class Silent:
    """Nobody watches but the test, in the end."""

    def step(self, text: str, fraction: float | None) -> None: ...

    def event(self, text: str) -> None: ...

    def tick(self, tick: Tick) -> None: ...

    def broken(self, seen: BreakageSeen) -> None: ...


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab_down(NAME)
    yield trio.run(lab_up, LabSpec(name=NAME))
    lab_down(NAME)


def edgectl(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program("edgectl"), "--context", str(lab.operator), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * 2, check=False)


def next_hops(lab: Lab) -> set[str]:
    """Over which L4 nodes the router sends the VIPs' packets."""
    hops = [router.next_hops(lab.topology.router.namespace, vip) for vip in (VIP_V4, VIP_V6)]
    nodes = {str(interface.ip): node.name for node in lab.topology.l4_nodes for interface in node.primary}
    found = [{nodes[hop] for hop in of_family} for of_family in hops]
    assert found[0] == found[1]
    return found[0]


def forwarded(lab: Lab, name: str) -> int:
    views = json.loads(edgectl(lab, "get", "drains", "--json").stdout)["drains"]
    return next(round(view["packets_per_s"] or 0) for view in views if view["node"] == name)


def test_a_drained_l4_node_breaks_nothing_and_comes_back(lab: Lab) -> None:
    seen: dict[str, object] = {}

    async def drain_and_come_back(stage: Stage) -> Figures:
        drained = await trio.to_thread.run_sync(edgectl, stage.lab, "drain", "l4-1", "--deadline", "50", "--json")
        seen["drained"] = drained
        seen["hops"] = next_hops(stage.lab)
        seen["rate"] = forwarded(stage.lab, "l4-1")
        seen["undrained"] = await trio.to_thread.run_sync(edgectl, stage.lab, "undrain", "l4-1")
        with trio.fail_after(PATIENCE_S):
            while next_hops(stage.lab) != {"l4-1", "l4-2"}:  # noqa: ASYNC110
                await trio.sleep(0.1)
        await trio.sleep(2.0)  # flows come to it again
        return {"seconds": json.loads(drained.stdout)["seconds"]}

    scenario = Scenario("l4-drain", "l4-1 is drained, and comes back", drain_and_come_back)
    result: ScenarioResult = trio.run(play_one, lab, scenario, FLOWS, Silent())
    drained, undrained = seen["drained"], seen["undrained"]
    assert isinstance(drained, subprocess.CompletedProcess)
    assert isinstance(undrained, subprocess.CompletedProcess)
    assert drained.returncode == 0, drained.stderr
    view = json.loads(drained.stdout)
    assert (view["state"], view["phase"]) == ("drained", "quiet")
    phases = [json.loads(line).get("phase") for line in drained.stderr.splitlines()]
    assert list(dict.fromkeys(phases)) == ["soft", "withdrawn", "quiet"]
    assert view["seconds"] < 30, "the router moved by itself, not because the routes were taken away"
    assert seen["hops"] == {"l4-2"}
    assert seen["rate"] == 0
    assert undrained.returncode == 0, undrained.stderr
    assert result.complaints == (), result.breakages
    assert result.flows >= FLOWS


def test_the_last_announcer_stays(lab: Lab) -> None:
    site = edgectl(lab, "drain", "--site", "main")
    assert site.returncode == REFUSED_BY_A_GUARD, site.stderr
    assert edgectl(lab, "drain", "l4-1").returncode == 0
    try:
        refused = edgectl(lab, "drain", "l4-2")
        assert refused.returncode == REFUSED_BY_A_GUARD
        assert "nobody would announce" in refused.stderr
        assert "l4-1 is drained" in refused.stderr
        # The one that is left does not withdraw its VIPs whatever it lacks: it was told so.
        snapshot = lab.directory("l4-2") / "balancer" / "snapshot.json"
        eventually("l4-2 is told", lambda: "web-v4" in json.loads(snapshot.read_text())["announce_anyway"])
        # A drain outlives the orchestrator, and a drained node announces nothing when its agent starts again.
        lab.restart_process(lab.topology.control.name, Role.ORCHESTRATOR)
        lab.restart_process("l4-1", Role.BALANCER)
        eventually("all agents up to date", lambda: checks.agents_are_up_to_date(lab) is None)
        assert next_hops(lab) == {"l4-2"}
        drains = json.loads(edgectl(lab, "get", "drains", "--json").stdout)["drains"]
        assert [(drain["node"], drain["state"]) for drain in drains] == [("l4-1", "drained")]
    finally:
        assert edgectl(lab, "undrain", "l4-1").returncode == 0
    eventually("both next hops", lambda: next_hops(lab) == {"l4-1", "l4-2"})


def eventually(what: str, holds: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE_S
    while not holds():
        assert monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        sleep(0.1)
