"""A SYN flood from the client network, from many sources, as fast as one core sends."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from orchestrator.contract.node import AgentRole
from orchestrator.lab.agent_counters import counters_of
from orchestrator.lab.chaos.scenario import Figures, Scenario, Stage
from orchestrator.lab.child import child_process, lines
from orchestrator.lab.errors import LabError
from orchestrator.lab.fabric import run_in
from orchestrator.lab.lab import Lab
from orchestrator.lab.load.flood import SOURCES, FloodSent
from orchestrator.lab.processes import NAMESPACES
from orchestrator.lab.topology import HOST_INTERFACE, VIP_PORT, VIP_V4, VIP_V6

FLOOD_S: Final = 15.0

#: New flows per second and VIP that each L4 node admits during the flood: what the lab's proxies can take beside their
#: work, on two cores for everything.
SYN_LIMIT: Final = 500

#: Counters of the balancer that tell what became of SYNs.
TOLD: Final = ("forwarded", "syn_source_limit", "syn_vip_limit", "new_flow_limit", "syn_retransmissions")


async def play(stage: Stage) -> Figures:
    """Flood, and count what the L4 nodes made of it."""
    before = await trio.to_thread.run_sync(_counters, stage.lab)
    with _nowhere_to_answer(stage.lab):
        await stage.edgectl.guard("limit", "vip", str(SYN_LIMIT))
        try:
            sent = await _flood(stage)
        finally:
            with trio.CancelScope(shield=True):
                await stage.edgectl.guard("reset")
    after = await trio.to_thread.run_sync(_counters, stage.lab)
    stage.view.event(f"{sent.packets} SYNs sent, {sent.per_second:.0f} a second")
    return {
        "syns_sent": sent.packets,
        "syns_per_second": round(sent.per_second),
        **{name: after[name] - before[name] for name in TOLD},
    }


async def _flood(stage: Stage) -> FloodSent:
    lab = stage.lab
    client = lab.topology.client
    command = [
        *("nsenter", f"--net={NAMESPACES / client.namespace}", "--"),
        *(sys.executable, "-m", "orchestrator.lab.load.flood", "--interface", HOST_INTERFACE),
        *("--own-mac", _mac(client.namespace, HOST_INTERFACE)),
        *("--router-mac", _mac(lab.topology.entry.namespace, client.network.bridge)),
        *("--v4", str(VIP_V4), "--v6", str(VIP_V6), "--port", str(VIP_PORT), "--seconds", str(FLOOD_S)),
    ]
    async with child_process(command) as child:
        told = [line async for line in lines(child.stdout)]
        if await child.wait() != 0:
            complaints = [line async for line in lines(child.stderr)]
            raise LabError(f"the flood's sender failed: {' '.join(complaints[-3:])}")
    return FloodSent.model_validate_json(told[-1])


def _mac(namespace: str, interface: str) -> str:
    (link,) = json.loads(run_in(namespace, ["ip", "-json", "link", "show", "dev", interface]))
    return str(link["address"])


@contextmanager
def _nowhere_to_answer(lab: Lab) -> Iterator[None]:
    """The router swallows what is sent to the flood's sources: nobody is there to say no."""
    router = lab.topology.entry.namespace
    for network in SOURCES:
        run_in(router, ["ip", "route", "add", "blackhole", str(network)])
    try:
        yield
    finally:
        for network in SOURCES:
            run_in(router, ["ip", "route", "del", "blackhole", str(network)])


def _counters(lab: Lab) -> Counter[str]:
    total: Counter[str] = Counter()
    for node in lab.topology.l4_nodes:
        total.update({name: int(value) for name, value in counters_of(node, AgentRole.BALANCER).items()})
    return total


def expect(figures: Figures) -> list[str]:
    dropped = figures["syn_source_limit"] + figures["syn_vip_limit"] + figures["new_flow_limit"]
    return [] if dropped else ["no counter says that a SYN was dropped"]


SCENARIO: Final = Scenario(
    "syn-flood",
    "a SYN flood from many sources, beside new and old flows",
    play,
    expect=expect,
    may_lose_datagrams=True,
)
