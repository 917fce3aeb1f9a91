"""News of members cannot wait for the next look: the orchestrator looks at once."""

from pathlib import Path

import pytest
import trio

from orchestrator.contract.node import AgentRole
from orchestrator.contract.report import MemberProbe, ProbeVerdict, Report
from orchestrator.fleet import control as control_module
from orchestrator.fleet.control import Control
from tests.orchestrator.fleets import agent, balancer_status, files
from tests.orchestrator.live_orchestrator import create


def tell(control: Control, verdict: ProbeVerdict) -> None:
    """Both L4 nodes see the second member so, and the others healthy."""
    healthy = MemberProbe(verdict=ProbeVerdict.HEALTHY, detail="seen", since_s=100)
    probes = {1: healthy, 2: healthy.model_copy(update={"verdict": verdict}), 3: healthy}
    status = balancer_status().model_copy(update={"probes": probes})
    for node in ("l4-1", "l4-2"):
        report = Report(applied_version=1, nack=None, status=status)
        control.take_report(agent(node, AgentRole.BALANCER), report)


async def test_a_verdict_that_changes_is_acted_on_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "TICK_S", 3600.0)
    live = await create(tmp_path)
    async with live.running() as control:
        await control.apply(files())
        for verdict, is_healthy in ((ProbeVerdict.HEALTHY, True), (ProbeVerdict.UNHEALTHY, False)):
            tell(control, verdict)
            with trio.fail_after(30):
                while True:
                    health = control.present.fleet.members[1].health
                    if health.seen_healthy and health.healthy is is_healthy:
                        break
                    await trio.sleep(0.01)
        members = control.present.fleet.pools[0].generations[0].generation.members
        assert [member.id for member in members] == [1, 3]
