"""The command line: usable at three in the morning, and clear about what is missing."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from l4.service import main
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.state_directory import StateDirectory
from tests.l4.edge import enrol


@pytest.mark.parametrize("role", ["balancer", "redirector"])
def test_help_says_how_to_start_and_what_happens_without_an_orchestrator(role: str) -> None:
    told = CliRunner().invoke(main, [role, "run", "--help"]).output
    assert "First start:" in told
    assert "runs on the last good snapshot" in told
    for option in ("--state", "--interface", "--bpffs", "--xdp-mode", "--metrics", "--orchestrator", "--token-file"):
        assert option in told


def test_a_node_that_has_not_joined_is_told_how(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["balancer", "run", "--state", str(tmp_path), "--interface", "no-such"])
    assert result.exit_code == 1
    assert "start once with --orchestrator, --token-file and --node" in result.output


def test_a_state_directory_of_the_other_role_is_refused(tmp_path: Path) -> None:
    enrol(StateDirectory(tmp_path / "state"), AgentIdentity(node="l4-1", role=AgentRole.BALANCER))
    arguments = ["redirector", "run", "--state", str(tmp_path / "state"), "--interface", "no-such"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "belongs to l4-1/balancer" in result.output


@pytest.mark.parametrize("endpoint", ["9101", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999"])
def test_a_metrics_address_that_is_none_is_a_usage_error(tmp_path: Path, endpoint: str) -> None:
    arguments = ["balancer", "run", "--state", str(tmp_path), "--interface", "eth0", "--metrics", endpoint]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "is not ADDRESS:PORT" in result.output


@pytest.mark.parametrize("role", ["balancer", "redirector"])
def test_a_reload_without_an_agent_says_so(role: str) -> None:
    result = CliRunner().invoke(main, [role, "reload", "--interface", "no-such"])
    assert result.exit_code == 1
    assert f"no edge-l4 {role} runs on no-such in this network namespace" in result.output
