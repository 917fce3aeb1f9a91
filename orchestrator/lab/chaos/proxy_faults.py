"""Proxies that die, freeze or flap. What they held is lost with them; new flows go elsewhere within a second."""

import time
from typing import Final

import trio

from orchestrator.contract.operator import POOL_LIST, POOLS, TABLE_LIST, TABLES, MemberView
from orchestrator.lab.chaos.observing import flows_of, under_load, until_seen
from orchestrator.lab.chaos.scenario import Figures, Scenario, Stage, TakesAway
from orchestrator.lab.configuration import POOL
from orchestrator.lab.errors import LabError
from orchestrator.lab.operator_api import OperatorApi
from orchestrator.lab.processes import Role
from orchestrator.lab.topology import LabHost

#: Milliseconds until no new flow is given to a proxy that is dead: three probes, a report, a generation.
DEAD_GOAL_MS: Final = 1000.0

#: Seconds until it must have been noticed.
NOTICED_S: Final = 15.0

#: Times that a proxy that flaps goes and comes back, and seconds that it is away and there: a minute in all.
FLAPS: Final = 30
FLAP_S: Final = 1.0

#: Generations that it may cause.
MAX_GENERATIONS: Final = 3


def victim(stage: Stage) -> LabHost:
    return stage.lab.topology.proxies[0]


async def proxy_killed(stage: Stage) -> Figures:
    """All of `edge-l7` is killed: its host answers connections with a reset."""
    proxy = victim(stage)
    with OperatorApi(stage.lab) as api:
        # Frozen first, so that whoever connects between the look and the end has no TLS yet.
        await trio.to_thread.run_sync(stage.lab.freeze_process, proxy.name, Role.PROXY)
        stage.timeline.lost_with_proxy |= await trio.to_thread.run_sync(flows_of, proxy)
        stage.timeline.strike()
        await trio.to_thread.run_sync(stage.lab.kill_all_of, proxy.name, Role.PROXY)
        left_out_ms = await _until_left_out(stage, api, proxy)
    await under_load()
    return {"left_out_ms": left_out_ms}


async def proxy_frozen(stage: Stage) -> Figures:
    """SIGSTOP: the kernel takes connections, and nobody serves them."""
    proxy = victim(stage)
    with OperatorApi(stage.lab) as api:
        stage.timeline.strike()
        await trio.to_thread.run_sync(stage.lab.freeze_process, proxy.name, Role.PROXY)
        stage.timeline.lost_with_proxy |= await trio.to_thread.run_sync(flows_of, proxy)
        left_out_ms = await _until_left_out(stage, api, proxy)
    await under_load()
    return {"left_out_ms": left_out_ms}


async def proxy_flapping(stage: Stage) -> Figures:
    """Its link goes and comes back, every second for a minute."""
    proxy = victim(stage)
    with OperatorApi(stage.lab) as api:
        before = await trio.to_thread.run_sync(newest_generation, api)
        stage.timeline.strike()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_unhealthy, stage, api, proxy)
            for _ in range(FLAPS):
                await trio.to_thread.run_sync(stage.lab.cut_link, proxy.name)
                # What it holds now it may lose: its flows may be told so by others, as those of a host that is gone.
                stage.timeline.lost_with_proxy |= await trio.to_thread.run_sync(flows_of, proxy)
                await trio.sleep(FLAP_S)
                await trio.to_thread.run_sync(stage.lab.heal_link, proxy.name)
                await trio.sleep(FLAP_S)
        after = await trio.to_thread.run_sync(newest_generation, api)
    await under_load()
    return {"generations": after - before}


def expect_few_generations(figures: Figures) -> list[str]:
    made = figures["generations"]
    return [f"{made:g} generations, not {MAX_GENERATIONS} at most"] if made > MAX_GENERATIONS else []


async def _until_unhealthy(stage: Stage, api: OperatorApi, proxy: LabHost) -> None:
    await until_seen(f"{proxy.name} is found dead", lambda: not member_of(api, proxy).healthy, within_s=NOTICED_S)
    stage.timeline.detected()


async def _until_left_out(stage: Stage, api: OperatorApi, proxy: LabHost) -> float:
    """Detected: a majority of the L4 nodes has found it dead, and the orchestrator has acted on it. Milliseconds from
    the fault until every L4 node has read back a table from its kernel that gives the proxy no new flow.
    """
    await _until_unhealthy(stage, api, proxy)
    member = (await trio.to_thread.run_sync(member_of, api, proxy)).id
    nodes = {node.name for node in stage.lab.topology.l4_nodes}

    def is_left_out() -> bool:
        tables = api.listed(TABLES, TABLE_LIST)
        return nodes == {
            view.node for view in tables if view.table.pool == POOL and not view.table.rows_of_member.get(member)
        }

    await until_seen(f"{proxy.name} is given no new flows", is_left_out, within_s=NOTICED_S)
    return round((time.time() - (stage.timeline.struck_at or 0)) * 1000, 1)


def member_of(api: OperatorApi, proxy: LabHost) -> MemberView:
    """As the orchestrator sees it. Raises LabError if it is none."""
    for pool in api.listed(POOLS, POOL_LIST):
        for member in pool.members:
            if pool.name == POOL and member.name == proxy.name:
                return member
    raise LabError(f"{proxy.name} is no member of the pool")


def newest_generation(api: OperatorApi) -> int:
    """Its number: it grows by one with each change of the pool."""
    return max(
        generation.number
        for pool in api.listed(POOLS, POOL_LIST)
        if pool.name == POOL
        for generation in pool.generations
    )


SCENARIOS: Final = (
    Scenario(
        "proxy-killed",
        "a proxy is killed",
        proxy_killed,
        detect_within_ms=DEAD_GOAL_MS,
        takes_away=TakesAway.PROXY,
    ),
    Scenario(
        "proxy-frozen",
        "a proxy is frozen: its kernel takes connections, and nobody serves them",
        proxy_frozen,
        takes_away=TakesAway.PROXY,
    ),
    Scenario(
        "proxy-flapping",
        f"a proxy's link goes and comes back {FLAPS} times in a minute",
        proxy_flapping,
        expect=expect_few_generations,
        takes_away=TakesAway.PROXY,
        may_lose_datagrams=True,
    ),
)
