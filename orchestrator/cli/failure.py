"""How a command fails: exit codes, and problems in words."""

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What `edgectl` tells a script."""

    OK = 0
    FAILED = 1
    """It did not work, or there are findings."""
    USAGE = 2
    """The command line is wrong."""
    REFUSED = 3
    """A guard said no. Nothing was changed."""
    UNREACHABLE = 4
    """No orchestrator answered. Traffic does not need one."""
    INTERRUPTED = 130
    """Ctrl-C (128 + SIGINT, as shells count)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: what, where, what to do. As `orchestrator.contract.wire.Problem`, without its import time."""

    code: str
    message: str
    path: str | None = None
    hint: str | None = None


class CommandFailed(Exception):
    """Ends the command with this exit code, after its findings were told."""

    def __init__(self, exit_code: ExitCode, *findings: Finding) -> None:
        super().__init__("; ".join(finding.message for finding in findings))
        self.exit_code = exit_code
        self.findings = findings


def failed(code: str, message: str, *, path: str | None = None, hint: str | None = None) -> CommandFailed:
    """The usual failure: one finding, exit code 1."""
    return CommandFailed(ExitCode.FAILED, Finding(code, message, path, hint))
