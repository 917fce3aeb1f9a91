"""UDP through the edge: flows stick to their proxy, whatever the table says by now."""

import json
import subprocess
from collections.abc import Awaitable, Callable

import pytest
import trio

from orchestrator.contract.operator import StatusView
from orchestrator.lab import Lab, checks
from orchestrator.lab.commands import program
from orchestrator.lab.lab_load import datagram_plan
from orchestrator.lab.load.datagram_process import DatagramProcess, send_datagrams
from orchestrator.lab.load.datagrams import DatagramsSeen

pytestmark = pytest.mark.lab

#: Datagrams of all streams before the change, and after it.
BEFORE = 500
AFTER = 1000

#: Seconds for that many; a second or two on a quiet machine.
PATIENCE_S = 30.0


async def edgectl(lab: Lab, *arguments: str) -> str:
    command = [program("edgectl"), "--context", str(lab.operator), *arguments]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def stream_through(lab: Lab, change: Callable[[], Awaitable[None]]) -> DatagramsSeen:
    """From every client address, before, during and after the change."""

    async def run() -> DatagramsSeen:
        async with trio.open_nursery() as nursery:
            sender: DatagramProcess = await nursery.start(
                send_datagrams, lab.topology.client.namespace, datagram_plan(lab)
            )
            before = await sender.until(lambda seen: seen.sent > BEFORE, within_s=PATIENCE_S, waiting_for="datagrams")
            assert {name for stream in before.streams for name in stream.servers} == {
                host.name for host in lab.topology.proxies
            }
            await change()
            at = sender.last.sent if sender.last else 0
            await sender.until(lambda seen: seen.sent > at + AFTER, within_s=PATIENCE_S, waiting_for="datagrams")
            return await sender.finish()

    return trio.run(run)


def test_a_stream_of_datagrams_loses_nothing_in_a_drain_and_stays_with_its_proxy(lab: Lab) -> None:
    drained = {}

    async def drain_and_undrain() -> None:
        drained.update(json.loads(await edgectl(lab, "drain", "proxy-1", "--json")))
        table = json.loads(await edgectl(lab, "get", "table", "--json"))
        assert all("1" not in view["table"]["rows_of_member"] for view in table["tables"]), "it owns no row"
        await trio.sleep(1)
        await edgectl(lab, "undrain", "proxy-1")

    seen = stream_through(lab, drain_and_undrain)
    assert (seen.lost, seen.duplicated, seen.moved) == (0, 0, 0), seen
    assert drained["state"] == "drained"
    assert drained["uncounted"] == ["echo-v4", "echo-v6"]


def test_new_flows_of_datagrams_go_by_the_new_table(lab: Lab) -> None:
    async def servers() -> set[str]:
        async with trio.open_nursery() as nursery:
            sender: DatagramProcess = await nursery.start(
                send_datagrams, lab.topology.client.namespace, datagram_plan(lab)
            )
            await sender.until(lambda seen: seen.sent > BEFORE, within_s=PATIENCE_S, waiting_for="datagrams")
            return {name for stream in (await sender.finish()).streams for name in stream.servers}

    subprocess.run(
        [program("edgectl"), "--context", str(lab.operator), "drain", "proxy-2"], check=True, capture_output=True
    )
    try:
        assert "proxy-2" not in trio.run(servers)
    finally:
        trio.run(edgectl, lab, "undrain", "proxy-2")


def test_every_proxy_runs_the_echo_and_both_vips_are_announced(lab: Lab) -> None:
    status = StatusView.model_validate_json(trio.run(edgectl, lab, "status", "--json"))
    announced = {vip.name: vip.announced_by for vip in status.vips if vip.protocol == "udp"}
    nodes = tuple(node.name for node in lab.topology.l4_nodes)
    assert announced == {"echo-v4": nodes, "echo-v6": nodes}
    assert checks.agents_are_up_to_date(lab) is None
