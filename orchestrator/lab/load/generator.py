"""The load generator: lanes and requests side by side, told about twice a second."""

import time
from collections.abc import AsyncIterator, Callable
from random import Random

import trio

from orchestrator.lab.load.client import Endpoint, LoadClient
from orchestrator.lab.load.connection import client_context
from orchestrator.lab.load.flows import run_lane
from orchestrator.lab.load.messages import FINISH, Message, Tick
from orchestrator.lab.load.plan import LoadPlan
from orchestrator.lab.load.requests import run_requests

TICK_S = 0.5


def endpoints_of(plan: LoadPlan) -> list[Endpoint]:
    """Every target from every client address, targets in turn: neighbours in the list differ in family."""
    longest = max(len(target.sources) for target in plan.targets)
    return [
        Endpoint(str(target.address), target.port, str(target.sources[turn % len(target.sources)]))
        for turn in range(longest)
        for target in plan.targets
    ]


async def generate(
    plan: LoadPlan,
    commands: AsyncIterator[str],
    tell: Callable[[Message], None],
    *,
    unix_time: Callable[[], float] = time.time,
) -> None:
    """Make the load until `FINISH` is commanded and all has ended; stop at once when the commands end.

    Raises OSError if the plan's CA file cannot be read.
    """
    client = LoadClient(
        plan,
        client_context(str(plan.ca_file)),
        random=Random(plan.seed),  # noqa: S311 - repeatable load, no secret
        unix_time=unix_time,
        tell=tell,
        tell_slow=tell,
    )
    async with trio.open_nursery() as outer:
        outer.start_soon(_ticks, client, tell, unix_time)
        outer.start_soon(_obey, client, commands, outer.cancel_scope)
        async with trio.open_nursery() as load:
            endpoints = endpoints_of(plan)
            lanes = [kind for kind, number in plan.lanes.items() for _ in range(number)]
            # Each lane starts in a random place of the ramp, so that kinds and families come up side by side.
            for number, kind in enumerate(lanes):
                start = client.random.uniform(0, plan.ramp_s)
                load.start_soon(run_lane, client, kind, endpoints[number % len(endpoints)], start)
            load.start_soon(run_requests, client, endpoints)
        outer.cancel_scope.cancel()
    tell(_tick(client, unix_time(), lag_s=0.0, finished=True))


async def _ticks(client: LoadClient, tell: Callable[[Message], None], unix_time: Callable[[], float]) -> None:
    due = trio.current_time()
    while True:
        due += TICK_S
        await trio.sleep_until(due)
        lag_s = trio.current_time() - due
        tell(_tick(client, unix_time(), lag_s=lag_s, finished=False))
        due += max(0.0, lag_s)


def _tick(client: LoadClient, at: float, *, lag_s: float, finished: bool) -> Tick:
    return Tick(
        at=at,
        finished=finished,
        flows={kind: count.tally() for kind, count in client.flows.items()},
        requests=client.requests.tally(),
        slowest_answer_s=round(client.take_slowest_answer(), 4),
        lag_s=round(lag_s, 4),
    )


async def _obey(client: LoadClient, commands: AsyncIterator[str], everything: trio.CancelScope) -> None:
    async for command in commands:
        if command == FINISH:
            client.finishing.set()
    # Whoever started this process is gone, or wants it gone.
    everything.cancel()
