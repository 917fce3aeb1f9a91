"""`edgectl restart` of every proxy, three times, under load: nobody notices.

To put more clients under it, add an async context manager to `CLIENTS`: it takes the lab, makes its load while the
block runs, and raises AssertionError at its end if anything failed.
"""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest
import trio

from orchestrator.contract.node import AgentRole
from orchestrator.contract.operator import AgentView, StatusView
from orchestrator.lab import HOST_NAME, VIP_PORT, VIP_V4, VIP_V6, Lab, checks
from orchestrator.lab.child import child_process
from orchestrator.lab.commands import program
from orchestrator.lab.lab_load import load_plan
from orchestrator.lab.load.process import LoadProcess, run_load
from orchestrator.lab.processes import NAMESPACES, Role
from tests.lab import http2_load

pytestmark = pytest.mark.lab

ROUNDS = 3
#: Long flows at any time (downloads and uploads of 10 to 14 s, kept connections), and short requests.
FLOWS = 40
REQUESTS_PER_S = 10.0
#: Of the old incarnations. Twice what the longest flow takes, and the spread of its goodbyes and the wait after them.
GRACE_S = 60
PATIENCE_S = 90.0


@asynccontextmanager
async def http1_clients(lab: Lab) -> AsyncIterator[None]:
    """Downloads, uploads, kept connections and short ones, over both families, every byte checked."""
    async with trio.open_nursery() as nursery:
        plan = load_plan(lab, FLOWS, REQUESTS_PER_S)
        load: LoadProcess = await nursery.start(run_load, lab.topology.client.namespace, plan, lambda _message: None)
        await load.until(lambda tick: tick.open_flows >= FLOWS, within_s=30, waiting_for=f"{FLOWS} open flows")
        yield
        await load.finish()
        last = await load.until(lambda tick: tick.finished, within_s=PATIENCE_S, waiting_for="end of the load")
    flows = last.flows.values()
    print(
        f"HTTP/1.1: {sum(each.completed for each in flows)} flows, {last.requests.answered} short requests, "
        f"{sum(each.goodbyes for each in flows)} goodbyes, {sum(each.closed_idle for each in flows)} closed idle, "
        f"{sum(each.sent_again for each in flows)} sent again; broken {load.breakages}"
    )
    assert load.breakages == []
    assert sum(each.broken for each in flows) == 0
    assert last.requests.failed == 0
    assert last.requests.answered > 100
    assert sum(each.goodbyes for each in flows) > 0, "connections were told to leave"


@asynccontextmanager
async def http2_clients(lab: Lab) -> AsyncIterator[None]:
    """Some connections with several requests at a time, over both families."""
    command = ["nsenter", f"--net={NAMESPACES / lab.topology.client.namespace}", "--"]
    command += [sys.executable, http2_load.__file__, str(lab.ca), HOST_NAME, str(VIP_PORT), str(VIP_V4), str(VIP_V6)]
    async with child_process(command) as child:
        yield
        await child.stdin.aclose()
        with trio.fail_after(PATIENCE_S):
            told = b"".join([chunk async for chunk in child.stdout])
            complaints = b"".join([chunk async for chunk in child.stderr])
    assert told, complaints.decode()
    seen = json.loads(told)
    print(f"HTTP/2: {seen}")
    assert seen["failures"] == {}
    assert seen["answered"] > 100
    assert seen["goaways"] > 0, "connections were told to leave"


CLIENTS: tuple[Callable[[Lab], AbstractAsyncContextManager[None]], ...] = (http1_clients, http2_clients)


def edgectl(lab: Lab, *arguments: str) -> str:
    command = [program("edgectl"), "--context", str(lab.operator), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * 4, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def proxies(lab: Lab) -> dict[str, AgentView]:
    status = StatusView.model_validate_json(edgectl(lab, "status", "--json"))
    return {node.name: agent for node in status.nodes for agent in node.agents if agent.role is AgentRole.PROXY}


async def until_proxies(lab: Lab, holds: Callable[[dict[str, AgentView]], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not holds(await trio.to_thread.run_sync(proxies, lab)):  # noqa: ASYNC110
            await trio.sleep(0.5)


def nobody_leaves(agents: dict[str, AgentView]) -> bool:
    return not any(agent.leaving for agent in agents.values())


def test_every_proxy_is_restarted_three_times_under_load(lab: Lab) -> None:
    trio.run(_restart_under_load, lab)
    no_complaints(lab)


async def _restart_under_load(lab: Lab) -> None:
    names = [host.name for host in lab.topology.proxies]
    before = {name: lab.process(name, Role.PROXY).pid for name in names}
    first = {name: agent.incarnation or 0 for name, agent in proxies(lab).items()}
    async with AsyncExitStack() as stack:
        for clients in CLIENTS:
            await stack.enter_async_context(clients(lab))
        for number in range(1, ROUNDS + 1):
            told = json.loads(
                await trio.to_thread.run_sync(edgectl, lab, "restart", "--all", "--grace", str(GRACE_S), "--json")
            )
            assert [(one["node"], one["incarnation"]) for one in told["restarted"]] == [
                (name, first[name] + number) for name in names
            ]
            # Nobody's health suffered: whoever was active is active.
            assert checks.members_serve(lab) is None
            await until_proxies(lab, nobody_leaves)
    assert {name: lab.process(name, Role.PROXY).pid for name in names} == before


def no_complaints(lab: Lab) -> None:
    for host in lab.topology.proxies:
        log = lab.log(host.name, Role.PROXY).read_text()
        assert "did not end in time" not in log
        assert "connections still open" not in log, "everybody left by itself"


def test_a_node_that_is_down_is_named_before_anything_is_restarted(lab: Lab) -> None:
    first = {name: agent.incarnation for name, agent in proxies(lab).items()}
    lab.kill_all_of("proxy-2", Role.PROXY)
    command = [program("edgectl"), "--context", str(lab.operator), "restart", "--all", "--json"]
    trio.run(until_proxies, lab, lambda agents: not agents["proxy-2"].connected)
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["code"] == "agent_silent"
    assert problem["message"].startswith("proxy-2: ")
    lab.restart_process("proxy-2", Role.PROXY)
    now = proxies(lab)
    assert {name: now[name].incarnation for name in ("proxy-1", "proxy-3")} == {
        name: first[name] for name in ("proxy-1", "proxy-3")
    }
