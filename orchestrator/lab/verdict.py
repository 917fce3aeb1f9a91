"""What the demo promised, what it saw, and whether the two agree."""

from typing import Annotated

from pydantic import Field

from orchestrator.contract.base import Contract
from orchestrator.lab.load.messages import BreakageSeen, FlowTally
from orchestrator.lab.load.plan import FlowKind

#: Short requests that a run must have made for its "none failed" to mean something.
LEAST_REQUESTS = 5000

#: Breakages that the result names one by one.
MAX_NAMED = 20


class Drained(Contract):
    """One drain of the demo."""

    name: str
    seconds: float
    """From the operator's command to drained."""
    flows_at_start: int


class DemoResult(Contract):
    """The demo, in numbers."""

    second_chance: bool
    """False: chains were cut to their first owner, to show that the check can fail."""
    flows_wanted: int
    long_flows: int
    """Long flows open at once: the least of the numbers at the two drains' starts and at the cut."""
    ipv6_flows: int
    """Long flows begun over IPv6."""
    flows_begun: int
    flows_completed: int
    flows_broken: int
    requests: int
    """Short requests, answered or failed."""
    requests_failed: int
    second_chances: int
    """Packets that a redirector passed on to the next owner: what would otherwise have ended in a RST."""
    drains: tuple[Drained, ...]
    drains_wanted: int
    l4_failover_ms: float | None
    """From the cut until the router's kernel had no route over the dead node, the slower of the families."""
    slowest_answer_ms: float
    """Of all short and keep-alive requests before the cut: what a normal wait is."""
    slowest_answer_after_cut_ms: float
    """The same since the cut: retransmissions that bridged the failover."""
    longest_lag_ms: float
    """By how much the load generator itself was late: a busy machine, not a broken network."""
    kinds: dict[FlowKind, FlowTally]
    breakages: Annotated[tuple[BreakageSeen, ...], Field(max_length=MAX_NAMED)]
    """The first ones, by name."""
    seconds: float
    """The whole demo, lab up and down included."""


class Check(Contract):
    """One promise."""

    promise: str
    seen: str
    holds: bool


class Verdict(Contract):
    """All promises."""

    holds: bool
    checks: tuple[Check, ...]


def judge(result: DemoResult) -> Verdict:
    """Whether the run was hard enough to count, and whether nothing broke."""
    names = " and ".join(drain.name for drain in result.drains) or "none"
    failover = f"{result.l4_failover_ms:g} ms" if result.l4_failover_ms is not None else "never"
    checks = (
        Check(
            promise="no long flow is reset, cut short, corrupt, refused or silent",
            seen=f"{result.flows_broken} of {result.flows_begun} broken",
            holds=result.flows_broken == 0,
        ),
        Check(
            promise="no short request fails",
            seen=f"{result.requests_failed} of {result.requests} failed",
            holds=result.requests_failed == 0,
        ),
        Check(
            promise=f"{result.drains_wanted} proxies drain under load",
            seen=f"{len(result.drains)} drained: {names}",
            holds=len(result.drains) == result.drains_wanted,
        ),
        Check(
            promise="the router stops using the dead L4 node",
            seen=failover,
            holds=result.l4_failover_ms is not None,
        ),
        Check(
            promise=f"at least {result.flows_wanted} long flows are open at each of these moments",
            seen=str(result.long_flows),
            holds=result.long_flows >= result.flows_wanted,
        ),
        Check(promise="some of them over IPv6", seen=str(result.ipv6_flows), holds=result.ipv6_flows > 0),
        Check(
            promise=f"at least {LEAST_REQUESTS} short requests",
            seen=str(result.requests),
            holds=result.requests >= LEAST_REQUESTS,
        ),
        Check(
            promise="flows that had moved were kept by their second chance",
            seen=f"{result.second_chances} packets",
            holds=result.second_chances > 0,
        ),
    )
    return Verdict(holds=all(check.holds for check in checks), checks=checks)
