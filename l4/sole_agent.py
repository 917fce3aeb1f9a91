"""One agent per role and interface: two would undo each other's work."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.contract.node import AgentRole


class AnotherAgentRuns(Exception):
    """An agent of the same role works on the same interface."""


@contextmanager
def sole_agent(role: AgentRole, interface: str) -> Iterator[None]:
    """Holds the interface for one agent of this role, as long as the process lives. Raises AnotherAgentRuns.

    By an abstract socket name (unix(7)): it belongs to the network namespace, as the interface does, and the kernel
    frees it however the process ends.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
        try:
            claim.bind(f"\0edgefleet/l4/{role}/{interface}")
        except OSError as error:
            raise AnotherAgentRuns(
                f"an edge-l4 {role} works on {interface} already: stop it first (`ss -xap` names its process)"
            ) from error
        yield
