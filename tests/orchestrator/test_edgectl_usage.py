"""The command line itself: help, usage errors, and that asking for help is quick. No fleet is there."""

import json
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from orchestrator.cli.failure import Finding
from orchestrator.cli.main import main
from orchestrator.cli.terminal import Terminal

COMMANDS = [
    *([name] for name in ("status", "get", "apply", "drain", "undrain", "capture", "trace-packet", "token", "lab")),
    *(["lab", name] for name in ("up", "down", "status", "exec", "demo")),
]

#: Seconds for `edgectl --help`: what a person calls at once, and then some for a busy machine.
HELP_S = 1.0


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_or_a_sentence(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    assert command in (["lab", "down"], ["status"]) or "edgectl" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["status", "--no-such-option"],
        ["get", "unicorns"],
        ["get", "table", "l4-1"],
        ["get", "nodes", "--digest"],
        ["drain"],
        ["drain", "Proxy/1"],
        ["drain", "proxy-1", "--deadline", "-5"],
        ["drain", "proxy-1", "--cancel", "--force"],
        ["token", "proxy-1", "conductor"],
        ["capture"],
        ["capture", "web-v4", "--for", "1h"],
        ["capture", "web-v4", "--for", "0s"],
        ["capture", "web-v4", "--count", "0"],
        ["capture", "web-v4", "--snap-length", "10"],
        ["trace-packet", "--src", "198.51.100.7:1"],
        ["trace-packet", "--src", "198.51.100.7", "--dst", "203.0.113.10:443"],
        ["trace-packet", "--src", "2001:db8::7:1", "--dst", "[2001:db8::1]:443"],
        ["trace-packet", "--src", "198.51.100.7:1", "--dst", "[2001:db8::1]:443"],
        ["trace-packet", "--src", "198.51.100.7:1", "--dst", "203.0.113.10:443", "--flags", "X"],
        ["apply", "/no/such/directory"],
        ["lab", "up", "--proxies", "0"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_exit_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr != ""


def test_a_wrong_command_line_is_json_too_when_asked() -> None:
    result = CliRunner().invoke(main, ["get", "unicorns", "--json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)["problems"][0]["code"] == "usage"


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    probe = (
        "import sys; from orchestrator.cli.main import main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < HELP_S
    loaded = done.stdout.splitlines()[-1]
    assert not [heavy for heavy in ("'trio'", "'pydantic'", "'httpx2'", "'rich'", "'ruamel") if heavy in loaded]


def test_completion_is_offered_to_shells() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from orchestrator.cli.main import main; main(prog_name='edgectl')"],
        env={"_EDGECTL_COMPLETE": "bash_source", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "complete -o nosort" in done.stdout


def test_what_failed_beside_a_result_makes_no_second_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(as_json=True)
    terminal.result({"failures": {"l4-1": "gone"}}, lambda: "")
    terminal.problems((Finding("no_answer", "l4-1: gone"),))
    told = capsys.readouterr()
    assert json.loads(told.out) == {"failures": {"l4-1": "gone"}}
    assert "l4-1: gone" in told.err


def test_without_a_result_problems_are_the_object(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(as_json=True).problems((Finding("no_answer", "l4-1: gone"),))
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["code"] == "no_answer"
