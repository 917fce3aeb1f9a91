"""The L4 agents' counters, read where an operator's Prometheus reads them."""

import re
from typing import Final

from orchestrator.contract.node import AgentRole
from orchestrator.lab.errors import LabError
from orchestrator.lab.fabric import run_in
from orchestrator.lab.topology import METRICS_PORTS, LabHost

_COUNTER: Final = re.compile(r"^edge_l4_(\w+)_total ([0-9.e+]+)$", re.MULTILINE)


def counters_of(host: LabHost, role: AgentRole) -> dict[str, float]:
    """Counters without labels, by their names in docs/protocol.md. Raises LabError if the agent does not answer."""
    url = f"http://{host.address}:{METRICS_PORTS[role]}/metrics"
    text = run_in(host.namespace, ["curl", "--silent", "--show-error", "--fail", "--max-time", "5", url])
    found = {name: float(value) for name, value in _COUNTER.findall(text)}
    if not found:
        raise LabError(f"{role} on {host.name} exports no counters at {url}")
    return found
