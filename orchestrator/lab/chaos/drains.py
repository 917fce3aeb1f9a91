"""L4 nodes that are taken out in order: one of several, and all of a site. Nobody may notice at all."""

from typing import Final

import trio

from orchestrator.lab.chaos.observing import strike_and_watch_routes, under_load
from orchestrator.lab.chaos.scenario import Figures, Scenario, Stage
from orchestrator.lab.topology import Attached

#: Seconds until routers have moved away: the drain's own patience with routers that do not, and some.
MOVED_S: Final = 60.0


async def l4_drained(stage: Stage) -> Figures:
    """Detected: the router prefers the other node."""
    node = stage.lab.topology.l4_nodes[0]
    return await _drain(stage, node, (node.name,))


async def site_drained(stage: Stage) -> Figures:
    """Detected: the transit router prefers the other site. Its proxies keep the flows that they have."""
    site = stage.lab.topology.sites[0]
    return await _drain(stage, site.router, ("--site", site.name))


async def _drain(stage: Stage, gateway: Attached, which: tuple[str, ...]) -> Figures:
    began = trio.current_time()

    async def drain() -> None:
        await stage.edgectl.drain_l4(*which)

    await strike_and_watch_routes(stage, [gateway], drain, within_s=MOVED_S)
    drained_s = trio.current_time() - began
    stage.view.event(f"drained after {drained_s:.1f} s")
    await under_load()
    stage.timeline.over()
    await stage.edgectl.undrain_l4(*which)
    return {"drained_s": round(drained_s, 1)}


SCENARIOS: Final = (
    Scenario("l4-drained", "an L4 node is drained and undrained", l4_drained),
    Scenario("site-drained", "all L4 nodes of a site are drained and undrained", site_drained, sites=2),
)
