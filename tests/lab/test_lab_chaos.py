"""Chaos holds: upgrades and floods under load break nothing, and the command says so."""

import json
import os
import subprocess

import pytest

from orchestrator.lab.commands import program

pytestmark = pytest.mark.lab

NAME = f"chaos{os.getpid()}"

#: All scenarios together take about five minutes on two cores.
LONGEST_S = 900


def test_every_scenario_holds() -> None:
    done = subprocess.run(
        [program("edgectl"), "lab", "chaos", "--json", "--name", NAME],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout
    seen = json.loads(done.stdout)
    assert seen["holds"] is True
    for name, scenario in seen["scenarios"].items():
        assert (scenario["flows_broken"], scenario["requests_failed"]) == (0, 0), name
        assert scenario["flows"] >= 100, name
        assert scenario["requests"] > 100, name
        assert scenario["datagrams"]["sent"] > 1000, name
    swaps = seen["scenarios"]["table-swaps"]
    assert min(swaps["figures"].values()) >= 100
    assert swaps["datagrams"]["lost"] == 0
    replacements = seen["scenarios"]["program-replacements"]
    assert replacements["figures"]["replacements"] == 20
    assert replacements["datagrams"]["lost"] == 0
    flood = seen["scenarios"]["syn-flood"]["figures"]
    assert flood["syns_sent"] > 100_000


def test_an_unknown_scenario_is_a_usage_error_that_names_those_there_are() -> None:
    done = subprocess.run(
        [program("edgectl"), "lab", "chaos", "--only", "flood"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "syn-flood" in done.stderr
