"""Subjects for checks: hosts with snapshots written by hand, in a test's own network namespace."""

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from l4.bird import Bird
from l4.checks.check import Look, Place, Subject
from l4.checks.checkup import run_check
from orchestrator.contract.checkup import CheckResult, Severity
from orchestrator.contract.node import AgentRole
from orchestrator.contract.pool import Generation, GenerationMember, Member, MemberState, PoolForwarding
from orchestrator.contract.report import BalancerStatus, MemberProbe
from orchestrator.contract.snapshot import BalancerSnapshot, Bgp, BgpNeighbor, RedirectorSnapshot
from orchestrator.contract.state_directory import StateDirectory
from tests.l4.edge import SETTINGS, VIPS

#: The host that is looked at, and its fellow at the other end of the wire.
HERE, THERE = ip_address("198.18.2.11"), ip_address("198.18.2.12")
MEMBERS = (
    Member(id=1, name="proxy-1", address=HERE, state=MemberState.ACTIVE),
    Member(id=2, name="proxy-2", address=THERE, state=MemberState.ACTIVE),
)
L4_ADDRESS = ip_address("198.18.2.9")
BGP = Bgp(asn=64601, router_id="198.18.2.9", neighbors=(BgpNeighbor(address="198.18.2.1", asn=64600),))


def pool(*members: Member) -> PoolForwarding:
    generation = Generation(number=1, members=tuple(GenerationMember(id=member.id, weight=1) for member in members))
    return PoolForwarding(name="edge", slot=0, members=members, generations=(generation,))


def redirector_snapshot() -> RedirectorSnapshot:
    return RedirectorSnapshot(
        version=7,
        node="proxy-1",
        member_id=1,
        address=HERE,
        forwarding=SETTINGS,
        vips=VIPS,
        pools=(pool(*MEMBERS),),
        tunnel_sources=(L4_ADDRESS, THERE),
        l4_nodes={1: "l4-1"},
    )


def balancer_snapshot(*members: Member) -> BalancerSnapshot:
    return BalancerSnapshot(
        version=7,
        node="l4-1",
        node_id=1,
        address=L4_ADDRESS,
        forwarding=SETTINGS,
        vips=VIPS,
        pools=(pool(*(members or MEMBERS[1:])),),
        bgp=BGP,
    )


def redirector(state: Path = Path("/nonexistent"), **changes: Any) -> Subject:
    """A member's host, as `edge-l4 doctor` would look at it; `changes` are of the subject."""
    place = Place(AgentRole.REDIRECTOR, "eth0", Path("/sys/fs/bpf"), StateDirectory(state))
    return replace(Subject(place, redirector_snapshot()), **changes)


def balancer(state: Path = Path("/nonexistent"), bird: Bird | None = None, **changes: Any) -> Subject:
    """An L4 node."""
    place = Place(AgentRole.BALANCER, "eth0", Path("/sys/fs/bpf"), StateDirectory(state), bird=bird)
    return replace(Subject(place, balancer_snapshot()), **changes)


def balancer_status(probes: dict[int, MemberProbe] | None = None, **withheld: str) -> BalancerStatus:
    return BalancerStatus(
        interface="eth0",
        xdp_mode="native",
        announced=(),
        withheld={name.replace("_", "-"): reason for name, reason in withheld.items()},
        tables=(),
        counters={},
        probes=probes or {},
    )


def make_uplink() -> None:
    """`eth0` with an address and a default route, at a wire to `far`; as a lab's hosts, without offloads."""
    with IPRoute() as netlink:
        netlink.link("add", ifname="eth0", kind="veth", peer={"ifname": "far"})
        for name in ("eth0", "far"):
            netlink.link("set", index=netlink.link_lookup(ifname=name)[0], state="up")
        index = netlink.link_lookup(ifname="eth0")[0]
        netlink.addr("add", index=index, address=str(HERE), prefixlen=24)
        netlink.route("add", dst="default", gateway="198.18.2.1")


def seen(look: Look, subject: Subject) -> dict[str, CheckResult]:
    """What a check saw, by the results' ids; the worst of several with one id."""
    results: dict[str, CheckResult] = {}
    for result in run_check(look, subject):
        before = results.get(result.id)
        if before is None or [*Severity].index(result.severity) > [*Severity].index(before.severity):
            results[result.id] = result
    return results
