"""Run inside a namespace of `edge.Edge`: a balancer agent whose second snapshot fails half-way. Prints what it sees."""

import sys
from pathlib import Path

import trio

from l4.attachment import XdpMode
from l4.balancer import BalancerAgent
from l4.bird import Bird
from orchestrator.contract.client import SnapshotRefused
from orchestrator.contract.vip import Vip
from tests.l4.edge import ACTIVE, DRAINED, VIPS, balancer_snapshot

#: More than the program was loaded for, which the kernel part only finds out when tables and members are set already.
TOO_MANY = tuple(
    Vip(**(VIPS[0].model_dump() | {"name": f"vip-{port}", "id": port + 10, "port": port})) for port in range(1000, 3000)
)


async def scenario(directory: Path) -> None:
    agent = BalancerAgent(
        interface="eth0", bpffs=directory / "bpf", xdp_mode=XdpMode.AUTO, bird=Bird(directory / "bird")
    )
    await agent.apply(balancer_snapshot(1, ACTIVE))
    before = await agent.status()
    try:
        await agent.apply(balancer_snapshot(2, DRAINED).model_copy(update={"vips": (*VIPS, *TOO_MANY)}))
    except SnapshotRefused as refusal:
        print(refusal)
    after = await agent.status()
    assert after.tables == before.tables
    assert after.announced == before.announced == ("web-v4", "web-v6")
    assert after.counters["snapshots_refused"] == 1
    assert agent.snapshot == balancer_snapshot(1, ACTIVE)
    print("as before")


trio.run(scenario, Path(sys.argv[1]))
