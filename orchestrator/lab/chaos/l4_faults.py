"""L4 nodes that die, fall silent, or lose what announces them. The flows go on by the others."""

from typing import Final

import trio

from orchestrator.contract.node import AgentRole
from orchestrator.lab import checks, fabric, processes, router
from orchestrator.lab.chaos.observing import in_thread, strike_and_watch_routes, under_load, until_seen
from orchestrator.lab.chaos.scenario import Figures, Scenario, Stage
from orchestrator.lab.operator_api import OperatorApi
from orchestrator.lab.processes import Role
from orchestrator.lab.topology import VIP_V4, VIP_V6, LabHost

#: Milliseconds until routers have left an L4 node that is gone: three BFD intervals of 50 ms and what it takes to act.
CUT_GOAL_MS: Final = 250.0

#: Milliseconds from a VIP's withdrawal on a node to the router's kernel.
WITHDRAWAL_GOAL_MS: Final = 50.0

#: Seconds until a killed agent is missed: the orchestrator waits for five reports; and some.
MISSED_S: Final = 15.0

#: Seconds until the kernel has withdrawn the VIPs of an agent that is gone (`dead_man_s`, 30), and some.
DEAD_MAN_S: Final = 45.0

#: Seconds until BIRD runs again and routers have learned the routes anew.
BACK_S: Final = 60.0


def victim(stage: Stage) -> LabHost:
    return stage.lab.topology.l4_nodes[0]


async def power_cut(stage: Stage) -> Figures:
    node = victim(stage)
    await strike_and_watch_routes(stage, [node], in_thread(stage.lab.cut_power, node.name))
    await under_load()
    return {}


async def link_cut(stage: Stage) -> Figures:
    node = victim(stage)
    await strike_and_watch_routes(stage, [node], in_thread(stage.lab.cut_link, node.name))
    await under_load()
    return {}


async def bird_killed(stage: Stage) -> Figures:
    """The session's end tells the router at once; the agent starts BIRD again by itself."""
    node = victim(stage)
    await strike_and_watch_routes(stage, [node], in_thread(processes.kill_named, "bird", node.namespace))
    began = trio.current_time()
    await until_seen(
        f"the routes to {node.name} again",
        lambda: checks.routes_are_complete(stage.lab) is None,
        within_s=BACK_S,
    )
    back_s = trio.current_time() - began
    await under_load()
    return {"back_s": round(back_s, 1)}


async def agent_killed(stage: Stage) -> Figures:
    """The program forwards on, and BIRD announces on. Detected: the orchestrator misses its reports. Later the kernel
    takes the VIPs away, and the other node has all traffic.
    """
    node = victim(stage)

    async def miss() -> None:
        await until_seen(
            f"the orchestrator misses the agent of {node.name}",
            lambda: not is_connected(api, node, AgentRole.BALANCER),
            within_s=MISSED_S,
        )
        stage.timeline.detected()
        stage.view.event(f"the orchestrator misses the agent of {node.name}")

    with OperatorApi(stage.lab) as api:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(miss)
            withdrawn_ms = await strike_and_watch_routes(
                stage,
                [node],
                in_thread(stage.lab.kill_all_of, node.name, Role.BALANCER),
                within_s=DEAD_MAN_S,
                detects=False,
            )
    stage.view.event(f"the kernel has withdrawn its VIPs after {withdrawn_ms / 1000:.1f} s")
    await under_load()
    return {"withdrawn_s": round(withdrawn_ms / 1000, 1)}


def is_connected(api: OperatorApi, host: LabHost, role: AgentRole) -> bool:
    """Whether the orchestrator has heard of an agent lately."""
    return any(
        agent.connected
        for node in api.status().nodes
        for agent in node.agents
        if node.name == host.name and agent.role is role
    )


async def vip_withdrawn(stage: Stage) -> Figures:
    """Both VIPs leave `lo`. The agent is frozen meanwhile: it would put them back."""
    node = victim(stage)
    await trio.to_thread.run_sync(stage.lab.freeze_process, node.name, Role.BALANCER)
    with fabric.netlink(node.namespace) as ipr:
        lo = fabric.index_of(ipr, "lo")

        def withdraw() -> None:
            for vip in (VIP_V4, VIP_V6):
                ipr.addr("del", index=lo, address=str(vip), prefixlen=vip.max_prefixlen)

        await strike_and_watch_routes(stage, [node], in_thread(withdraw))
    await trio.to_thread.run_sync(stage.lab.thaw_process, node.name, Role.BALANCER)
    await under_load()
    return {}


async def bgp_session_reset(stage: Stage) -> Figures:
    """The router closes both sessions with a node, and opens them again."""
    node = victim(stage)
    directory = stage.lab.directory(stage.lab.topology.router_of(node).name)
    await strike_and_watch_routes(stage, [node], in_thread(router.restart_sessions, directory, node))
    await under_load()
    return {}


SCENARIOS: Final = (
    Scenario(
        "l4-power-cut",
        "an L4 node loses power: its link goes down and all its processes die",
        power_cut,
        detect_within_ms=CUT_GOAL_MS,
        may_lose_datagrams=True,
    ),
    Scenario(
        "l4-link-cut",
        "an L4 node is cut off without a word: both ends see their link up",
        link_cut,
        detect_within_ms=CUT_GOAL_MS,
        may_lose_datagrams=True,
    ),
    Scenario("agent-killed", "an L4 node's agent is killed, and stays away until its VIPs are withdrawn", agent_killed),
    Scenario("bird-killed", "an L4 node's BIRD is killed", bird_killed),
    Scenario("bgp-session-reset", "the router resets its sessions with an L4 node", bgp_session_reset),
    Scenario("vip-withdrawn", "the VIPs leave an L4 node", vip_withdrawn, detect_within_ms=WITHDRAWAL_GOAL_MS),
)
