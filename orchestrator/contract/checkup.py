"""Checkups: an agent looks at its host for what users of such systems trip over, and says what it saw."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.contract.base import Contract
from orchestrator.contract.node import AgentRole


class Severity(StrEnum):
    """What a check came to."""

    OK = "ok"
    UNKNOWN = "unknown"
    """It could not be looked at; nothing says that something is wrong."""
    WARNING = "warning"
    """Works, and not as well as it could, or not for long."""
    FAILURE = "failure"


class CheckResult(Contract):
    """What one check saw. A check that finds several things wrong has several results."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Stable, for programs: `rp_filter`, `tunnel`, ..."""
    title: str
    severity: Severity
    seen: str
    expected: str = ""
    why: str = ""
    """What goes wrong if it is left as it is."""
    mend: str | None = None
    """A shell command that mends it, to be run on the node as it stands."""
    fixable: bool = False
    """Whether `mend` is safe: it breaks no flow, and takes away nothing that somebody may have wanted."""
    advice: str | None = None
    """What to do, where no command on this node does it."""
    mended_by: str | None = None
    """The command that was run, after which the check found nothing more."""

    @property
    def is_finding(self) -> bool:
        """Whether somebody should do something."""
        return self.severity in (Severity.WARNING, Severity.FAILURE)


class Checkup(Contract):
    """Look at your host. Asked of balancers and redirectors."""

    kind: Literal["checkup"] = "checkup"
    role: AgentRole
    """Whom it is for."""
    fix: bool = False
    """Run the commands of findings that are `fixable`, and look again."""


class CheckupAnswer(Contract):
    """All results, and what is to be compared with other nodes."""

    kind: Literal["checkup"] = "checkup"
    results: tuple[CheckResult, ...]
    interface: str
    mtu: int | None
    """Of the interface; None if there is no such interface."""
    applied_version: int | None
    """Of the snapshot in service."""
    wall: float
    """The node's clock, Unix time, as the answer is given."""
    took_s: Annotated[float, Field(ge=0)]
    """Seconds from the question's arrival to the answer."""
