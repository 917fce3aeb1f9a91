"""What a host needs so that it can hold VIPs on `lo` and answer clients directly (direct server return).

- It must not answer ARP for a VIP, or it would draw the VIP's traffic to itself (`arp_ignore`, `arp_announce`; IPv6
  neighbour discovery answers for addresses of the asked interface only).
- Decapsulated packets come from clients, through an interface that may not be the way back to them: strict reverse path
  filtering would drop them (RFC 3704 section 2.2); the loose kind will do.
- Clients must send segments that still fit the path when they are encapsulated: the default routes advertise a smaller
  MSS (RFC 9293 section 3.7.1).

Settings are only ever tightened or loosened as far as needed. Marks of ours on routes are told by their value.
"""

import logging
import socket
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


def hide_vips_from_neighbours() -> None:
    """Sees to it that no interface answers or announces a VIP by ARP. Raises DirectReturnError."""
    # The kernel takes the larger of "all" and the interface's own, so stricter settings of an operator stand.
    _raise_to(IPV4_CONF / "all" / "arp_ignore", 1)
    _raise_to(IPV4_CONF / "all" / "arp_announce", 2)


def accept_clients_packets(interface: str) -> None:
    """Loosens strict reverse path filtering where the packets arrive. Raises DirectReturnError."""
    # 0 off, 1 strict, 2 loose; again the larger of the two rules, so 2 here also overrides a strict "all".
    if max(_read(IPV4_CONF / "all" / "rp_filter"), _read(IPV4_CONF / interface / "rp_filter")) == 1:
        _write(IPV4_CONF / interface / "rp_filter", 2)


def tunnel_mss(mtu: int, family: int, overhead: int) -> int:
    """The largest TCP segment that fits `mtu` together with its own headers and `overhead` octets of encapsulation."""
    return mtu - overhead - HEADERS[family]


def advertise_tunnel_mss(interface: Interface, overhead: int) -> int:
    """Lets the default routes advertise an MSS that leaves room for the encapsulation on `interface`.

    `overhead` is the largest that packets come here with (`OVERHEADS`), in octets.

    A route that advertises less already is left alone. Returns how many default routes now advertise a fitting MSS;
    0 means that large packets of clients would not reach this host. Raises DirectReturnError.
    """
    fitting = 0
    with IPRoute() as netlink:
        for family in HEADERS:
            wanted = tunnel_mss(interface.mtu, family, overhead)
            for route in default_routes(netlink, family):
                advertised = route_metrics(route).get("RTAX_ADVMSS", 0)
                if 0 < advertised <= wanted:
                    fitting += 1
                elif route["proto"] == _PROTOCOL_ROUTER_ADVERTISEMENT:
                    # A route that is replaced by hand is not renewed by advertisements any more.
                    log.warning(
                        "the default route by %s is learnt from router advertisements and cannot be given an MSS of "
                        "%d: set a static default route, or large packets to IPv6 VIPs will not fit the tunnel",
                        route.get("RTA_GATEWAY"),
                        wanted,
                    )
                else:
                    _replace(netlink, route, advmss=wanted)
                    log.info("default route by %s advertises an MSS of %d", route.get("RTA_GATEWAY"), wanted)
                    fitting += 1
    return fitting


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


def _write(setting: Path, value: int) -> None:
    try:
        setting.write_text(f"{value}\n")
    except OSError as error:
        raise DirectReturnError(
            f"{setting} could not be set to {value}: {error.strerror}; is /proc/sys writable?"
        ) from error
    log.info("%s set to %d", setting, value)


def _raise_to(setting: Path, value: int) -> None:
    if _read(setting) < value:
        _write(setting, value)
