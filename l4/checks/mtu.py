"""The interface's MTU, and the MSS that this host asks clients for: packets have to fit with the encapsulation."""

import shlex
import socket
from collections.abc import Iterator
from typing import Any

from pyroute2 import IPRoute

from l4.checks.check import Check, Subject
from l4.checks.loopback import reload_command
from l4.direct_return import HEADERS, default_routes, route_metrics, tunnel_mss
from l4.interface import OVERHEADS, look_up_interface
from orchestrator.contract.checkup import CheckResult

MTU = Check(
    "mtu",
    "MTU",
    "every IPv6 client believes that packets of 1280 octets fit (RFC 8200 section 5): with the encapsulation before "
    "them they do not, and no answer makes the client send smaller ones",
)
MSS = Check(
    "mss",
    "advertised MSS",
    "clients send segments that do not fit the tunnel: each flow's first large packets are lost or refused, and "
    "where ICMP is filtered the flow hangs (a black hole, RFC 2923 section 2.1)",
)

#: RFC 8200 section 5, and RFC 791's "every host must accept" for IPv4.
_MINIMUM = {4: 576, 6: 1280}


def overhead(subject: Subject) -> int:
    """Octets that the largest encapsulation of the subject's pools puts before an inner packet."""
    if subject.snapshot is None:
        return 0
    return max(
        (
            OVERHEADS[pool.encapsulation, member.address.version]
            for pool in subject.snapshot.pools
            for member in pool.members
        ),
        default=0,
    )


def look(subject: Subject) -> Iterator[CheckResult]:
    mtu = look_up_interface(subject.interface).mtu
    octets = overhead(subject)
    versions = {vip.address.version for vip in subject.snapshot.vips} if subject.snapshot else set()
    least = max((_MINIMUM[version] + octets for version in versions), default=0)
    if mtu < least:
        family = "IPv6" if 6 in versions else "IPv4"
        yield MTU.failure(
            f"{mtu} on {subject.interface}",
            f"at least {least}: the smallest packets that {family} hosts reckon with, and {octets} of encapsulation",
            mend=f"ip link set dev {subject.interface} mtu 1500",
        )
    else:
        yield MTU.ok(f"{mtu}")
    if not subject.is_balancer and octets:
        yield from _mss(subject, mtu, octets)


def _mss(subject: Subject, mtu: int, octets: int) -> Iterator[CheckResult]:
    routes = fitting = 0
    with IPRoute() as netlink:
        names = {link["index"]: link.get("ifname") for link in netlink.get_links()}
        for family in HEADERS:
            wanted = tunnel_mss(mtu, family, octets)
            for route in default_routes(netlink, family):
                routes += 1
                advertised = route_metrics(route).get("RTAX_ADVMSS", 0)
                if 0 < advertised <= wanted:
                    fitting += 1
                    continue
                yield MSS.failure(
                    f"the default route by {route.get('RTA_GATEWAY')} advertises {advertised or 'what the MTU allows'}",
                    f"at most {wanted}: MTU {mtu} less {octets} of encapsulation and {HEADERS[family]} of headers",
                    mend=_command(subject, route, names, family, wanted),
                    fixable=True,
                )
    if routes and routes == fitting:
        yield MSS.ok(f"{fitting} default routes leave room for the encapsulation")
    elif not routes:
        yield MSS.warning(
            "there is no default route",
            "one that advertises a smaller MSS",
            advice="give the routes to clients an advmss by hand: `ip route change ... advmss "
            f"{tunnel_mss(mtu, socket.AF_INET, octets)}`",
        )


def _command(subject: Subject, route: Any, names: dict[int, str], family: int, wanted: int) -> str:
    """The agent sets what its snapshot asks for; without one, or beside an older value, the route is changed."""
    gateway, index = route.get("RTA_GATEWAY"), route.get("RTA_OIF")
    if gateway is None or index not in names or route_metrics(route).keys() - {"RTAX_ADVMSS"}:
        return reload_command(subject)
    metric = f" metric {route.get('RTA_PRIORITY')}" if route.get("RTA_PRIORITY") is not None else ""
    version = " -6" if family == socket.AF_INET6 else ""
    return (
        f"ip{version} route change default via {gateway} dev {shlex.quote(names[index])} proto {route['proto']}"
        f"{metric} advmss {wanted}"
    )
