"""A packet's whole way: rehearsed by each L4 node, then by the proxies that it would reach, one after the other."""

from dataclasses import dataclass, field
from typing import Any

import trio

from orchestrator.cli.capturing import l4_nodes
from orchestrator.cli.failure import CommandFailed, ExitCode, Finding
from orchestrator.cli.fleet_api import FleetApi
from orchestrator.cli.inquiring import InquiryFailed, ask_once
from orchestrator.contract.connection import OrchestratorRefused, OrchestratorUnreachable
from orchestrator.contract.inquiry import Probe, Trace, TraceAnswer, TraceArrival, TraceArrivalAnswer, Verdict
from orchestrator.contract.node import NodeKind
from orchestrator.contract.operator import NODE_LIST, NODES
from orchestrator.contract.pool import MAX_OWNERS


@dataclass(frozen=True, slots=True)
class Hop:
    """A proxy that the packet would reach."""

    node: str
    answer: TraceArrivalAnswer | None
    problem: Finding | None = None
    """Why it did not tell."""


@dataclass(frozen=True, slots=True)
class Path:
    """A packet's way from one L4 node on."""

    node: str
    answer: TraceAnswer
    hops: tuple[Hop, ...] = ()


@dataclass(slots=True)
class Traced:
    """All that the nodes said."""

    probe: Probe
    paths: list[Path] = field(default_factory=list)
    failures: dict[str, Finding] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "packet": self.probe.model_dump(mode="json"),
            "nodes": [
                {
                    "node": path.node,
                    **path.answer.model_dump(mode="json"),
                    "hops": [_hop_as_json(hop) for hop in path.hops],
                }
                for path in self.paths
            ],
            "failures": {node: finding.message for node, finding in self.failures.items()},
        }


async def trace_everywhere(api: FleetApi, probe: Probe, nodes: tuple[str, ...]) -> Traced:
    """Asks the given L4 nodes, or all that report. A proxy among the nodes is asked whatever the chain says.

    Raises as `FleetApi`, and CommandFailed for a node that is not there.
    """
    kinds = {node.name: node.kind for node in await api.listed(NODES, NODE_LIST)}
    for node in nodes:
        if node not in kinds:
            hint = "`edgectl get nodes` lists them"
            raise CommandFailed(ExitCode.FAILED, Finding("not_found", f"there is no node {node!r}", hint=hint))
    proxies = tuple(node for node in nodes if kinds[node] is NodeKind.PROXY)
    asked = tuple(node for node in nodes if kinds[node] is NodeKind.L4) or await l4_nodes(api)
    traced = Traced(probe)
    answers: dict[str, TraceAnswer] = {}

    async def ask(node: str) -> None:
        try:
            answers[node] = await ask_once(api, node, Trace(probe=probe), TraceAnswer)
        except InquiryFailed as failed:
            traced.failures[node] = failed.finding
        except OrchestratorRefused as refused:
            first = refused.problems[0]
            traced.failures[node] = Finding(first.code, f"{node}: {first.message}", hint=first.hint)
        except OrchestratorUnreachable as away:
            traced.failures[node] = Finding("unreachable", f"{node}: {away}", hint="ask again")

    async with trio.open_nursery() as nursery:
        for node in asked:
            nursery.start_soon(ask, node)
    for node in sorted(answers):
        answer = answers[node]
        hops = await _walk(api, answer, proxies) if _is_tunnelled(answer) else ()
        traced.paths.append(Path(node, answer, hops))
        if proxies:
            break  # what a proxy holds does not depend on who asks
    return traced


def _is_tunnelled(answer: TraceAnswer) -> bool:
    return answer.outer is not None and answer.outer.kind != "l2" and answer.owner is not None


async def _walk(api: FleetApi, answer: TraceAnswer, proxies: tuple[str, ...]) -> tuple[Hop, ...]:
    """The proxies on the packet's way, or those asked for."""
    if proxies:
        return tuple([await _arrive(api, proxy, answer.frame) for proxy in proxies])
    hops: list[Hop] = []
    node, frame = answer.owner, answer.frame
    while node is not None and len(hops) < MAX_OWNERS:
        hop = await _arrive(api, node, frame)
        hops.append(hop)
        if hop.answer is None or hop.answer.verdict is not Verdict.SENT:
            break
        node, frame = hop.answer.next_owner, hop.answer.frame
    return tuple(hops)


async def _arrive(api: FleetApi, node: str, frame: bytes) -> Hop:
    try:
        return Hop(node, await ask_once(api, node, TraceArrival(frame=frame), TraceArrivalAnswer))
    except InquiryFailed as failed:
        return Hop(node, None, failed.finding)
    except OrchestratorRefused as refused:
        first = refused.problems[0]
        return Hop(node, None, Finding(first.code, f"{node}: {first.message}", hint=first.hint))
    except OrchestratorUnreachable as away:
        return Hop(node, None, Finding("unreachable", f"{node}: {away}", hint="ask again"))


def _hop_as_json(hop: Hop) -> dict[str, Any]:
    told = hop.answer.model_dump(mode="json") if hop.answer else {}
    return {"node": hop.node, **told, "problem": hop.problem.message if hop.problem else None}
