"""Which fleet a command talks to, and with which credentials."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.cli.failure import CommandFailed, ExitCode, Finding, failed
from orchestrator.cli.terminal import Terminal

if TYPE_CHECKING:
    from orchestrator.contract.operator import OperatorContext

CONTEXT_VARIABLE: Final = "EDGECTL_CONTEXT"
DEFAULT_CONTEXT: Final = Path("/etc/edgefleet/operator")
NAMESPACES: Final = Path("/run/netns")
CLONE_NEWNET: Final = 0x40000000


@dataclass(frozen=True, slots=True)
class Credentials:
    """An operator's context directory, read."""

    directory: Path
    context: "OperatorContext"

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.directory / "operator.pem"

    @property
    def key(self) -> Path:
        return self.directory / "operator.key"


def find_directory(given: Path | None, terminal: Terminal) -> Path:
    """`--context`, then $EDGECTL_CONTEXT, then the machine's, then the one lab that is up. Raises CommandFailed."""
    if given is not None:
        return given
    if named := os.environ.get(CONTEXT_VARIABLE):
        return Path(named)
    if DEFAULT_CONTEXT.is_dir():
        return DEFAULT_CONTEXT
    from orchestrator.lab.lab import find_lab, running_labs

    labs = running_labs()
    if len(labs) == 1:
        terminal.note(f"(the lab {labs[0]!r}, since no --context was given)")
        return find_lab(labs[0]).operator
    hint = f"give --context DIR or set {CONTEXT_VARIABLE}; `edge-orchestrator init` makes the directory"
    if labs:
        raise failed(
            "context_ambiguous", f"several labs are up ({', '.join(labs)}), and no context was given", hint=hint
        )
    raise failed("no_context", f"no fleet to talk to: there is no {DEFAULT_CONTEXT}, and no lab is up", hint=hint)


def read_credentials(directory: Path) -> Credentials:
    """Raises CommandFailed if something is missing or cannot be read."""
    from pydantic import ValidationError

    from orchestrator.contract.operator import OperatorContext

    file = directory / "context.json"
    hint = "`edge-orchestrator init --operator DIR` writes it"
    try:
        context = OperatorContext.model_validate_json(file.read_text())
    except OSError as error:
        raise failed("no_context", f"cannot read it: {error.strerror}", path=str(file), hint=hint) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise failed("bad_context", f"{where or 'the file'}: {first['msg']}", path=str(file), hint=hint) from error
    credentials = Credentials(directory, context)
    for needed in (credentials.ca, credentials.certificate, credentials.key):
        if not os.access(needed, os.R_OK):
            raise failed(
                "no_credentials",
                "cannot read it: missing, or not yours to read",
                path=str(needed),
                hint="run as the user that `edge-orchestrator init` made it for, or copy the whole directory",
            )
    return credentials


def enter_network_namespace(name: str) -> None:
    """Move this thread into a named network namespace: sockets made from now on are there. Raises CommandFailed."""
    path = NAMESPACES / name
    hint = "is the lab up? `edgectl lab status`"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreachable(f"no network namespace {name!r}: {error.strerror}", str(path), hint) from error
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise _unreachable(f"cannot enter network namespace {name!r}: {reason}", str(path), "run as root")
    finally:
        os.close(descriptor)


def _unreachable(message: str, path: str, hint: str) -> CommandFailed:
    return CommandFailed(ExitCode.UNREACHABLE, Finding("unreachable", message, path, hint))
