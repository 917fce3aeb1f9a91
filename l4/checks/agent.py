"""The agent of the place: whether it runs, and whether a restart would bring back what runs now."""

from collections.abc import Iterator

from l4.checks.check import Check, Subject
from l4.checks.process import process_behind, process_state
from l4.sole_agent import socket_name
from orchestrator.contract.checkup import CheckResult
from orchestrator.contract.state_directory import SnapshotUnreadable

AGENT = Check(
    "agent",
    "agent",
    "packets flow on by what is in the kernel, and nobody follows the fleet: this node keeps members and generations "
    "that are gone, and mends nothing; an L4 node's VIPs are withdrawn when its dead man's timer ends",
)
SNAPSHOT_FILE = Check(
    "snapshot_file", "snapshot on disk", "a restart or a reboot without an orchestrator starts from an older state"
)


def look(subject: Subject) -> Iterator[CheckResult]:
    if not subject.is_agent:
        yield _agent(subject)
    file = subject.place.state.snapshot_file
    try:
        on_disk = subject.place.state.load_snapshot()
    except SnapshotUnreadable as error:
        yield SNAPSHOT_FILE.failure(
            str(error), "a snapshot of this version", mend=f"rm {file}", advice=f"then restart edge-l4 {subject.role}"
        )
        return
    if on_disk is None:
        yield SNAPSHOT_FILE.warning(
            f"{file} does not exist",
            "the last good snapshot",
            advice="is the node in the configuration, and its agent connected? `edgectl status`",
        )
    elif subject.is_agent and subject.snapshot is not None and on_disk.version < subject.snapshot.version:
        yield SNAPSHOT_FILE.failure(
            f"{file} holds revision {on_disk.version}, and the agent runs {subject.snapshot.version}",
            "the same revision",
            advice="see that the disk is neither full nor read-only; the agent's log says what failed",
        )
    else:
        yield SNAPSHOT_FILE.ok(f"revision {on_disk.version}")


def _agent(subject: Subject) -> CheckResult:
    pid = process_behind(socket_name(subject.role, subject.interface))
    if pid is None:
        return AGENT.failure(
            f"no edge-l4 {subject.role} runs on {subject.interface}",
            "an agent",
            advice=f"start edge-l4 {subject.role} as this host starts it, and look in its log why it ended",
        )
    if process_state(pid) == "T":
        return AGENT.failure(
            f"edge-l4 {subject.role} (process {pid}) is stopped: somebody sent it SIGSTOP, or a debugger holds it",
            "an agent that runs",
            mend=f"kill -CONT {pid}",
            fixable=True,
        )
    return AGENT.ok(f"process {pid}")
