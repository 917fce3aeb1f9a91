"""One agent per role and interface: two would undo each other's work."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.contract.node import AgentRole


class AnotherAgentRuns(Exception):
    """An agent of the same role works on the same interface."""


def socket_name(role: AgentRole, interface: str) -> str:
    """The name that stands for the agent of this role on this interface."""
    return f"\0edgefleet/l4/{role}/{interface}"


@contextmanager
def sole_agent(role: AgentRole, interface: str) -> Iterator[socket.socket]:
    """Holds the interface for one agent of this role, as long as the process lives. Raises AnotherAgentRuns.

    By an abstract socket name (unix(7)): it belongs to the network namespace, as the interface does, and the kernel
    frees it however the process ends. The socket listens, so that the agent can be spoken to by that name.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
        try:
            claim.bind(socket_name(role, interface))
            claim.listen()
        except OSError as error:
            raise AnotherAgentRuns(
                f"an edge-l4 {role} works on {interface} already: stop it first (`ss -xap` names its process)"
            ) from error
        yield claim
