"""What a host needs so that it can hold VIPs on `lo` and answer clients directly (direct server return).

- It must not answer ARP for a VIP, or it would draw the VIP's traffic to itself (`arp_ignore`, `arp_announce`). IPv6
  neighbour discovery needs no setting: it answers, solicits and announces for addresses of the asked interface only,
  so never for those of `lo` (net/ipv6/ndisc.c, ndisc_recv_ns).
- Decapsulated packets come from clients, through an interface that may not be the way back to them: strict reverse path
  filtering would drop them (RFC 3704 section 2.2); the loose kind will do.
- An L4 node that probes members is answered from the VIP, which is its own address as well: the kernel takes such
  packets only where it is told to (`accept_local`).
- Clients must send segments that still fit the path when they are encapsulated: the default routes advertise a smaller
  MSS (RFC 9293 section 3.7.1).

Settings are only ever tightened or loosened as far as needed. Marks of ours on routes are told by their value.
"""

import logging
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from l4.interface import OVERHEADS, Interface

log = logging.getLogger(__name__)

IPV4_CONF = Path("/proc/sys/net/ipv4/conf")

#: IP and TCP headers without options, which is what an MSS leaves out.
HEADERS: dict[int, int] = {socket.AF_INET: 40, socket.AF_INET6: 60}

_MAIN_TABLE = 254
_UNICAST = 1
_PROTOCOL_ROUTER_ADVERTISEMENT = 9

#: Attributes that are statistics of the kernel's, repeat a field, or are written anew.
_NOT_COPIED = ("RTA_CACHEINFO", "RTA_TABLE", "RTA_METRICS", "RTA_MULTIPATH")


class DirectReturnError(Exception):
    """A setting could not be made."""


@dataclass(frozen=True, slots=True)
class Ipv4Settings:
    """Of all interfaces together (`all`), and of the one that traffic arrives on (`own`)."""

    all: Mapping[str, int]
    own: Mapping[str, int]

    NAMES = ("arp_ignore", "arp_announce", "rp_filter", "accept_local")

    @classmethod
    def read(cls, interface: str) -> "Ipv4Settings":
        """Raises DirectReturnError."""
        return cls(*({name: _read(IPV4_CONF / where / name) for name in cls.NAMES} for where in ("all", interface)))


@dataclass(frozen=True, slots=True)
class SettingChange:
    """Another value for a setting."""

    interface: str
    """Or `all`."""
    name: str
    value: int
    was: int

    @property
    def words(self) -> str:
        return f"net.ipv4.conf.{self.interface}.{self.name}: {self.was} becomes {self.value}"

    def carry_out(self) -> None:
        """Raises DirectReturnError."""
        setting = IPV4_CONF / self.interface / self.name
        try:
            setting.write_text(f"{self.value}\n")
        except OSError as error:
            raise DirectReturnError(
                f"{setting} could not be set to {self.value}: {error.strerror}; is /proc/sys writable?"
            ) from error
        log.info("%s", self.words)


def plan_settings(
    interface: str, present: Ipv4Settings, *, takes_clients_packets: bool, takes_own_addresses: bool
) -> list[SettingChange]:
    """What is to be set so that no interface answers or announces a VIP by ARP, and that packets from clients
    (decapsulated here) or from this host's own addresses (answers to probes) are taken where they arrive."""
    changes = []
    # The kernel takes the larger of "all" and the interface's own, so stricter settings of an operator stand.
    for name, value in (("arp_ignore", 1), ("arp_announce", 2)):
        if present.all[name] < value:
            changes.append(SettingChange("all", name, value, present.all[name]))
    # 0 off, 1 strict, 2 loose; again the larger of the two rules, so 2 here also overrides a strict "all".
    if (takes_clients_packets or takes_own_addresses) and max(present.all["rp_filter"], present.own["rp_filter"]) == 1:
        changes.append(SettingChange(interface, "rp_filter", 2, present.own["rp_filter"]))
    if takes_own_addresses and not (present.all["accept_local"] or present.own["accept_local"]):
        changes.append(SettingChange(interface, "accept_local", 1, 0))
    return changes


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """A default route as the kernel told of it."""

    family: int
    advertised: int
    """The MSS; 0: that which fits the interface."""
    gateway: str | None
    is_advertised_by_router: bool
    message: Any = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class MssChange:
    """Another MSS for a default route."""

    route: DefaultRoute
    mss: int

    @property
    def words(self) -> str:
        return f"default route by {self.route.gateway}: advertises an MSS of {self.mss}"

    def carry_out(self) -> None:
        """Raises DirectReturnError."""
        with IPRoute() as netlink:
            _replace(netlink, self.route.message, advmss=self.mss)
        log.info("%s", self.words)


