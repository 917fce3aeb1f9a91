"""`edgectl drain` and `undrain` of L4 nodes and sites, against a real orchestrator and agents that obey."""

import json
from collections.abc import Iterator

import pytest

from tests.orchestrator.live_fleet import LiveFleet, agents, orchestrator
from tests.orchestrator.test_edgectl import all_up_to_date, answer, edgectl, eventually


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    with orchestrator(tmp_path_factory.mktemp("fleet")) as made:
        assert edgectl(made, "apply", str(made.configuration)).exit_code == 0
        with agents(made):
            eventually(lambda: all_up_to_date(made), "all agents are up to date")
            yield made


@pytest.fixture
def announcing(fleet: LiveFleet) -> Iterator[LiveFleet]:
    """Both L4 nodes announce as ever, before the test and after it."""
    eventually(lambda: states(fleet) == ["active", "active"] and not withdrawn(fleet), "both announce")
    yield fleet
    for drain in answer(fleet, "get", "drains")["drains"]:
        answer(fleet, "undrain", drain["node"])


def states(fleet: LiveFleet) -> list[str]:
    return [node["state"] for node in answer(fleet, "status")["nodes"] if node["kind"] == "l4"]


def withdrawn(fleet: LiveFleet) -> list[str]:
    return [vip["name"] for vip in answer(fleet, "get", "vips")["vips"] if vip["announced_by"] != ["l4-1", "l4-2"]]


def test_drain_of_an_l4_node_tells_its_phases_and_undrain_brings_it_back(announcing: LiveFleet) -> None:
    result = edgectl(announcing, "drain", "l4-1", "--json")
    assert result.exit_code == 0, result.stderr
    drained = json.loads(result.stdout)
    assert (drained["state"], drained["phase"], drained["kind"]) == ("drained", "quiet", "l4")
    assert drained["seconds"] >= 5, "three quiet seconds as a last resort, two withdrawn"
    progress = [json.loads(line) for line in result.stderr.splitlines()]
    assert list(dict.fromkeys(one["phase"] for one in progress)) == ["soft", "withdrawn", "quiet"]

    assert states(announcing) == ["drained", "active"]
    assert {vip["announced_by"][0] for vip in answer(announcing, "get", "vips")["vips"]} == {"l4-2"}
    shown = edgectl(announcing, "get", "drains").stdout
    assert "l4-1" in shown
    assert "quiet" in shown
    assert "l4-1 is active: it announces its VIPs" in edgectl(announcing, "undrain", "l4-1").stdout
    eventually(lambda: not withdrawn(announcing), "it announces again")


def test_a_deadline_says_what_still_comes_and_cancel_undoes_it(announcing: LiveFleet) -> None:
    result = edgectl(announcing, "drain", "l4-1", "--deadline", "1")
    assert result.exit_code == 1
    assert "l4-1 is draining: routers prefer others, " in result.stderr
    assert "l4-1 is not drained in time: " in result.stderr
    assert "packets/s come still" in result.stderr
    assert "--cancel" in result.stderr
    assert "--force" not in result.stderr
    assert "l4-1 is active" in edgectl(announcing, "drain", "l4-1", "--cancel").stdout
    assert answer(announcing, "get", "drains")["drains"] == []


def test_the_last_announcer_is_refused_with_exit_code_3(announcing: LiveFleet) -> None:
    assert edgectl(announcing, "drain", "l4-1", "--no-wait").exit_code == 0
    refused = edgectl(announcing, "drain", "l4-2", "--json")
    assert refused.exit_code == 3
    problem = json.loads(refused.stdout)["problems"][0]
    assert problem["code"] == "last_announcer"
    assert "l4-1 is drained, or about to be" in problem["message"]
    assert "--go-dark" in problem["hint"]
    assert edgectl(announcing, "drain", "l4-2", "--go-dark", "--no-wait").exit_code == 0
    assert [drain["go_dark"] for drain in answer(announcing, "get", "drains")["drains"]] == [False, True]


def test_a_site_is_drained_and_undrained_as_a_whole(announcing: LiveFleet) -> None:
    assert edgectl(announcing, "drain", "--site", "main").exit_code == 3
    assert states(announcing) == ["active", "active"], "all or none"
    begun = answer(announcing, "drain", "--site", "main", "--go-dark", "--no-wait")
    assert (begun["site"], [view["node"] for view in begun["nodes"]]) == ("main", ["l4-1", "l4-2"])
    assert states(announcing) == ["draining", "draining"]
    back = edgectl(announcing, "undrain", "--site", "main")
    assert back.stdout.splitlines() == [f"{name} is active: it announces its VIPs" for name in ("l4-1", "l4-2")]
    assert edgectl(announcing, "drain", "--site", "north").exit_code == 1
    assert edgectl(announcing, "undrain", "--site", "main").exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [["drain"], ["undrain"], ["drain", "l4-1", "--site", "main"], ["drain", "l4-1", "--cancel", "--go-dark"]],
)
def test_what_makes_no_sense_is_a_question_of_usage(announcing: LiveFleet, arguments: list[str]) -> None:
    assert edgectl(announcing, *arguments).exit_code == 2


def test_nothing_is_reset_by_the_drain_of_an_l4_node(announcing: LiveFleet) -> None:
    refused = edgectl(announcing, "drain", "l4-1", "--force")
    assert (refused.exit_code, "nothing to reset" in refused.stderr) == (1, True)
