"""The lab: the whole product on one machine, every host a network namespace with real processes in it.

    lab = await lab_up(LabSpec(), progress)     # namespaces, router, backends, orchestrator, agents; checked end to end
    lab_status("edge")                          # what runs, what does not
    lab_exec("edge", "client", ["curl", …])     # a command in a host's namespace
    lab_down("edge")                            # leaves nothing, whatever state the lab is in

Everything but `lab_up` blocks: from async code, call it through `trio.to_thread.run_sync`.
"""

from orchestrator.lab.bringup import Progress
from orchestrator.lab.errors import LabError
from orchestrator.lab.lab import HostStatus, Lab, LabStatus, ProcessStatus, find_lab, running_labs
from orchestrator.lab.lifecycle import lab_down, lab_exec, lab_status, lab_up
from orchestrator.lab.processes import Role
from orchestrator.lab.spec import DEFAULT_NAME, LabSpec
from orchestrator.lab.topology import HOST_NAME, VIP_PORT, VIP_V4, VIP_V6, LabHost, Topology

__all__ = [
    "DEFAULT_NAME",
    "HOST_NAME",
    "VIP_PORT",
    "VIP_V4",
    "VIP_V6",
    "HostStatus",
    "Lab",
    "LabError",
    "LabHost",
    "LabSpec",
    "LabStatus",
    "ProcessStatus",
    "Progress",
    "Role",
    "Topology",
    "find_lab",
    "lab_down",
    "lab_exec",
    "lab_status",
    "lab_up",
    "running_labs",
]