def read_default_routes() -> list[DefaultRoute]:
    """Of both families."""
    with IPRoute() as netlink:
        return [
            DefaultRoute(
                family=family,
                advertised=route_metrics(route).get("RTAX_ADVMSS", 0),
                gateway=route.get("RTA_GATEWAY"),
                is_advertised_by_router=route["proto"] == _PROTOCOL_ROUTER_ADVERTISEMENT,
                message=route,
            )
            for family in HEADERS
            for route in default_routes(netlink, family)
        ]


def plan_mss(routes: Iterable[DefaultRoute], mtu: int, overhead: int) -> tuple[list[MssChange], list[str]]:
    """How default routes come to advertise an MSS that leaves room for the encapsulation, and what stands against it.

    `overhead` is the largest that packets come here with (`OVERHEADS`), in octets; 0 asks for nothing. A route that
    advertises less already is left alone.
    """
    changes: list[MssChange] = []
    obstacles: list[str] = []
    if not overhead:
        return changes, obstacles
    routes = list(routes)
    if not routes:
        obstacles.append(
            "no default route to advertise a smaller MSS: full-sized packets of clients may not fit the tunnel"
        )
    for route in routes:
        wanted = tunnel_mss(mtu, route.family, overhead)
        if 0 < route.advertised <= wanted:
            continue
        if route.is_advertised_by_router:
            # A route that is replaced by hand is not renewed by advertisements any more.
            obstacles.append(
                f"the default route by {route.gateway} is learnt from router advertisements and cannot be given an MSS "
                f"of {wanted}: set a static default route, or large packets to IPv6 VIPs will not fit the tunnel"
            )
        else:
            changes.append(MssChange(route, wanted))
    return changes, obstacles


def tunnel_mss(mtu: int, family: int, overhead: int) -> int:
    """The largest TCP segment that fits `mtu` together with its own headers and `overhead` octets of encapsulation."""
    return mtu - overhead - HEADERS[family]


def stop_advertising_tunnel_mss(interface: Interface) -> None:
    """Takes our MSS off the default routes again. Raises DirectReturnError."""
    with IPRoute() as netlink:
        for family in HEADERS:
            ours = {tunnel_mss(interface.mtu, family, overhead) for overhead in OVERHEADS.values() if overhead}
            for route in default_routes(netlink, family):
                if route_metrics(route).get("RTAX_ADVMSS") in ours:
                    _replace(netlink, route, advmss=None)


def default_routes(netlink: IPRoute, family: int) -> list[Any]:
    """Of the main table, as pyroute2 tells them."""
    return [
        route
        for route in netlink.get_routes(family=family, table=_MAIN_TABLE)
        if route["dst_len"] == 0 and route["type"] == _UNICAST and route.get("RTA_DST") is None
    ]


def route_metrics(route: Any) -> dict[str, int]:
    """By the names of linux/rtnetlink.h: `RTAX_ADVMSS`, ..."""
    metrics = route.get("RTA_METRICS")
    return dict(metrics["attrs"]) if metrics else {}


def _replace(netlink: IPRoute, route: Any, *, advmss: int | None) -> None:
    """Writes the same route again with another advertised MSS, in one step."""
    metrics = route_metrics(route)
    metrics.pop("RTAX_ADVMSS", None)
    if advmss is not None:
        metrics["RTAX_ADVMSS"] = advmss
    fields = {name: route[name] for name in ("family", "tos", "table", "proto", "scope", "type")}
    attributes = {name.removeprefix("RTA_").lower(): value for name, value in route["attrs"] if name not in _NOT_COPIED}
    hops = [
        {
            "hops": hop["hops"],
            "flags": hop["flags"],
            "oif": hop["oif"],
            **{name.removeprefix("RTA_").lower(): value for name, value in hop["attrs"]},
        }
        for hop in route.get("RTA_MULTIPATH") or ()
    ]
    if hops:
        attributes["multipath"] = hops
    if metrics:
        attributes["metrics"] = {name.removeprefix("RTAX_").lower(): value for name, value in metrics.items()}
    try:
        netlink.route("replace", dst="default", **fields, **attributes)
    except NetlinkError as error:
        raise DirectReturnError(
            f"the default route by {route.get('RTA_GATEWAY')} could not be given an MSS of {advmss}: {error}"
        ) from error


def _read(setting: Path) -> int:
    try:
        return int(setting.read_text())
    except (OSError, ValueError) as error:
        raise DirectReturnError(f"{setting}: {error}") from error
