"""Short requests at a steady rate, whatever the answers take: an open loop, so that slowness shows as slowness."""

import trio

from orchestrator.lab.load.breakage import Broken, ClosedBeforeAnswer
from orchestrator.lab.load.client import Endpoint, LoadClient

#: Short connections under way at once. At the default rate this is what 5 s of total silence would gather.
MAX_UNDER_WAY = 256


async def run_requests(client: LoadClient, endpoints: list[Endpoint]) -> None:
    """Begin connections at the plan's rate until the load ends."""
    if not client.plan.requests_per_second:
        return
    interval_s = client.plan.requests_per_connection / client.plan.requests_per_second
    under_way = trio.Semaphore(MAX_UNDER_WAY)
    due = trio.current_time()
    turn = 0
    async with trio.open_nursery() as nursery:
        while not client.finishing.is_set():
            try:
                under_way.acquire_nowait()
            except trio.WouldBlock:
                client.requests.held_back += 1
            else:
                nursery.start_soon(_connection, client, endpoints[turn % len(endpoints)], under_way)
            turn += 1
            due += interval_s
            with trio.move_on_at(due):
                await client.finishing.wait()


async def _connection(client: LoadClient, endpoint: Endpoint, under_way: trio.Semaphore) -> None:
    try:
        await run_connection(client, endpoint)
    finally:
        under_way.release()


async def run_connection(client: LoadClient, endpoint: Endpoint) -> None:
    """A few requests on one new connection; fewer if the server says goodbye."""
    count = client.requests
    count.connections += 1
    began = trio.current_time()
    connection = None
    try:
        async with await client.connect(endpoint) as connection:
            for _ in range(client.plan.requests_per_connection):
                try:
                    closes = (await client.fetch(connection, client.small)).closes
                except ClosedBeforeAnswer:
                    count.sent_again += 1
                    await client.fetch_again(endpoint, client.small)
                    closes = True
                now = trio.current_time()
                client.answered_in(now - began, connection.name)
                began = now
                count.answered += 1
                if closes:
                    return
    except Broken as broken:
        count.breakages[broken.how] += 1
        client.broke("request", broken, endpoint, connection=connection, age_s=trio.current_time() - began)
