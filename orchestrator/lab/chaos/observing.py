"""How scenarios cause a fault and see the fleet act on it: by the router's route events, or as an operator sees it."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from orchestrator.lab.chaos.scenario import Stage
from orchestrator.lab.errors import LabError
from orchestrator.lab.fabric import run_in
from orchestrator.lab.failover import LONGEST_FAILOVER_S, FailoverWatch, watch_failover
from orchestrator.lab.load.breakage import SILENCE_BOUND_S
from orchestrator.lab.topology import VIP_PORT, VIP_V4, VIP_V6, Attached, LabHost

#: Seconds of load on a fault before it is undone: what has fallen silent counts as broken by then.
OBSERVED_S: Final = SILENCE_BOUND_S + 1.0

#: Seconds between two looks, where nobody tells of events.
LOOK_S: Final = 0.02


async def strike_and_watch_routes(
    stage: Stage,
    gateways: Sequence[Attached],
    fault: Callable[[], Awaitable[object]],
    *,
    within_s: float = LONGEST_FAILOVER_S,
    detects: bool = True,
) -> float:
    """Causes a fault, and waits until no VIP's route in their router's kernel leads to these any more.

    Milliseconds, of the slower family; the timeline has the fault and, if this is how it is noticed (`detects`), its
    detection. Raises LabError if the routes stay.
    """
    watch = FailoverWatch(
        gateways=frozenset(str(interface.ip) for host in gateways for interface in host.addresses),
        vips=frozenset({str(VIP_V4), str(VIP_V6)}),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_failover, stage.lab.topology.router_of(gateways[0]).namespace, watch, within_s)
        watch.cut_at = stage.timeline.strike()
        nursery.start_soon(fault)
    if watch.milliseconds is None:
        names = ", ".join(host.name for host in gateways)
        raise LabError(f"the router's routes still lead to {names}, {within_s:g} s after the fault")
    if detects:
        stage.timeline.detected_at = watch.cut_at + watch.milliseconds / 1000
    return watch.milliseconds


def in_thread(fault: Callable[..., object], *arguments: object) -> Callable[[], Awaitable[object]]:
    """A fault that blocks, as one that does not."""
    return partial(trio.to_thread.run_sync, fault, *arguments)


async def until_seen(what: str, look: Callable[[], bool], *, within_s: float) -> None:
    """Looks, in a thread, until it is so. Raises LabError if that takes too long."""
    with trio.move_on_after(within_s):
        while not await trio.to_thread.run_sync(look):  # noqa: ASYNC110 - nobody tells of it
            await trio.sleep(LOOK_S)
        return
    raise LabError(f"{what}: not within {within_s:g} s")


async def under_load(seconds: float = OBSERVED_S) -> None:
    """Lets the load meet the fault."""
    await trio.sleep(seconds)


def flows_of(proxy: LabHost) -> frozenset[str]:
    """Clients' ends of the connections that a proxy's kernel holds for the VIPs, as clients name them."""
    told = run_in(proxy.namespace, ["ss", "-Htna", "state", "connected", f"( sport = :{VIP_PORT} )"])
    return frozenset(line.split()[4] for line in told.splitlines())
