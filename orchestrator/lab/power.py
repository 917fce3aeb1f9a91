"""A host without power, and with power again: what a machine forgets, and what it has when it comes up."""

import contextlib
from pathlib import Path

from orchestrator.lab import fabric, processes
from orchestrator.lab.errors import LabError
from orchestrator.lab.topology import HOST_INTERFACE, LabHost


def cut(host: LabHost) -> None:
    """Takes a host's link down and then kills all that runs on it: whoever dies can tell nobody.

    The switch sees the link go down; a router behind it does not. Agents find their last good snapshot when they start
    again, as on a real machine.
    """
    with fabric.netlink(host.namespace) as ipr:
        ipr.link("set", index=fabric.index_of(ipr, HOST_INTERFACE), state="down")
    processes.kill_all_in([host.namespace])


def restore(host: LabHost, bpffs: Path) -> None:
    """The host after it has started, and before anything runs on it: kernel programs, maps and VIPs are gone, its own
    addresses and routes are there. Raises LabError.
    """
    fabric.run_in(host.namespace, ["ip", "link", "set", "dev", HOST_INTERFACE, "xdp", "off"])
    for family in ("-4", "-6"):
        fabric.run_in(host.namespace, ["ip", family, "address", "flush", "dev", "lo", "scope", "global"])
    with contextlib.suppress(LabError):  # it may have none
        fabric.run_in(host.namespace, ["tc", "qdisc", "delete", "dev", HOST_INTERFACE, "clsact"])
    if bpffs.is_mount():
        fabric.run(["umount", str(bpffs)])
        fabric.mount_bpffs(bpffs)
    fabric.configure_host(host)


def is_cut(host: LabHost) -> bool:
    """Whether its link is down on its own side: nobody but `cut` does that."""
    with fabric.netlink(host.namespace) as ipr:
        (link,) = ipr.get_links(fabric.index_of(ipr, HOST_INTERFACE))
        return str(link.get("state")) == "down"
