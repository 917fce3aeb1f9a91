"""`edgectl doctor` against a real orchestrator, with agents that answer as told."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from time import time
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import main
from orchestrator.contract.checkup import CheckResult, Checkup, CheckupAnswer, Severity
from orchestrator.contract.inquiry import Question
from orchestrator.contract.node import AgentRole
from orchestrator.contract.respondent import Post, Respondent
from tests.orchestrator.live_fleet import LiveFleet, agents, orchestrator
from tests.orchestrator.test_edgectl import all_up_to_date, eventually

FINE = CheckResult(id="arp", title="ARP for VIPs", severity=Severity.OK, seen="arp_ignore 1")
WRONG = CheckResult(
    id="rp_filter",
    title="reverse path filter",
    severity=Severity.FAILURE,
    seen="strict",
    expected="loose",
    why="packets [of clients] are dropped",
    mend="sysctl -w net.ipv4.conf.eth0.rp_filter=2",
    fixable=True,
)

#: Node → what is wrong there; changed by tests.
mistakes: dict[str, set[str]] = {}


@dataclass
class Host:
    """Answers checkups: fine, unless there are mistakes."""

    node: str
    role: AgentRole

    async def respond(self, question: Question, post: Post) -> None:
        assert isinstance(question, Checkup)
        assert question.role is self.role
        wrong = mistakes.get(self.node, set())
        if question.fix:
            wrong.discard("rp_filter")
        await post(
            CheckupAnswer(
                results=(FINE, *((WRONG,) if "rp_filter" in wrong else ())),
                interface="eth0",
                mtu=1400 if "mtu" in wrong else 1500,
                applied_version=1,
                wall=time() + (300.0 if "clock" in wrong else 0.0),
                took_s=0.0,
            )
        )


def respondent(node: str, role: AgentRole) -> Respondent | None:
    return None if role is AgentRole.PROXY else Host(node, role)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    with orchestrator(tmp_path_factory.mktemp("fleet")) as made:
        made.respondent = respondent
        assert edgectl(made, "apply", str(made.configuration)).exit_code == 0
        with agents(made):
            eventually(lambda: all_up_to_date(made), "all agents are up to date")
            yield made


@pytest.fixture(autouse=True)
def no_mistakes() -> None:
    mistakes.clear()


def edgectl(fleet: LiveFleet, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--context", str(fleet.operator), *arguments])


def found(fleet: LiveFleet, *arguments: str) -> list[tuple[str, str]]:
    result = edgectl(fleet, "doctor", *arguments, "--json")
    told: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if told["healthy"] else 1)
    return [(finding["node"], finding["id"]) for finding in told["findings"]]


def test_a_healthy_fleet_is_one_line_for_each_node(fleet: LiveFleet) -> None:
    assert found(fleet) == []
    result = edgectl(fleet, "doctor")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["✓", name] for name in ("l4-1", "l4-2", *PROXIES)]
    assert lines[-1] == "nothing found on 5 nodes"


PROXIES = ("proxy-1", "proxy-2", "proxy-3")


def test_findings_are_explained_and_name_their_node(fleet: LiveFleet) -> None:
    mistakes.update({"l4-2": {"rp_filter"}, "proxy-1": {"clock", "mtu"}})
    assert found(fleet) == [("l4-2", "rp_filter"), ("proxy-1", "clock"), ("proxy-1", "mtu")]
    result = edgectl(fleet, "doctor")
    assert result.exit_code == 1
    for words in ("✗ l4-2", "strict", "packets [of clients] are dropped", WRONG.mend, "300.", "ahead"):
        assert str(words) in result.stdout
    assert "3 findings on 2 of 5 nodes; `edgectl doctor --fix` mends 1 of them" in result.stdout


def test_only_the_nodes_that_were_named_are_asked(fleet: LiveFleet) -> None:
    mistakes.update({"l4-2": {"rp_filter"}, "proxy-1": {"clock"}})
    assert found(fleet, "proxy-1", "proxy-2") == [("proxy-1", "clock")]
    assert edgectl(fleet, "doctor", "l4-9").exit_code == 1
    assert "edgectl get nodes" in edgectl(fleet, "doctor", "l4-9").stderr


def test_fix_mends_and_looks_again(fleet: LiveFleet) -> None:
    mistakes.update({"l4-2": {"rp_filter"}})
    assert found(fleet, "--fix") == []
    assert found(fleet) == []
