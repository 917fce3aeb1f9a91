"""A whole site is gone: its clients come to the other, and the flows of its own proxies are lost with them."""

from typing import Final

import trio

from orchestrator.lab.chaos.observing import flows_of, in_thread, strike_and_watch_routes, under_load
from orchestrator.lab.chaos.scenario import Figures, Scenario, Stage, TakesAway

#: Milliseconds until the transit router has left the site: three BFD intervals of 50 ms and what it takes to act.
CUT_GOAL_MS: Final = 250.0


async def site_cut(stage: Stage) -> Figures:
    """The site's uplink is cut without a word: from clients, backends, the orchestrator and the other site."""
    site = stage.lab.topology.sites[-1]
    await strike_and_watch_routes(stage, [site.router], in_thread(stage.lab.cut_site, site.name))
    # No new flow comes there any more, and none of the old ones has ended there: its proxies have heard of nothing.
    for proxy in site.proxies:
        stage.timeline.lost_with_proxy |= await trio.to_thread.run_sync(flows_of, proxy)
    await under_load()
    return {}


SCENARIOS: Final = (
    Scenario(
        "site-cut",
        "a whole site is cut off",
        site_cut,
        sites=2,
        detect_within_ms=CUT_GOAL_MS,
        takes_away=TakesAway.PROXY,
        may_lose_datagrams=True,
    ),
)
