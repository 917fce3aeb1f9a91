"""Chaos holds: upgrades, floods and faults under load break no flow that could be kept, and the command says so."""

import json
import os
import subprocess
from typing import Any, cast

import pytest

from orchestrator.lab.chaos.scenarios import SCENARIOS
from orchestrator.lab.commands import program

pytestmark = pytest.mark.lab

NAME = f"chaos{os.getpid()}"

#: All scenarios together take about fifteen minutes on two cores.
LONGEST_S = 2400

#: Faults that no client's flow may notice, with the milliseconds within which they must be detected.
HARMLESS: dict[str, float | None] = {
    "l4-power-cut": 250,
    "l4-link-cut": 250,
    "bird-killed": None,
    "bgp-session-reset": None,
    "vip-withdrawn": 50,
    "redirector-killed": None,
    "orchestrator-killed": None,
    "agent-killed": None,
    "l4-drained": None,
    "site-drained": None,
}

#: Faults that take proxies away.
DEADLY: dict[str, float | None] = {"proxy-killed": 1000, "proxy-frozen": None, "site-cut": 250}


@pytest.fixture(scope="module")
def scenarios() -> dict[str, Any]:
    """What `edgectl lab chaos --json` says of all of them."""
    done = subprocess.run(
        [program("edgectl"), "lab", "chaos", "--json", "--name", NAME],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    seen = json.loads(done.stdout)
    assert {
        name: scenario["complaints"] for name, scenario in seen["scenarios"].items() if scenario["complaints"]
    } == {}
    assert seen["holds"] is True
    assert done.returncode == 0, done.stderr[-4000:]
    return cast(dict[str, Any], seen["scenarios"])


def test_every_scenario_was_played_under_load_and_broke_no_flow(scenarios: dict[str, Any]) -> None:
    assert scenarios.keys() == {scenario.name for scenario in SCENARIOS}
    for name, scenario in scenarios.items():
        assert scenario["flows_broken"] == 0, name
        assert scenario["flows"] >= 100, name
        assert scenario["requests"] > 100, name
        assert scenario["datagrams"]["sent"] > 1000, name


def test_upgrades_and_floods_go_unnoticed(scenarios: dict[str, Any]) -> None:
    swaps = scenarios["table-swaps"]
    assert min(swaps["figures"].values()) >= 100
    replacements = scenarios["program-replacements"]
    assert replacements["figures"]["replacements"] == 20
    for scenario in (swaps, replacements):
        assert (scenario["requests_failed"], scenario["datagrams"]["lost"]) == (0, 0)
        assert (scenario["detect_ms"], scenario["recover_ms"]) == (None, None), "they are no faults"
    flood = scenarios["syn-flood"]
    assert flood["requests_failed"] == 0
    assert flood["figures"]["syns_sent"] > 100_000


@pytest.mark.parametrize("name", HARMLESS)
def test_a_fault_beside_the_proxies_fails_no_request_and_is_detected_in_time(
    scenarios: dict[str, Any], name: str
) -> None:
    scenario = scenarios[name]
    goal_ms = HARMLESS[name]
    assert scenario["requests_failed"] == 0
    assert scenario["flows_lost_with_proxy"] == scenario["flows_not_begun"] == 0
    assert 0 < scenario["detect_ms"] <= (goal_ms or 60_000)
    assert 0 <= scenario["recover_ms"] < 5_000


@pytest.mark.parametrize("name", DEADLY)
def test_a_proxy_that_is_gone_takes_its_own_flows_and_no_others(scenarios: dict[str, Any], name: str) -> None:
    scenario = scenarios[name]
    goal_ms = DEADLY[name]
    assert 0 < scenario["flows_lost_with_proxy"] < scenario["flows"] / 2
    assert 0 < scenario["detect_ms"] <= (goal_ms or 60_000)


def test_a_proxy_that_flaps_causes_few_generations(scenarios: dict[str, Any]) -> None:
    assert 1 <= scenarios["proxy-flapping"]["figures"]["generations"] <= 3


def test_a_dead_backend_costs_the_requests_that_it_was_answering_and_no_others(scenarios: dict[str, Any]) -> None:
    scenario = scenarios["backend-killed"]
    assert scenario["flows_lost_with_backend"] > 0, "a third of the downloads came from it"
    assert scenario["flows_lost_with_backend"] < scenario["flows"] / 2


def test_an_unknown_scenario_is_a_usage_error_that_names_those_there_are() -> None:
    done = subprocess.run(
        [program("edgectl"), "lab", "chaos", "--only", "flood"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "syn-flood" in done.stderr
