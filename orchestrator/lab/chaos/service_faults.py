"""What stands beside the packets' way: a redirector's agent, a backend, the orchestrator."""

import json
from collections.abc import Iterator
from typing import Any, Final

import trio

from orchestrator.contract.node import AgentRole
from orchestrator.contract.operator import BACKEND_LIST, BACKENDS
from orchestrator.lab import checks
from orchestrator.lab.chaos.l4_faults import is_connected
from orchestrator.lab.chaos.observing import under_load, until_seen
from orchestrator.lab.chaos.scenario import Figures, Scenario, Stage, TakesAway
from orchestrator.lab.configuration import BACKEND
from orchestrator.lab.lab import Lab
from orchestrator.lab.operator_api import OperatorApi, Unreachable
from orchestrator.lab.processes import Role

#: Seconds until something that is gone must have been missed.
MISSED_S: Final = 15.0

#: Seconds until all agents have come back to an orchestrator, with the newest revision.
BACK_S: Final = 60.0


async def redirector_killed(stage: Stage) -> Figures:
    """Its program goes on in the kernel. Missed by the orchestrator; started again under the same load."""
    proxy = stage.lab.topology.proxies[0]
    with OperatorApi(stage.lab) as api:
        stage.timeline.strike()
        await trio.to_thread.run_sync(stage.lab.kill_all_of, proxy.name, Role.REDIRECTOR)
        await until_seen(
            f"the orchestrator misses the redirector of {proxy.name}",
            lambda: not is_connected(api, proxy, AgentRole.REDIRECTOR),
            within_s=MISSED_S,
        )
        stage.timeline.detected()
        await trio.to_thread.run_sync(stage.lab.restart_process, proxy.name, Role.REDIRECTOR)
        await until_seen(
            f"the redirector of {proxy.name} again",
            lambda: is_connected(api, proxy, AgentRole.REDIRECTOR),
            within_s=BACK_S,
        )
    await under_load()
    return {}


async def backend_killed(stage: Stage) -> Figures:
    """Detected: every proxy has found it unhealthy."""
    lab = stage.lab
    backend = lab.topology.backends[0]
    proxies = {proxy.name for proxy in lab.topology.proxies}

    def is_out() -> bool:
        (shop,) = (view for view in api.listed(BACKENDS, BACKEND_LIST) if view.name == BACKEND)
        (server,) = (server for server in shop.servers if server.name == backend.name)
        return server.unhealthy_on.keys() >= proxies

    with OperatorApi(lab) as api:
        stage.timeline.strike()
        await trio.to_thread.run_sync(lab.kill_all_of, backend.name, Role.NGINX)
        await until_seen(f"every proxy finds {backend.name} unhealthy", is_out, within_s=MISSED_S)
        stage.timeline.detected()
    await under_load()
    uploads = await trio.to_thread.run_sync(_asked_of, lab, backend.name)
    stage.timeline.lost_with_backend |= {
        seen.connection
        for seen in stage.load.breakages
        if seen.answered_by == backend.name or (seen.asked in uploads and not seen.answered_by)
    }
    return {}


def _asked_of(lab: Lab, server: str) -> set[str]:
    """Paths of the uploads that a backend was given, by the access logs. Each has a path of its own."""
    return {record["path"] for record in _records(lab) if record["server"] == server and record["method"] == "PUT"}


def _records(lab: Lab) -> Iterator[dict[str, Any]]:
    for proxy in lab.topology.proxies:
        for line in (lab.directory(proxy.name) / "access.log").read_text().splitlines():
            yield json.loads(line)


async def orchestrator_killed(stage: Stage) -> Figures:
    """Nobody on the packets' way asks it. Detected: an operator's question is not answered."""
    lab = stage.lab
    control = lab.topology.control.name

    def is_gone() -> bool:
        try:
            api.status()
        except Unreachable:
            return True
        return False

    with OperatorApi(lab) as api:
        stage.timeline.strike()
        await trio.to_thread.run_sync(lab.kill_all_of, control, Role.ORCHESTRATOR)
        await until_seen("the operator's question is not answered", is_gone, within_s=MISSED_S)
        stage.timeline.detected()
    await under_load()
    began = trio.current_time()
    await trio.to_thread.run_sync(lab.restart_process, control, Role.ORCHESTRATOR)
    await until_seen(
        "all agents connected to the new orchestrator",
        lambda: checks.agents_are_up_to_date(lab) is None,
        within_s=BACK_S,
    )
    return {"agents_back_s": round(trio.current_time() - began, 1)}


SCENARIOS: Final = (
    Scenario("redirector-killed", "a proxy's redirector is killed, and started again", redirector_killed),
    Scenario("backend-killed", "a backend is killed", backend_killed, takes_away=TakesAway.BACKEND),
    Scenario("orchestrator-killed", "the orchestrator is killed, and started again", orchestrator_killed),
)
