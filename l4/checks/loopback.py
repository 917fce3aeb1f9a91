"""VIPs on lo, and nowhere else: what a member's kernel accepts, and what BIRD announces on an L4 node."""

import shlex
from collections.abc import Collection, Iterator
from ipaddress import ip_network

from pyroute2 import IPRoute

from l4.attachment import attached_program
from l4.checks.check import Check, Subject
from l4.interface_addresses import Network
from l4.vips import LOOPBACK_INDEX, vips_on_loopback
from orchestrator.contract.checkup import CheckResult
from orchestrator.contract.node import Announcement
from orchestrator.contract.report import BalancerStatus
from orchestrator.contract.snapshot import BalancerSnapshot

MISSING = Check(
    "vip_missing",
    "VIPs on lo",
    "a member's kernel refuses packets to an address that is not its own: its share of the VIP's flows is reset",
)
MISSING_ON_L4 = Check(
    "vip_missing",
    "VIPs on lo",
    "BIRD announces what it finds on lo: routers send this node nothing for that VIP, and the others carry its share",
)
ELSEWHERE = Check(
    "vip_elsewhere",
    "VIPs on other interfaces",
    "an address of another interface is answered by ARP or neighbour discovery there: this host draws the VIP's "
    "traffic to itself, past the L4 nodes",
)


def look(subject: Subject) -> Iterator[CheckResult]:
    check = MISSING_ON_L4 if subject.is_balancer else MISSING
    snapshot = subject.snapshot
    if snapshot is None:
        yield check.unknown("there is no snapshot that says which VIPs this host is to have")
        return
    withheld = subject.status.withheld if isinstance(subject.status, BalancerStatus) else {}
    is_silent = isinstance(snapshot, BalancerSnapshot) and snapshot.announcement is Announcement.NONE
    wanted = {vip.network for vip in snapshot.vips if vip.name not in withheld and not is_silent}
    missing = sorted(map(text, wanted - vips_on_loopback().all))
    if missing and subject.is_balancer and attached_program(subject.interface) is None:
        yield check.unknown(f"{', '.join(missing)} not on lo, as it should be: no program would forward their packets")
    elif missing:
        names = ", ".join(vip.name for vip in snapshot.vips if text(vip.network) in missing)
        yield check.failure(
            f"{', '.join(missing)} missing ({names})",
            f"{len(wanted)} addresses and blocks on lo",
            mend=reload_command(subject) if subject.is_agent else restore_command(subject),
            # An L4 node without its agent is not to draw traffic for longer than it has to.
            fixable=subject.is_agent or not subject.is_balancer,
            advice=None if subject.is_agent else f"and start edge-l4 {subject.role}, which keeps them there",
        )
    else:
        yield check.ok(f"{len(wanted)} there" + (f", {len(withheld)} withheld" if withheld else ""))
    yield from _elsewhere({vip.network for vip in snapshot.vips})


def _elsewhere(vips: Collection[Network]) -> Iterator[CheckResult]:
    found = [
        (name, network)
        for name, address in _addresses_of_others()
        for network in [ip_network(address.split("/")[0])]
        if any(network.version == vip.version and network.subnet_of(vip) for vip in vips)  # type: ignore[arg-type]
    ]
    if not found:
        yield ELSEWHERE.ok("none")
    for name, network in found:
        yield ELSEWHERE.failure(
            f"{network.network_address} is on {name}",
            "VIPs on lo alone",
            mend=f"ip address del {text(network)} dev {name}",
        )


def _addresses_of_others() -> Iterator[tuple[str, str]]:
    with IPRoute() as netlink:
        names = {link["index"]: link.get("ifname") for link in netlink.get_links()}
        for entry in netlink.get_addr():
            address = entry.get("IFA_LOCAL") or entry.get("IFA_ADDRESS")
            if entry["index"] != LOOPBACK_INDEX and address:
                yield names.get(entry["index"], "?"), address


def text(network: Network) -> str:
    """As ip(8) takes it."""
    return str(network)


def restore_command(subject: Subject) -> str:
    """Does what the agent would do on `lo`, where none runs."""
    state = shlex.quote(str(subject.place.state.path))
    return f"edge-l4 vips restore --state {state} --interface {subject.interface}"


def reload_command(subject: Subject) -> str:
    """Has the running agent bring the kernel to its snapshot anew. Packets notice nothing."""
    return f"edge-l4 {subject.role} reload --interface {subject.interface}"
