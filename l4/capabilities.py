"""What the kernel must allow an agent, asked for at the start rather than found missing half-way."""

from pathlib import Path

#: capabilities(7): interfaces, addresses and XDP; programs and maps. CAP_SYS_ADMIN stands for CAP_BPF, as it did
#: before Linux 5.8 parted them. CAP_SYS_NICE is for BIRD's priority, and can be done without.
NET_ADMIN = 1 << 12
SYS_ADMIN = 1 << 21
SYS_NICE = 1 << 23
BPF = 1 << 39


class NotPermitted(Exception):
    """The agent lacks capabilities; the text says which, and what to do."""


def effective_capabilities(status: Path = Path("/proc/self/status")) -> int:
    """This process's effective set, as a bit mask (proc_pid_status(5), CapEff)."""
    lines = status.read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))


def require_capabilities(effective: int) -> None:
    """Raises NotPermitted if the effective set cannot carry an agent."""
    missing = [] if effective & NET_ADMIN else ["CAP_NET_ADMIN"]
    if not effective & (BPF | SYS_ADMIN):
        missing.append("CAP_BPF")
    if missing:
        raise NotPermitted(f"edge-l4 loads programs into the kernel and lacks {' and '.join(missing)}: run it as root")
