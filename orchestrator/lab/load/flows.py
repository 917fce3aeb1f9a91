"""Long flows: one coroutine for each kind, and the lanes that keep them going."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from orchestrator.lab.content import UPLOADS_PATH
from orchestrator.lab.load.breakage import Breakage, Broken, ClosedBeforeAnswer
from orchestrator.lab.load.client import Endpoint, FlowCount, LoadClient
from orchestrator.lab.load.connection import TlsConnection
from orchestrator.lab.load.http import read_head, request_bytes
from orchestrator.lab.load.plan import FlowKind

#: Pause of a lane after breakage, so that a fault does not become a storm of connections.
PAUSE_AFTER_BREAKAGE_S = 1.0

#: Answers that say that an upload was stored (RFC 9110 section 9.3.4).
STORED = (201, 204)

Flow = Callable[[LoadClient, TlsConnection, Endpoint, FlowCount], Awaitable[None]]


async def download(client: LoadClient, connection: TlsConnection, _endpoint: Endpoint, count: FlowCount) -> None:
    """One slow answer."""
    resource = client.random.choice(client.downloads)
    rate = max(1, int(resource.size / client.random.uniform(*client.plan.flow_seconds)))
    try:
        await client.fetch(connection, resource, rate=rate)
    except ClosedBeforeAnswer:
        raise Broken(Breakage.TRUNCATED, "closed before any answer") from None
    count.bytes_checked += resource.size


async def keep_alive(client: LoadClient, connection: TlsConnection, endpoint: Endpoint, count: FlowCount) -> None:
    """Requests with pauses, until the server says goodbye or the load ends."""
    while True:
        began = trio.current_time()
        try:
            closes = (await client.fetch(connection, client.small)).closes
        except ClosedBeforeAnswer:
            count.sent_again += 1
            await client.fetch_again(endpoint, client.small)
            closes = True
        else:
            count.goodbyes += closes
        client.answered_in(trio.current_time() - began, connection.name)
        count.bytes_checked += client.small.size
        if closes or client.finishing.is_set():
            return
        if not await connection.wait_idle(client.random.uniform(*client.plan.keep_alive_interval_s)):
            count.closed_idle += 1
            return


async def upload(client: LoadClient, connection: TlsConnection, _endpoint: Endpoint, count: FlowCount) -> None:
    """One slow request; what was stored is compared with what was sent."""
    plan = client.plan
    size = int(plan.upload_bytes_per_second * client.random.uniform(*plan.flow_seconds))
    body = client.random.randbytes(size)
    name = f"{client.random.getrandbits(64):016x}"
    piece = max(1, int(plan.upload_bytes_per_second * plan.upload_interval_s))
    connection.ask(UPLOADS_PATH + name)
    await connection.send(request_bytes("PUT", UPLOADS_PATH + name, plan.host, body_length=size))
    for offset in range(0, size, piece):
        await connection.send(body[offset : offset + piece])
        await trio.sleep(plan.upload_interval_s)
        connection.check_acknowledged()
    try:
        head, _ = await read_head(connection)
    except ClosedBeforeAnswer:
        raise Broken(Breakage.TRUNCATED, "closed before any answer") from None
    if head.status not in STORED:
        raise Broken(Breakage.UNEXPECTED_ANSWER, f"HTTP {head.status}, 201 was due")
    check_stored(plan.uploads_directory / name, body)
    count.bytes_checked += size


def check_stored(path: Path, body: bytes) -> None:
    """Compare, and remove, what a backend stored. Raises Broken. Some ten kilobytes from memory: it does not block."""
    try:
        stored = path.read_bytes()
        path.unlink()
    except FileNotFoundError:
        raise Broken(Breakage.CORRUPT, "answered as stored, but nothing was") from None
    if hashlib.sha256(stored).digest() != hashlib.sha256(body).digest():
        raise Broken(Breakage.CORRUPT, f"{len(stored)} bytes were stored, not the {len(body)} that were sent")


FLOWS: dict[FlowKind, Flow] = {
    FlowKind.DOWNLOAD: download,
    FlowKind.KEEP_ALIVE: keep_alive,
    FlowKind.UPLOAD: upload,
}


async def run_flow(client: LoadClient, kind: FlowKind, endpoint: Endpoint) -> bool:
    """One flow from its first SYN to its end; whether it ended as it should. What it saw is in the client's count."""
    count = client.flows[kind]
    count.begun += 1
    count.ipv6 += endpoint.is_ipv6
    began = trio.current_time()
    connection = None
    try:
        async with await client.connect(endpoint) as connection:
            count.open += 1
            try:
                await FLOWS[kind](client, connection, endpoint, count)
            finally:
                count.open -= 1
                count.longest_silence_s = max(count.longest_silence_s, connection.longest_silence_s)
    except Broken as broken:
        count.breakages[broken.how] += 1
        client.broke(kind, broken, endpoint, connection=connection, age_s=trio.current_time() - began)
        return False
    count.completed += 1
    return True


async def run_lane(client: LoadClient, kind: FlowKind, endpoint: Endpoint, start_after_s: float) -> None:
    """Flow after flow, until the load ends."""
    with trio.move_on_after(start_after_s):
        await client.finishing.wait()
    while not client.finishing.is_set():
        if not await run_flow(client, kind, endpoint):
            with trio.move_on_after(PAUSE_AFTER_BREAKAGE_S):
                await client.finishing.wait()
