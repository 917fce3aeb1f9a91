"""The way to the members: whether their hosts answer, whether the tunnel does, and how large its packets may be."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

from l4.checks.check import Check, Subject
from l4.checks.echo import Echo, answered
from l4.checks.mtu import overhead
from l4.interface import look_up_interface
from orchestrator.contract.checkup import CheckResult
from orchestrator.contract.pool import Encapsulation, Member, MemberState, PoolForwarding
from orchestrator.contract.report import BalancerStatus, MemberProbe, ProbeVerdict
from orchestrator.contract.snapshot import GUE_PORT, BalancerSnapshot, RedirectorSnapshot

TUNNEL = Check(
    "tunnel",
    "tunnel to members",
    "flows that are sent there go nowhere: an L4 node that notices passes their packets to the next owner, and the "
    "member's open flows end",
)
PATH_MTU = Check(
    "path_mtu",
    "path MTU to members",
    "full-sized packets of clients vanish on the way to these members, while handshakes and small requests work: "
    "downloads begin, uploads hang",
)

#: Members that are asked by one checkup at most: with more, it would be a burst of its own.
MAX_ASKED = 256

#: What Ethernet carries (RFC 894): clients' packets are rarely larger.
ETHERNET_MTU = 1500

#: Sizes tried to find what fits, in octets: PPPoE, common tunnels in tunnels, the least of IPv6 and of IPv4.
_LADDER = (1492, 1480, 1456, 1420, 1400, 1360, 1280, 1024, 576)

_PORTS = {
    Encapsulation.GUE: f"UDP to port {GUE_PORT}",
    Encapsulation.IPIP: "IP in IP (protocols 4 and 41)",
    Encapsulation.L2: "frames to its MAC address",
}


def look(subject: Subject) -> Iterator[CheckResult]:
    members = dict(_members(subject))
    if not members:
        return
    asked = sorted(members, key=lambda member: member.id)[:MAX_ASKED]
    # A member behind an L2 rewrite is given frames as they are: nothing is put before them.
    full = min(look_up_interface(subject.interface).mtu, ETHERNET_MTU + overhead(subject))
    sizes = {member: full for member in asked if members[member].encapsulation is not Encapsulation.L2}
    try:
        found = _ask(subject, [Echo(member.address) for member in asked] + _sized(sizes))
        alive = {member for member in asked if Echo(member.address) in found}
        narrow = [member for member in sizes if member in alive and Echo(member.address, full) not in found]
        fitting = _ask(subject, [Echo(member.address, size) for member in narrow for size in _LADDER if size < full])
    except PermissionError:
        yield TUNNEL.unknown("members were not asked: that takes CAP_NET_RAW", "run it as root")
        return
    probes = subject.status.probes if isinstance(subject.status, BalancerStatus) else {}
    yield from _tunnels(subject, members, asked, alive, probes)
    for member in narrow:
        fits = max((echo.size for echo in fitting if echo.address == member.address), default=None)
        yield PATH_MTU.failure(
            f"{member.name} ({member.address}) answers packets of {fits or 84} octets, and none of {full}",
            f"{full} octets without fragmenting: what a full packet is, encapsulated",
            advice="raise the MTU of what is between, or of that host: `edgectl doctor` tells whose differs, "
            f"`tracepath -n {member.address}` names the hop",
        )
    if alive and not narrow:
        yield PATH_MTU.ok(f"{full} octets reach {len(alive & sizes.keys())} members")


def _members(subject: Subject) -> Iterator[tuple[Member, PoolForwarding]]:
    """Whom this host sends packets to: an L4 node to all members, a member its second chances to its fellows."""
    snapshot = subject.snapshot
    for pool in snapshot.pools if snapshot else ():
        if isinstance(snapshot, RedirectorSnapshot) and not pool.redirectors:
            continue
        for member in pool.members:
            is_self = isinstance(snapshot, RedirectorSnapshot) and member.id == snapshot.member_id
            if member.state is not MemberState.DRAINED and not is_self:
                yield member, pool


def _sized(sizes: dict[Member, int]) -> list[Echo]:
    return [Echo(member.address, size) for member, size in sizes.items()]


def _ask(subject: Subject, echoes: Iterable[Echo]) -> set[Echo]:
    snapshot = subject.snapshot
    echoes = list(echoes)
    if not echoes or snapshot is None:
        return set()
    sources: list[IPv4Address | IPv6Address] = [snapshot.address]
    if isinstance(snapshot, BalancerSnapshot) and snapshot.address_v6 is not None:
        sources.append(snapshot.address_v6)
    return answered(echoes, sources)


def _tunnels(
    subject: Subject,
    members: dict[Member, PoolForwarding],
    asked: list[Member],
    alive: set[Member],
    probes: dict[int, MemberProbe],
) -> Iterator[CheckResult]:
    fine = 0
    silent = []
    for member in asked:
        probe = probes.get(member.id)
        if probe is None and member in alive:
            fine += 1
        elif probe is None:
            silent.append(member)
        elif probe.verdict is ProbeVerdict.HEALTHY:
            fine += 1
        elif probe.verdict is ProbeVerdict.UNHEALTHY:
            yield _unhealthy(member, probe)
        else:
            yield _unreachable(subject, member, members[member], probe, is_alive=member in alive)
    if silent:
        yield _silent(subject, silent)
    if fine:
        how = "probed through it" if probes else "answer pings" + ("; none is probed" if subject.is_balancer else "")
        yield TUNNEL.ok(f"{fine} of {len(asked)} members, {how}")


def _unreachable(
    subject: Subject, member: Member, pool: PoolForwarding, probe: MemberProbe, *, is_alive: bool
) -> CheckResult:
    who = f"{member.name} ({member.address})"
    if not is_alive:
        return TUNNEL.failure(
            f"{who} answers neither pings nor probes: {probe.detail}",
            "a host that is up",
            advice=f"look at the host and its link; `edgectl drain {member.name} --force` if it stays away",
        )
    source = subject.snapshot.address if subject.snapshot else "here"
    return TUNNEL.failure(
        f"{who} answers pings, and nothing through the tunnel: {probe.detail}",
        f"{_PORTS[pool.encapsulation]} let through, and opened there",
        advice=f"see that firewalls and routers between {source} and {member.address} let {_PORTS[pool.encapsulation]} "
        f"pass, and that its redirector is attached: `edgectl doctor {member.name}`; "
        f"`tcpdump -ni {subject.interface} udp port {GUE_PORT}` there shows whether packets arrive",
    )


def _unhealthy(member: Member, probe: MemberProbe) -> CheckResult:
    return TUNNEL.warning(
        f"{member.name} ({member.address}) is reached, and does not serve: {probe.detail}",
        "an answer as the pool's probe expects it",
        advice=f"look at what serves on {member.name}: `edgectl doctor {member.name}`, and the log of edge-l7 there",
    )


def _silent(subject: Subject, silent: list[Member]) -> CheckResult:
    names = ", ".join(f"{member.name} ({member.address})" for member in silent)
    reachable = [member for member in silent if member.reachable]
    if subject.is_balancer and reachable and len(silent) < len(dict(_members(subject))):
        return TUNNEL.warning(
            f"{names}: no answer to pings, and nobody probes them",
            "hosts that answer",
            advice="look at the hosts; if ICMP is filtered on purpose, give the pool a probe",
        )
    return TUNNEL.unknown(f"{names}: no answer to pings")
