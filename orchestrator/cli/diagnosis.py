"""A checkup of many nodes: each agent looks at its host, and what only a comparison tells is worked out here."""

import time
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from orchestrator.cli import fleet_checks
from orchestrator.cli.failure import CommandFailed, ExitCode, Finding
from orchestrator.cli.fleet_api import FleetApi
from orchestrator.cli.fleet_checks import Answered, Clock
from orchestrator.cli.inquiring import InquiryFailed, ask_once
from orchestrator.contract.checkup import CheckResult, Checkup, CheckupAnswer
from orchestrator.contract.connection import OrchestratorRefused
from orchestrator.contract.node import AgentRole, NodeKind
from orchestrator.contract.operator import TABLE_LIST, TABLES, NodeView, StatusView

#: Nodes that are asked at once: well below what an orchestrator takes (`orchestrator.fleet.inquiries`).
AT_ONCE: Final = 64
#: Seconds for which an agent may be behind: a change that was just made is not applied everywhere yet.
SETTLE_S: Final = 4.0
LOOK_S: Final = 0.5

#: Which agent looks at a host.
LOOKING: Final = {NodeKind.L4: AgentRole.BALANCER, NodeKind.PROXY: AgentRole.REDIRECTOR}

#: What stands for the fleet as a whole among nodes' names: no node can be called so.
FLEET: Final = "(fleet)"


@dataclass(slots=True)
class Diagnosis:
    """All results, by node."""

    results: dict[str, list[CheckResult]] = field(default_factory=dict)

    @property
    def findings(self) -> list[tuple[str, CheckResult]]:
        return [(node, result) for node, results in self.results.items() for result in results if result.is_finding]

    def as_json(self) -> dict[str, Any]:
        return {
            "healthy": not self.findings,
            "findings": [{"node": node, **result.model_dump(mode="json")} for node, result in self.findings],
            "nodes": [
                {"node": node, "checks": [result.model_dump(mode="json") for result in results]}
                for node, results in self.results.items()
            ],
        }


async def diagnose(api: FleetApi, nodes: tuple[str, ...], *, fix: bool) -> Diagnosis:
    """Asks the given nodes, or all. Raises as `FleetApi`, and CommandFailed for a node that is not there."""
    clock, status = await _settled(api)
    present = {node.name: node for node in status.nodes}
    for name in nodes:
        if name not in present:
            hint = "`edgectl get nodes` lists them"
            raise CommandFailed(ExitCode.FAILED, Finding("not_found", f"there is no node {name!r}", hint=hint))
    chosen = [present[name] for name in dict.fromkeys(nodes)] or list(status.nodes)
    answers: dict[str, Answered] = {}
    silent: dict[str, dict[AgentRole, str]] = {node.name: {} for node in chosen}
    places = trio.CapacityLimiter(AT_ONCE)
    async with trio.open_nursery() as nursery:
        for node in chosen:
            nursery.start_soon(_ask, api, node, fix, places, answers, silent[node.name])
    if fix:  # what was mended changes what agents report
        clock, status = await _settled(api)
        chosen = [node for node in status.nodes if node.name in silent]
    diagnosis = Diagnosis()
    if not nodes:
        diagnosis.results[FLEET] = list(fleet_checks.unannounced(status))
    mtus = fleet_checks.mtus(answers)
    held = await api.listed(TABLES, TABLE_LIST)
    tables = fleet_checks.tables(held)
    for node in chosen:
        results = diagnosis.results[node.name] = list(fleet_checks.agents(status, node, silent[node.name]))
        results += fleet_checks.vips(status, node)
        results += tables.get(node.name, ())
        if (answered := answers.get(node.name)) is not None:
            results.append(fleet_checks.clock(clock, answered))
            differing = mtus[node.name]
            results += differing
            # What the comparison found of the MTU says more than what the node by itself found in order.
            results += [result for result in answered.answer.results if not (differing and result.id == "mtu")]
    return diagnosis


async def _settled(api: FleetApi) -> tuple[Clock, StatusView]:
    """The fleet's state, once agents had time to take what changed a moment ago; and a look at the clocks."""
    until = trio.current_time() + SETTLE_S
    while True:
        before = time.time()
        status = await api.status()
        clock = Clock(before, status.now, time.time())
        is_settled = all(agent.up_to_date or not agent.connected for node in status.nodes for agent in node.agents)
        is_announced = not any(vip.withheld_by for vip in status.vips)
        if (is_settled and is_announced) or trio.current_time() >= until:
            return clock, status
        await trio.sleep(LOOK_S)


async def _ask(
    api: FleetApi,
    node: NodeView,
    fix: bool,
    places: trio.CapacityLimiter,
    answers: dict[str, Answered],
    silent: dict[AgentRole, str],
) -> None:
    role = LOOKING[node.kind]
    if role not in (agent.role for agent in node.agents):
        return  # a member without a redirector: nobody can look
    async with places:
        asked_at = time.time()
        try:
            answer = await ask_once(api, node.name, Checkup(role=role, fix=fix), CheckupAnswer)
        except InquiryFailed as failed:
            silent[role] = failed.problem.message
        except OrchestratorRefused as refused:
            silent[role] = refused.problems[0].message
        else:
            answers[node.name] = Answered(answer, asked_at, time.time())
