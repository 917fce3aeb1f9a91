"""Chaos holds: upgrades, floods and faults under load break no flow that could be kept, and the command says so."""

import json
import os
import subprocess
from typing import Any, cast

import pytest

from orchestrator.lab.commands import program

pytestmark = pytest.mark.lab

NAME = f"chaos{os.getpid()}"

#: One of each kind: all of them take a quarter of an hour. How fast a fault is noticed depends on the machine, and is
#: measured by `edgectl lab chaos`; here it is to be noticed at all.
PLAYED = (
    *("table-swaps", "program-replacements", "syn-flood"),
    *("l4-power-cut", "vip-withdrawn", "orchestrator-killed", "proxy-killed", "backend-killed"),
)

#: Faults that no client's flow may notice.
HARMLESS = ("l4-power-cut", "vip-withdrawn", "orchestrator-killed")

#: Eight scenarios take six minutes on two cores.
LONGEST_S = 1500


@pytest.fixture(scope="module")
def scenarios() -> dict[str, Any]:
    """What `edgectl lab chaos --json` says of them."""
    only = [argument for name in PLAYED for argument in ("--only", name)]
    done = subprocess.run(
        [program("edgectl"), "lab", "chaos", "--json", "--name", NAME, *only],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    seen = cast(dict[str, Any], json.loads(done.stdout)["scenarios"])
    for name, scenario in seen.items():
        complaints = [text for text in scenario["complaints"] if not text.startswith("noticed after")]
        assert complaints == [], f"{name}: {done.stderr[-4000:]}"
    return seen


def test_every_scenario_was_played_under_load_and_broke_no_flow(scenarios: dict[str, Any]) -> None:
    assert scenarios.keys() == set(PLAYED)
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
def test_a_fault_beside_the_proxies_fails_no_request_and_is_detected(scenarios: dict[str, Any], name: str) -> None:
    scenario = scenarios[name]
    assert scenario["requests_failed"] == 0
    assert scenario["flows_lost_with_proxy"] == scenario["flows_not_begun"] == 0
    assert scenario["detect_ms"] > 0
    assert scenario["recover_ms"] >= 0


def test_a_proxy_that_is_gone_takes_its_own_flows_and_no_others(scenarios: dict[str, Any]) -> None:
    scenario = scenarios["proxy-killed"]
    assert 0 < scenario["flows_lost_with_proxy"] < scenario["flows"] / 2
    assert scenario["detect_ms"] > 0


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
