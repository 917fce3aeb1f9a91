"""How long the router goes on sending flows to an L4 node that is dead: read from its kernel's own route events."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

import trio

from orchestrator.lab.child import child_process, lines
from orchestrator.lab.processes import NAMESPACES

#: How long the router may take: BGP's own hold time of 9 s, were BFD not there, and some.
LONGEST_FAILOVER_S: Final = 15.0


@dataclass(slots=True)
class FailoverWatch:
    """From the moment an L4 node's port leaves the bridge until no VIP's route leads to the node any more."""

    port: str
    """The node's port on the router: its name."""
    gateways: frozenset[str]
    """The node's addresses as next hops."""
    vips: frozenset[str]
    cut_at: float | None = None
    """Unix time of the cut, as the router's kernel told it."""
    left_at: dict[str, float] = field(default_factory=dict)
    """VIP → Unix time when its route stopped to lead to the node."""

    @property
    def milliseconds(self) -> float | None:
        """The slower of the families; None until all VIPs' routes have left."""
        if self.cut_at is None or self.left_at.keys() != self.vips:
            return None
        return round(max(at - self.cut_at for at in self.left_at.values()) * 1000, 1)

    def take(self, line: str) -> None:
        """One line of `ip -o -ts monitor link route`."""
        stamp, _, event = line.partition("] ")
        if not stamp.startswith("["):
            return
        at = datetime.fromisoformat(stamp[1:]).astimezone().timestamp()
        words = event.replace("\\", " ").split()
        deleted = words[:1] == ["Deleted"]
        words = words[deleted:]
        if self.cut_at is None:
            # The interface as such lost its master; the same event of the bridge's own family still names it.
            if len(words) > 1 and words[1].split("@")[0].rstrip(":") == self.port and "master" not in words:
                self.cut_at = at
            return
        vip = words[0] if words else ""
        if vip not in self.vips:
            return
        leads_there = bool(self.gateways & frozenset(next_hops(words)))
        if leads_there == deleted:
            self.left_at.setdefault(vip, at)
        elif leads_there:
            self.left_at.pop(vip, None)


def next_hops(words: list[str]) -> Iterable[str]:
    """Gateways in a route as `ip` writes it: `via A` or `nexthop via A`, for each next hop."""
    return (following for word, following in pairwise(words) if word == "via")


async def watch_failover(
    namespace: str, watch: FailoverWatch, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Feed the watch from the router's kernel until its measure is taken, or too much time has passed.

    It counts as started once no event can be missed any more.
    """
    monitor = ["nsenter", f"--net={NAMESPACES / namespace}", "--", "ip", "-o", "-ts", "monitor", "link", "route"]
    async with child_process(monitor) as child:
        await _listening(child.pid)
        task_status.started()
        with trio.move_on_after(LONGEST_FAILOVER_S):
            async for line in lines(child.stdout):
                watch.take(line)
                if watch.milliseconds is not None:
                    return


async def _listening(pid: int) -> None:
    """Wait until the process has its netlink socket. Nothing announces that: it must be looked for."""
    with trio.move_on_after(LONGEST_FAILOVER_S):
        while not any("socket:" in target for target in _descriptors(pid)):  # noqa: ASYNC110
            await trio.sleep(0.01)


def _descriptors(pid: int) -> list[str]:
    try:
        return [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []
