"""`edgectl` against a real orchestrator: what it prints, where, and with which exit code."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import drain_watch
from orchestrator.cli.main import main
from tests.orchestrator.live_fleet import LiveFleet, agents, free_port, orchestrator

#: For what the fleet does by itself within a report or two.
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    """Configured, with all agents reporting. Each test leaves every proxy active."""
    with orchestrator(tmp_path_factory.mktemp("fleet")) as made:
        assert edgectl(made, "apply", str(made.configuration)).exit_code == 0
        with agents(made):
            eventually(lambda: all_up_to_date(made), "all agents are up to date")
            yield made


def edgectl(fleet: LiveFleet | None, *arguments: str) -> Result:
    context = ["--context", str(fleet.operator)] if fleet is not None else []
    return CliRunner().invoke(main, [*context, *arguments])


def answer(fleet: LiveFleet, *arguments: str) -> dict[str, Any]:
    """The one JSON object on stdout."""
    result = edgectl(fleet, *arguments, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert isinstance(content, dict)
    return content


def eventually(holds: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.1)


def all_up_to_date(fleet: LiveFleet) -> bool:
    nodes = answer(fleet, "status")["nodes"]
    return all(agent["connected"] and agent["up_to_date"] for node in nodes for agent in node["agents"])


@pytest.fixture
def active(fleet: LiveFleet) -> Iterator[LiveFleet]:
    """The fleet; whatever the test drains is undrained afterwards."""
    yield fleet
    fleet.open_flows.clear()
    fleet.detached.clear()
    for drain in answer(fleet, "get", "drains")["drains"]:
        assert edgectl(fleet, "undrain", drain["node"]).exit_code == 0
    eventually(lambda: all_up_to_date(fleet), "all agents follow the undrain")


# Looking


def test_status_is_one_object_with_everything(fleet: LiveFleet) -> None:
    status = answer(fleet, "status")
    assert status["configured"] is True
    assert [node["name"] for node in status["nodes"]] == ["l4-1", "l4-2", "proxy-1", "proxy-2", "proxy-3"]
    assert [pool["name"] for pool in status["pools"]] == ["edge"]


def test_status_is_drawn_for_people(fleet: LiveFleet) -> None:
    result = edgectl(fleet, "status")
    assert result.exit_code == 0
    for word in ("proxy-3", "up to date", "203.0.113.10:443", "[2001:db8:203::10]:443", "2 must stay"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("vips", ["web-v4", "web-v6"]),
        ("pools", ["edge"]),
        ("sites", ["main"]),
        ("nodes", ["l4-1", "l4-2", "proxy-1", "proxy-2", "proxy-3"]),
        ("hosts", ["www.example.com"]),
        ("backends", ["shop-web"]),
    ],
)
def test_get_lists_and_draws_each_kind(fleet: LiveFleet, kind: str, names: list[str]) -> None:
    assert [view["name"] for view in answer(fleet, "get", kind)[kind]] == names
    drawn = edgectl(fleet, "get", kind)
    assert drawn.exit_code == 0
    assert all(name in drawn.stdout for name in names)


def test_get_takes_singular_and_a_name(fleet: LiveFleet) -> None:
    assert answer(fleet, "get", "node", "proxy-2")["name"] == "proxy-2"


def test_get_generations_names_the_pool(fleet: LiveFleet) -> None:
    newest = answer(fleet, "get", "generations")["generations"][0]
    assert newest["pool"] == "edge"
    assert len(newest["members"]) == 3
    assert "proxy-2 (2)" in edgectl(fleet, "get", "generations").stdout


def test_a_name_that_is_not_there_fails_and_says_which_are(fleet: LiveFleet) -> None:
    result = edgectl(fleet, "get", "nodes", "proxy-9")
    assert result.exit_code == 1
    assert "no node 'proxy-9'" in result.stderr
    assert "proxy-1, proxy-2, proxy-3" in result.stderr
    assert result.stdout == ""


def test_tables_are_those_that_l4_nodes_read_back(fleet: LiveFleet) -> None:
    tables = answer(fleet, "get", "table", "--node", "l4-1")["tables"]
    assert [(one["node"], one["table"]["pool"]) for one in tables] == [("l4-1", "edge")]
    assert len(answer(fleet, "get", "tables")["tables"]) == 2
    assert "abababababababab" in edgectl(fleet, "get", "table", "--node", "l4-1").stdout


def test_digest_prints_digests_alone(fleet: LiveFleet) -> None:
    assert edgectl(fleet, "get", "table", "--node", "l4-1", "--digest").stdout == "ab" * 32 + "\n"


def test_a_table_of_an_unknown_node_fails(fleet: LiveFleet) -> None:
    result = edgectl(fleet, "get", "table", "--node", "l4-7")
    assert result.exit_code == 1
    assert "l4-1/edge, l4-2/edge" in result.stderr


# Changing


def test_applying_the_same_files_again_changes_nothing(fleet: LiveFleet) -> None:
    assert answer(fleet, "apply", str(fleet.configuration))["changed"] is False


def test_findings_name_file_and_line_and_change_nothing(fleet: LiveFleet, tmp_path: Path) -> None:
    (tmp_path / "platform.yaml").write_text(
        (fleet.configuration / "platform.yaml").read_text().replace("mode: terminate", "mode: sideways", 1)
    )
    before = answer(fleet, "status")["revision"]
    result = edgectl(fleet, "apply", str(tmp_path), "--json")
    assert result.exit_code == 1
    problems = json.loads(result.stdout)["problems"]
    assert any(problem["path"].startswith("platform.yaml:") and "vips" in problem["path"] for problem in problems)
    assert "platform.yaml:" in result.stderr
    assert answer(fleet, "status")["revision"] == before


def test_a_directory_without_configuration_is_refused_here(fleet: LiveFleet, tmp_path: Path) -> None:
    result = edgectl(fleet, "apply", str(tmp_path))
    assert (result.exit_code, "no YAML file" in result.stderr) == (1, True)


def test_a_token_is_printed_alone(fleet: LiveFleet) -> None:
    result = edgectl(fleet, "token", "proxy-1", "proxy")
    assert result.exit_code == 0
    assert result.stdout.startswith("ef1.")
    assert result.stdout.count("\n") == 1
    assert answer(fleet, "token", "proxy-1", "proxy")["token"].startswith("ef1.")


# Draining


def test_drain_waits_until_drained(active: LiveFleet) -> None:
    drained = answer(active, "drain", "proxy-1")
    assert drained["state"] == "drained"
    assert drained["seconds"] >= 0
    assert answer(active, "undrain", "proxy-1")["state"] == "active"


def test_undrain_of_a_proxy_that_cannot_serve_says_what_is_missing(
    active: LiveFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_watch, "JOINING_S", 1.0)
    assert edgectl(active, "drain", "proxy-1").exit_code == 0
    active.detached.add("proxy-1")
    late = edgectl(active, "undrain", "proxy-1")
    assert late.exit_code == 1
    assert "proxy-1 takes no new flows yet: no redirector is attached to eth0 of proxy-1" in late.stderr
    status = answer(active, "status")
    assert status["pools"][0]["members"][0]["state"] == "joining"
    assert any("proxy-1 takes no new flows" in warning for warning in status["warnings"])
    active.detached.clear()
    eventually(lambda: answer(active, "status")["pools"][0]["members"][0]["state"] == "active", "it joins by itself")


def test_drain_tells_its_progress_on_stderr_one_object_a_line(active: LiveFleet) -> None:
    active.open_flows["proxy-1"] = 7
    eventually(lambda: open_flows(active, "proxy-1") == 7, "the report of 7 flows arrives")
    begun = edgectl(active, "drain", "proxy-1", "--no-wait", "--json")
    assert json.loads(begun.stdout)["state"] == "draining"
    active.open_flows["proxy-1"] = 0
    result = edgectl(active, "drain", "proxy-1", "--json")
    assert result.exit_code == 0
    progress = [json.loads(line) for line in result.stderr.splitlines()]
    assert [progress[0]["state"], progress[-1]["state"]] == ["draining", "drained"]
    assert json.loads(result.stdout)["flows_at_start"] == 7


def test_drain_says_in_lines_what_it_waits_for(active: LiveFleet) -> None:
    active.open_flows["proxy-1"] = 3
    eventually(lambda: open_flows(active, "proxy-1") == 3, "the report of 3 flows arrives")
    result = edgectl(active, "drain", "proxy-1", "--deadline", "1.5")
    assert result.exit_code == 1
    assert "proxy-1 is draining: 3 (http/1.1 3) flows open; not drained, since" in result.stderr
    assert "proxy-1 is not drained in time: 3 flows are open still" in result.stderr
    assert "--cancel" in result.stderr


def test_cancel_makes_it_active_again(active: LiveFleet) -> None:
    active.open_flows["proxy-1"] = 3
    eventually(lambda: open_flows(active, "proxy-1") == 3, "the report of 3 flows arrives")
    assert edgectl(active, "drain", "proxy-1", "--no-wait").exit_code == 0
    assert "proxy-1 is active" in edgectl(active, "drain", "proxy-1", "--cancel").stdout
    assert answer(active, "get", "drains")["drains"] == []


def test_the_capacity_guard_refuses_with_exit_code_3(active: LiveFleet) -> None:
    assert edgectl(active, "drain", "proxy-1").exit_code == 0
    result = edgectl(active, "drain", "proxy-2", "--json")
    assert result.exit_code == 3
    problem = json.loads(result.stdout)["problems"][0]
    assert problem["code"] == "capacity_guard"
    assert "2" in problem["message"]
    assert "capacity_guard" in result.stderr


def test_an_unknown_node_fails(fleet: LiveFleet) -> None:
    assert edgectl(fleet, "drain", "proxy-9").exit_code == 1


def test_ctrl_c_leaves_the_drain_running_and_says_so(active: LiveFleet) -> None:
    active.open_flows["proxy-1"] = 5
    eventually(lambda: open_flows(active, "proxy-1") == 5, "the report of 5 flows arrives")
    command = [sys.executable, "-m", "orchestrator.cli", "drain", "proxy-1", "--context", str(active.operator)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "proxy-1 is draining" in first
    process.send_signal(2)
    _, rest = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "the drain of proxy-1 goes on" in rest
    assert answer(active, "get", "drains")["drains"][0]["state"] == "draining"


def open_flows(fleet: LiveFleet, node: str) -> int | None:
    members = answer(fleet, "get", "pools")["pools"][0]["members"]
    counts: dict[str, int | None] = {member["name"]: member["open_flows"] for member in members}
    return counts[node]


# Failing


def test_nobody_answers_is_exit_code_4_and_says_that_traffic_flows_on(fleet: LiveFleet, tmp_path: Path) -> None:
    result = edgectl(elsewhere(fleet, tmp_path, f"https://127.0.0.1:{free_port()}"), "status")
    assert result.exit_code == 4
    assert "traffic flows on" in result.stderr


def test_every_endpoint_is_tried(fleet: LiveFleet, tmp_path: Path) -> None:
    both = elsewhere(fleet, tmp_path, f"https://127.0.0.1:{free_port()}", fleet.endpoint)
    assert answer(both, "status")["configured"] is True


def test_a_namespace_that_is_gone_counts_as_unreachable(fleet: LiveFleet, tmp_path: Path) -> None:
    other = elsewhere(fleet, tmp_path, fleet.endpoint, namespace="no-such-namespace")
    result = edgectl(other, "status")
    assert result.exit_code == 4
    assert "no network namespace 'no-such-namespace'" in result.stderr


def test_a_stranger_without_certificate_is_told_what_is_missing(fleet: LiveFleet, tmp_path: Path) -> None:
    other = elsewhere(fleet, tmp_path, fleet.endpoint)
    (other.operator / "operator.key").unlink()
    result = edgectl(other, "status", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"][0]["path"].endswith("operator.key")


def test_a_context_that_is_not_json_says_where(tmp_path: Path) -> None:
    (tmp_path / "context.json").write_text("{")
    result = CliRunner().invoke(main, ["status", "--context", str(tmp_path)])
    assert result.exit_code == 1
    assert str(tmp_path / "context.json") in result.stderr


def elsewhere(fleet: LiveFleet, directory: Path, *endpoints: str, namespace: str | None = None) -> LiveFleet:
    """The same operator, sent to other addresses."""
    operator = directory / "operator"
    operator.mkdir()
    for name in ("ca.pem", "operator.pem", "operator.key"):
        (operator / name).write_bytes((fleet.operator / name).read_bytes())
    (operator / "context.json").write_text(json.dumps({"endpoints": endpoints, "network_namespace": namespace}))
    return LiveFleet(directory, fleet.port)


def test_the_environment_names_the_context(fleet: LiveFleet) -> None:
    result = CliRunner(env={"EDGECTL_CONTEXT": str(fleet.operator)}).invoke(main, ["status", "--json"])
    assert result.exit_code == 0
