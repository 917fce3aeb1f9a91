"""How long a router goes on sending flows to next hops that are dead: read from its kernel's own route events."""

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
    """From a fault until no VIP's route leads to certain next hops any more: those of an L4 node, or of a site.

    The fault is the moment when a port leaves its bridge, or whatever moment `cut_at` is set to.
    """

    gateways: frozenset[str]
    """Addresses of the next hops."""
    vips: frozenset[str]
    port: str | None = None
    """A node's port on the router: its name. None if `cut_at` will be set from outside."""
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
            name = words[1].split("@")[0].rstrip(":") if len(words) > 1 else ""
            if self.port is not None and name == self.port and "master" not in words:
                self.cut_at = at
            return
        if at < self.cut_at:
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
    namespace: str,
    watch: FailoverWatch,
    within_s: float = LONGEST_FAILOVER_S,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Feed the watch from the router's kernel until its measure is taken, or too much time has passed.

    It counts as started once no event can be missed any more.
    """
    monitor = ["nsenter", f"--net={NAMESPACES / namespace}", "--", "ip", "-o", "-ts", "monitor", "link", "route"]
    async with child_process(monitor) as child:
        await _listening(child.pid)
        task_status.started()
        with trio.move_on_after(within_s):
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
