"""What an agent holds: memory, files, entries of its kernel maps; and whether that has grown."""

import contextlib
import statistics
import time
from pathlib import Path
from typing import Final

from orchestrator.contract.base import Contract
from orchestrator.lab import processes
from orchestrator.lab.bringup import agents
from orchestrator.lab.lab import Lab
from orchestrator.lab.processes import Role
from orchestrator.lab.soak import kernel_maps

#: Looks of which the median counts: connections come and go, and so do buffers.
LOOKS: Final = 5
LOOK_S: Final = 1.0

#: By how much an account may have grown, and how many files or entries may be a connection in passing.
MOST_GROWTH: Final = 0.05
SLACK: Final = 2


class Account(Contract):
    """Of one agent with all its processes."""

    resident_kib: int
    """Resident memory (VmRSS of proc_pid_status(5)), the sum of its processes."""
    descriptors: int
    """Open files; of the proxy without sockets, of which it has as many as there is traffic."""
    map_entries: int
    """Of its kernel maps; 0 for the proxy, which has none."""


def take(lab: Lab) -> dict[str, Account]:
    """Of every agent, by "node/role": medians of some looks. Blocks. Raises LabError."""
    looks: list[dict[str, Account]] = []
    for _ in range(LOOKS):
        looks.append({f"{host.name}/{role}": _account(lab, host.name, Role(role.value)) for host, role in agents(lab)})
        time.sleep(LOOK_S)
    return {name: _median([look[name] for look in looks]) for name in looks[0]}


def growth(first: Account, last: Account) -> list[str]:
    """What has grown by more than it may, in words. What has shrunk is fine."""
    found = []
    for name, slack in (("resident_kib", 0), ("descriptors", SLACK), ("map_entries", 0)):
        before, after = getattr(first, name), getattr(last, name)
        if after > before * (1 + MOST_GROWTH) and after > before + slack:
            found.append(f"{name} grew from {before} to {after}")
    return found


def _median(looks: list[Account]) -> Account:
    return Account(
        **{name: int(statistics.median(getattr(look, name) for look in looks)) for name in Account.model_fields}
    )


def _account(lab: Lab, host: str, role: Role) -> Account:
    pids = processes.family_of(lab.process(host, role))
    files = [target for pid in pids for target in _files(pid)]
    return Account(
        resident_kib=sum(_resident_kib(pid) for pid in pids),
        descriptors=sum(role is not Role.PROXY or not target.startswith("socket:") for target in files),
        map_entries=0 if role is Role.PROXY else kernel_maps.entries(lab.bpffs(host)),
    )


def _resident_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def _files(pid: int) -> list[str]:
    """What its open files are; one that is closed meanwhile is left out."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(str(path.readlink()))
    return found
