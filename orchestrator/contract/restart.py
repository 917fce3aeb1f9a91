"""Restarts of a proxy: a new incarnation takes its listening sockets over, and the old one says its goodbyes."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.contract.base import Contract

#: Seconds at most that an old incarnation is given: a day is a maintenance window, and not a way to run two for ever.
MAX_RESTART_GRACE_S = 86400.0


class Restart(Contract):
    """Be succeeded by a new incarnation, of the code that is installed. Asked of proxies."""

    kind: Literal["restart"] = "restart"
    grace_s: Annotated[float, Field(ge=0, le=MAX_RESTART_GRACE_S)] | None = None
    """For the connections of the old one; None: as its `edge-l7 run` was started with."""


class RestartAnswer(Contract):
    """The new incarnation is in service; the old one leaves."""

    kind: Literal["restart"] = "restart"
    incarnation: int
    took_s: Annotated[float, Field(ge=0)]


"""What the sources of this answer saw: from the question to the new incarnation's being in service."""
