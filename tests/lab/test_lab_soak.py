"""The soak, in small: hundreds of changes under load break nothing, and the command says what each agent holds."""

import json
import os
import subprocess

import pytest

from orchestrator.lab.commands import program

pytestmark = pytest.mark.lab

NAME = f"soak{os.getpid()}"
CHANGES = 200

#: Three minutes on two cores.
LONGEST_S = 900


def test_hundreds_of_changes_break_no_flow_and_every_agent_is_accounted_for() -> None:
    done = subprocess.run(
        [program("edgectl"), "lab", "soak", "--json", "--name", NAME, "--changes", str(CHANGES)],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    seen = json.loads(done.stdout)
    assert seen["flows_broken"] == 0, seen["breakages"]
    assert seen["requests_failed"] == 0, seen["breakages"]
    assert seen["flows"] >= 60
    assert seen["changes"] == sum(seen["kinds"].values()) == CHANGES
    assert len(seen["kinds"]) == 9, "every kind of change was made"
    assert seen["revisions"] >= CHANGES
    assert seen["agents"].keys() == {
        *("l4-1/balancer", "l4-2/balancer"),
        *(f"proxy-{number}/{role}" for number in (1, 2, 3) for role in ("redirector", "proxy")),
    }
    for name, account in seen["agents"].items():
        assert account["first"]["resident_kib"] > 10_000, name
        assert account["first"]["descriptors"] > 5, name
        assert (account["first"]["map_entries"] > 0) == (not name.endswith("/proxy")), name
        # Two hundred changes are a warm-up: memory is still taken then. Files and entries are not.
        assert account["last"]["descriptors"] <= account["first"]["descriptors"] * 1.05 + 2, name
        assert account["last"]["map_entries"] == account["first"]["map_entries"], name
