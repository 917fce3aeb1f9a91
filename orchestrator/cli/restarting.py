"""Restarts of proxies, one after another, each watched until the orchestrator hears the new incarnation."""

from dataclasses import dataclass
from typing import Final

import trio

from orchestrator.cli.failure import CommandFailed, ExitCode, Finding, failed
from orchestrator.cli.fleet_api import FleetApi
from orchestrator.cli.inquiring import InquiryFailed, ask_once
from orchestrator.cli.terminal import Terminal
from orchestrator.contract.connection import OrchestratorRefused
from orchestrator.contract.node import AgentRole, NodeKind
from orchestrator.contract.operator import AgentView, NodeView, StatusView
from orchestrator.contract.pool import MemberState
from orchestrator.contract.restart import Restart, RestartAnswer

#: Between two looks: agents report once a second.
POLL_S: Final = 0.5
#: In which a new incarnation that is in service must be heard of: some reports, and a change of the fleet's revision.
HEARD_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Restarted:
    """A proxy with a new incarnation."""

    node: str
    incarnation: int
    took_s: float
    old_has_ended: bool


class Restarting:
    """One `edgectl restart`."""

    def __init__(self, nodes: tuple[str, ...], terminal: Terminal, *, grace_s: float | None, wait: bool) -> None:
        """`nodes`: none stands for all proxies."""
        self._nodes = nodes
        self._terminal = terminal
        self._grace_s = grace_s
        self._wait = wait
        self.under_way: str | None = None

    async def run(self, api: FleetApi) -> tuple[Restarted, ...]:
        """All of them. Raises CommandFailed for the first that fails, and as `FleetApi`."""
        chosen = self._choose(await api.status())
        done: list[Restarted] = []
        for node in chosen:
            self.under_way = node
            try:
                done.append(await self._restart(api, node))
            except CommandFailed as failure:
                rest = chosen[len(done) + 1 :]
                told = [f"{len(done)} restarted" if done else "", f"not tried: {', '.join(rest)}" if rest else ""]
                more = "; ".join(filter(None, told))
                findings = failure.findings
                if more:
                    findings = (*findings, Finding("stopped", f"stopped at {node}: {more}"))
                raise CommandFailed(failure.exit_code, *findings) from failure
        self.under_way = None
        return tuple(done)

    def _choose(self, status: StatusView) -> tuple[str, ...]:
        """Who is to be restarted. Raises CommandFailed with all that stands against it."""
        present = {node.name: node for node in status.nodes}
        names = self._nodes or tuple(node.name for node in status.nodes if _proxy_agent(node) is not None)
        findings = []
        for name in dict.fromkeys(names):
            node = present.get(name)
            if node is None:
                hint = "`edgectl get nodes` lists them"
                findings.append(Finding("not_found", f"there is no node {name!r}", hint=hint))
            elif (finding := _stands_against(node)) is not None:
                findings.append(finding)
        if findings:
            guarded = all(finding.code == "draining" for finding in findings)
            raise CommandFailed(ExitCode.REFUSED if guarded else ExitCode.FAILED, *findings)
        if not names:
            raise failed("not_found", "the fleet has no proxy", hint="`edgectl get nodes` lists the nodes")
        return tuple(dict.fromkeys(names))

    async def _restart(self, api: FleetApi, node: str) -> Restarted:
        self._say(node, "restarting")
        try:
            answer = await ask_once(api, node, Restart(grace_s=self._grace_s), RestartAnswer)
        except InquiryFailed as refused:
            raise refused.failure from refused
        except OrchestratorRefused as refused:
            problem = refused.problems[0]
            raise failed(problem.code, f"{node}: {problem.message}", hint=problem.hint) from refused
        self._say(node, f"incarnation {answer.incarnation} is in service after {answer.took_s:.1f} s")
        agent = await self._until_heard(api, node, answer.incarnation)
        if self._wait:
            agent = await self._until_old_has_ended(api, node, agent)
        return Restarted(node, answer.incarnation, answer.took_s, old_has_ended=agent.leaving is None)

    async def _until_heard(self, api: FleetApi, node: str, incarnation: int) -> AgentView:
        """The agent, once it reports as the new incarnation, with the present revision. Raises CommandFailed."""
        with trio.move_on_after(HEARD_S):
            while True:
                agent = await _look(api, node)
                if agent.connected and agent.up_to_date and (agent.incarnation or 0) >= incarnation:
                    return agent
                await trio.sleep(POLL_S)
        raise failed(
            "not_heard_of",
            f"{node}: incarnation {incarnation} said that it is in service, and does not report the present revision",
            hint=f"`edgectl status` shows what it reports; the log of edge-l7 on {node} says why",
        )

    async def _until_old_has_ended(self, api: FleetApi, node: str, agent: AgentView) -> AgentView:
        said = ""
        while agent.leaving is not None:
            flows = sum(agent.leaving.open_flows.values())
            words = f"incarnation {agent.leaving.incarnation} leaves: {flows} flows open"
            if words != said:
                self._say(node, f"{words}, for {agent.leaving.ends_in_s:.0f} s at most")
                said = words
            await trio.sleep(POLL_S)
            agent = await _look(api, node)
        self._say(node, "the old incarnation has ended")
        return agent

    def _say(self, node: str, what: str) -> None:
        self._terminal.progress_line({"node": node, "note": what}, f"{node}: {what}")


def _proxy_agent(node: NodeView) -> AgentView | None:
    return next((agent for agent in node.agents if agent.role is AgentRole.PROXY), None)


def _stands_against(node: NodeView) -> Finding | None:
    """Why this node cannot be restarted now."""
    agent = _proxy_agent(node)
    if node.kind is not NodeKind.PROXY or agent is None:
        hint = "an L4 node's agent may be restarted at any time on its host: its programs go on"
        return Finding("not_a_proxy", f"{node.name} is no proxy", hint=hint)
    if not agent.connected:
        return Finding(
            "agent_silent",
            f"{node.name}: edge-l7 does not report, so that it cannot be asked",
            hint=f"on {node.name}: `systemctl reload edge-l7` restarts it without an orchestrator; look at its log",
        )
    if node.state is MemberState.DRAINING:
        return Finding(
            "draining",
            f"{node.name} drains: a restart would reset its flows at the end of a grace, which no drain does",
            hint=f"wait until it is drained, or `edgectl drain {node.name} --cancel`",
        )
    return None


async def _look(api: FleetApi, node: str) -> AgentView:
    """Raises CommandFailed if the node is gone."""
    status = await api.status()
    for view in status.nodes:
        if view.name == node and (agent := _proxy_agent(view)) is not None:
            return agent
    raise failed("not_found", f"{node} left the fleet meanwhile", hint="`edgectl get nodes` lists the nodes")
