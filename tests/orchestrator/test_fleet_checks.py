"""What only a comparison of nodes tells: pure functions."""

import pytest

from orchestrator.cli import fleet_checks
from orchestrator.cli.fleet_checks import Answered, Clock
from orchestrator.contract.checkup import CheckupAnswer, Severity
from orchestrator.contract.node import AgentRole, NodeKind
from orchestrator.contract.operator import AgentView, NodeView, StatusView, TableView, VipView
from orchestrator.contract.report import Nack
from tests.orchestrator.live_fleet import table

#: Unix time at which everything happens.
NOW = 1_795_254_000.0


def answered(*, mtu: int | None = 1500, ahead_s: float = 0.0, took_s: float = 1.0, way_s: float = 0.2) -> Answered:
    """An answer of a node whose clock is `ahead_s` ahead; `way_s` is that of the question and of the answer each."""
    answer = CheckupAnswer(
        results=(),
        interface="eth0",
        mtu=mtu,
        applied_version=1,
        wall=NOW + way_s + took_s + ahead_s,
        took_s=took_s,
    )
    return Answered(answer, NOW, NOW + took_s + 2 * way_s)


def node(*agents: AgentView) -> NodeView:
    return NodeView(name="l4-1", kind=NodeKind.L4, address="198.18.1.11", site="main", agents=agents, state=None)


def agent(*, connected: bool = True, version: int | None = 5, nack: Nack | None = None) -> AgentView:
    return AgentView(
        role=AgentRole.BALANCER,
        connected=connected,
        report_age_s=0.5 if connected else 71.0,
        applied_version=version,
        up_to_date=version == 5,
        nack=nack,
    )


def status(*nodes: NodeView) -> StatusView:
    return StatusView(now=NOW, revision=5, configured=True, nodes=nodes, pools=(), vips=(), drains=(), warnings=())


def found(one: AgentView, unanswered: str | None = None) -> list[tuple[str, str]]:
    host = node(one)
    silent = {AgentRole.BALANCER: unanswered} if unanswered else {}
    return [(result.id, result.seen) for result in fleet_checks.agents(status(host), host, silent) if result.is_finding]


def test_an_agent_that_reports_and_answers_is_fine() -> None:
    assert found(agent()) == []


def test_a_silent_agent_is_a_finding_that_says_how_to_look_without_it() -> None:
    assert found(agent(connected=False)) == [("agent_silent", "balancer has not reported for 71 s")]
    host = node(agent(connected=False))
    (result,) = fleet_checks.agents(status(host), host, {})
    assert "on l4-1: there, run `edge-l4 doctor" in (result.advice or "")


def test_an_agent_that_reports_and_does_not_answer_is_told() -> None:
    assert found(agent(), "it took the question and fell silent") == [
        ("agent_silent", "balancer reports, and does not answer: it took the question and fell silent")
    ]


def test_an_agent_that_is_silent_and_behind_has_both_told() -> None:
    assert [identity for identity, _ in found(agent(connected=False, version=3))] == ["agent_silent", "stale_snapshot"]
    assert found(agent(version=3)) == [("stale_snapshot", "balancer runs revision 3, the fleet is at 5")]


def test_a_refused_revision_is_told_with_its_reason() -> None:
    refusal = Nack(version=5, reason="no interface eth9")
    assert found(agent(version=4, nack=refusal)) == [
        ("snapshot_refused", "balancer refused revision 5: no interface eth9")
    ]


def test_a_node_that_nobody_joined_is_told() -> None:
    host = node()
    (result,) = fleet_checks.agents(status(host), host, {})
    assert result.seen == "no agent of l4-1 has ever joined"


#: The asking machine's clock is the orchestrator's.
SAME = Clock(NOW - 0.1, NOW, NOW + 0.1)


@pytest.mark.parametrize(
    ("ahead_s", "severity"),
    [
        *((seconds, Severity.OK) for seconds in (0.0, 1.5, -1.5)),
        *((seconds, Severity.WARNING) for seconds in (3.0, -3.0)),
        *((seconds, Severity.FAILURE) for seconds in (300.0, -300.0)),
    ],
)
def test_a_clock_is_judged_by_what_is_certain(ahead_s: float, severity: Severity) -> None:
    assert fleet_checks.clock(SAME, answered(ahead_s=ahead_s)).severity is severity


def test_a_checkup_that_took_long_and_a_slow_way_blame_no_clock() -> None:
    assert not fleet_checks.clock(SAME, answered(took_s=60.0)).is_finding
    slow = fleet_checks.clock(SAME, answered(ahead_s=3.0, way_s=5.0))
    assert not slow.is_finding, slow.seen


def test_the_clock_of_the_asking_machine_does_not_count() -> None:
    five_minutes_behind = Clock(NOW - 0.1, NOW + 300.0, NOW + 0.1)
    assert not fleet_checks.clock(five_minutes_behind, answered(ahead_s=300.0)).is_finding
    result = fleet_checks.clock(five_minutes_behind, answered())
    assert result.severity is Severity.FAILURE
    assert result.seen.startswith("300.0 s behind")


def test_the_mtu_that_is_less_than_that_of_most_is_a_finding() -> None:
    nodes = {"l4-1": answered(mtu=1400), "l4-2": answered(), "proxy-1": answered(), "proxy-2": answered(mtu=9000)}
    results = fleet_checks.mtus(nodes)
    assert {name: len(found) for name, found in results.items()} == {"l4-1": 1, "l4-2": 0, "proxy-1": 0, "proxy-2": 0}
    assert results["l4-1"][0].mend == "ip link set dev eth0 mtu 1500"
    assert not any(fleet_checks.mtus({"a": answered(mtu=1460), "b": answered(mtu=1460)}).values()), "all are alike"
    assert not any(fleet_checks.mtus({"a": answered(mtu=1400), "b": answered(mtu=None)}).values())


def test_tables_that_ought_to_be_alike_and_are_not() -> None:
    def held(name: str, digest: str, version: int = 5, *generations: int) -> TableView:
        changed = table("edge", *(generations or (2, 1))).model_copy(update={"digest": digest * 32})
        return TableView(node=name, applied_version=version, report_age_s=0.1, table=changed)

    alike = [held("l4-1", "ab"), held("l4-2", "ab"), held("l4-3", "cd")]
    results = fleet_checks.tables(alike)
    assert [*results] == ["l4-3"]
    assert results["l4-3"][0].id == "table"
    assert fleet_checks.tables([held("l4-1", "ab"), held("l4-2", "cd", 4)]) == {}, "of another revision"
    assert fleet_checks.tables([held("l4-1", "ab"), held("l4-2", "cd", 5, 1, 2)]) == {}, "in another order"


def test_vips_that_are_kept_back_and_those_of_a_last_announcer_are_told_apart() -> None:
    def view(name: str, **reasons: dict[str, str]) -> VipView:
        fields = {"id": 1, "address": "203.0.113.10", "port": 443, "mode": "passthrough", "tls": True, "pool": "edge"}
        return VipView.model_validate(fields | {"name": name, "announced_by": (), "withheld_by": {}} | reasons)

    views = (
        view("web", withheld_by={"l4-1": "no table"}),
        view("mail", announced_despite_by={"l4-1": "no member answers"}),
        view("dns", announced_despite_by={"l4-2": "no table"}, withheld_by={"l4-2": "no table"}),
    )
    seen = status().model_copy(update={"vips": views})
    assert [(result.id, result.seen) for result in fleet_checks.vips(seen, node(agent()))] == [
        ("vip_withheld", "web not announced: no table"),
        ("vip_despite", "mail announced as the last one, although: no member answers"),
    ]
