"""`edgectl restart` against a real orchestrator, with agents that restart as told."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from orchestrator.cli.main import main
from orchestrator.contract.inquiry import Question
from orchestrator.contract.node import AgentRole
from orchestrator.contract.report import LeavingIncarnation
from orchestrator.contract.respondent import InquiryRefused, Post, Respondent
from orchestrator.contract.restart import Restart, RestartAnswer
from tests.orchestrator.live_fleet import LiveFleet, agents, orchestrator
from tests.orchestrator.test_edgectl import all_up_to_date, eventually

PROXIES = ["proxy-1", "proxy-2", "proxy-3"]
LEAVING = LeavingIncarnation(incarnation=1, workers=1, open_flows={"http/1.1": 7}, requests_in_flight=0, ends_in_s=60)


@dataclass
class Proxy:
    """Takes restarts: a new incarnation, unless the test has a reason against it."""

    node: str
    fleet: LiveFleet

    async def respond(self, question: Question, post: Post) -> None:
        assert isinstance(question, Restart)
        asked.append((self.node, question.grace_s))
        if self.node in failing:
            raise InquiryRefused("restart_failed", "incarnation 2 did not come into service: no module", "mend it")
        incarnation = self.fleet.restarted.get(self.node, {}).get("incarnation", 1) + 1
        if self.node not in mute:
            self.fleet.restarted[self.node] = {"incarnation": incarnation, "leaving": leaving.get(self.node)}
        await post(RestartAnswer(incarnation=incarnation, took_s=1.5))


asked: list[tuple[str, float | None]] = []
failing: set[str] = set()
mute: set[str] = set()
leaving: dict[str, LeavingIncarnation] = {}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    with orchestrator(tmp_path_factory.mktemp("fleet")) as made:

        def respondent(node: str, role: AgentRole) -> Respondent | None:
            return Proxy(node, made) if role is AgentRole.PROXY else None

        made.respondent = respondent
        assert edgectl(made, "apply", str(made.configuration)).exit_code == 0
        with agents(made):
            eventually(lambda: all_up_to_date(made), "all agents are up to date")
            yield made


@pytest.fixture(autouse=True)
def as_before(fleet: LiveFleet) -> None:
    asked.clear()
    failing.clear()
    mute.clear()
    leaving.clear()
    fleet.restarted.clear()
    eventually(lambda: set(incarnations(fleet)) == {1}, "the orchestrator has heard that all is as before")


def incarnations(fleet: LiveFleet) -> list[int]:
    nodes = json.loads(edgectl(fleet, "status", "--json").stdout)["nodes"]
    return [agent["incarnation"] for node in nodes for agent in node["agents"] if agent["role"] == "proxy"]


def edgectl(fleet: LiveFleet, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--context", str(fleet.operator), *arguments])


def restart(fleet: LiveFleet, *arguments: str) -> tuple[int, dict[str, Any]]:
    result = edgectl(fleet, "restart", *arguments, "--json")
    return result.exit_code, json.loads(result.stdout)


def test_one_proxy_is_restarted_and_the_rest_is_not(fleet: LiveFleet) -> None:
    result = edgectl(fleet, "restart", "proxy-2", "--grace", "45")
    assert result.exit_code == 0, result.output
    assert result.stdout == "proxy-2 restarted: incarnation 2 is in service\n"
    assert asked == [("proxy-2", 45.0)]


def test_all_are_restarted_one_after_another(fleet: LiveFleet) -> None:
    code, told = restart(fleet, "--all")
    assert code == 0
    assert [(one["node"], one["incarnation"]) for one in told["restarted"]] == [(name, 2) for name in PROXIES]
    assert asked == [(name, None) for name in PROXIES]


def test_the_first_failure_ends_it_and_says_what_was_done(fleet: LiveFleet) -> None:
    failing.add("proxy-2")
    code, told = restart(fleet, "--all")
    assert code == 1
    first, second = told["problems"]
    assert first["code"] == "restart_failed"
    assert first["message"] == "proxy-2: incarnation 2 did not come into service: no module"
    assert second["message"] == "stopped at proxy-2: 1 restarted; not tried: proxy-3"
    assert [name for name, _ in asked] == ["proxy-1", "proxy-2"]


def test_waiting_lasts_until_the_old_incarnation_has_ended(fleet: LiveFleet) -> None:
    leaving["proxy-1"] = LEAVING
    code, told = restart(fleet, "proxy-1")
    assert code == 0
    assert told["restarted"][0]["old_has_ended"] is False
    status = edgectl(fleet, "status").stdout
    assert "incarnation 1 leaves with 7 flows" in status
    leaving.clear()
    code, told = restart(fleet, "proxy-1", "--wait")
    assert code == 0
    assert told["restarted"] == [{"node": "proxy-1", "incarnation": 3, "took_s": 1.5, "old_has_ended": True}]


def test_waiting_shows_what_is_left(fleet: LiveFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    leaving["proxy-1"] = LEAVING
    slept: list[float] = []
    sleep = trio.sleep

    async def until_it_has_ended(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            fleet.restarted["proxy-1"] = {"incarnation": 2}
        await sleep(seconds)

    monkeypatch.setattr(trio, "sleep", until_it_has_ended)
    result = edgectl(fleet, "restart", "proxy-1", "--wait")
    assert result.exit_code == 0, result.output
    assert "proxy-1: incarnation 1 leaves: 7 flows open, for 60 s at most" in result.stderr
    assert "proxy-1: the old incarnation has ended" in result.stderr


def test_an_incarnation_that_nobody_hears_of_is_a_failure(fleet: LiveFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.cli.restarting.HEARD_S", 1.0)
    mute.add("proxy-1")
    code, told = restart(fleet, "--all")
    assert code == 1
    assert told["problems"][0]["code"] == "not_heard_of"
    assert [name for name, _ in asked] == ["proxy-1"]


@pytest.mark.parametrize(
    ("nodes", "problem", "code"),
    [
        (["proxy-1", "proxy-9"], "there is no node 'proxy-9'", 1),
        (["proxy-1", "l4-1"], "l4-1 is no proxy", 1),
    ],
)
def test_what_cannot_be_restarted_is_refused_before_anything_is(
    fleet: LiveFleet, nodes: list[str], problem: str, code: int
) -> None:
    result = edgectl(fleet, "restart", *nodes)
    assert result.exit_code == code
    assert problem in result.stderr
    assert asked == []


def test_a_proxy_that_drains_is_not_restarted(fleet: LiveFleet) -> None:
    fleet.open_flows["proxy-3"] = 5
    try:
        assert edgectl(fleet, "drain", "proxy-3", "--no-wait").exit_code == 0
        code, told = restart(fleet, "--all")
        assert code == 3
        assert told["problems"][0]["code"] == "draining"
        assert asked == []
    finally:
        fleet.open_flows.clear()
        assert edgectl(fleet, "drain", "proxy-3", "--cancel").exit_code == 0


def test_a_restart_that_failed_is_in_the_status(fleet: LiveFleet) -> None:
    fleet.restarted["proxy-1"] = {"restart_problem": "incarnation 2 did not come into service: no module"}
    eventually(lambda: "not restarted: incarnation 2" in edgectl(fleet, "status").stdout, "it is told")


@pytest.mark.parametrize("arguments", [[], ["--all", "proxy-1"], ["proxy-1", "--grace", "-1"], ["Proxy_1"]])
def test_a_wrong_command_line_is_told(fleet: LiveFleet, arguments: list[str]) -> None:
    assert edgectl(fleet, "restart", *arguments).exit_code == 2
