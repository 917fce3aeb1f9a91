"""Sysctls and default routes of a real namespace, as direct server return needs them."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyroute2 import IPRoute

from l4.direct_return import (
    IPV4_CONF,
    Ipv4Settings,
    plan_mss,
    plan_settings,
    read_default_routes,
    stop_advertising_tunnel_mss,
    tunnel_mss,
)
from l4.interface import OVERHEADS, Interface, InterfaceError, look_up_interface
from orchestrator.contract.pool import Encapsulation

pytestmark = pytest.mark.kernel

GUE = OVERHEADS[Encapsulation.GUE, 4]

Inside = Callable[..., Any]
V4_GATEWAY = "198.18.2.1"
V6_GATEWAY = "2001:db8:18:2::1"


def advertise(interface: Interface, overhead: int) -> tuple[int, list[str]]:
    """Plans and does it. Returns how many routes were changed, and the obstacles."""
    changes, obstacles = plan_mss(read_default_routes(), interface.mtu, overhead)
    for change in changes:
        change.carry_out()
    return len(changes), obstacles


def settle(interface: str, *, takes_clients_packets: bool = False, takes_own_addresses: bool = False) -> list[str]:
    """Plans and does it. Returns what was planned, in words."""
    changes = plan_settings(
        interface,
        Ipv4Settings.read(interface),
        takes_clients_packets=takes_clients_packets,
        takes_own_addresses=takes_own_addresses,
    )
    for change in changes:
        change.carry_out()
    return [change.words for change in changes]


def make_uplink() -> Interface:
    with IPRoute() as netlink:
        netlink.link("add", ifname="eth0", kind="veth", peer={"ifname": "far"})
        for name in ("eth0", "far"):
            netlink.link("set", index=netlink.link_lookup(ifname=name)[0], state="up")
        index = netlink.link_lookup(ifname="eth0")[0]
        netlink.addr("add", index=index, address="198.18.2.11", prefixlen=24)
        netlink.addr("add", index=index, address="2001:db8:18:2::11", prefixlen=64, flags=0x02)
        netlink.route("add", dst="default", gateway=V4_GATEWAY)
        netlink.route("add", dst="default", family=socket.AF_INET6, gateway=V6_GATEWAY)
    return look_up_interface("eth0")


def add_route(**route: Any) -> None:
    with IPRoute() as netlink:
        netlink.route("add", **route)


def default_routes() -> list[tuple[str, int | None, dict[str, int]]]:
    def routes() -> Iterator[tuple[str, int | None, dict[str, int]]]:
        with IPRoute() as netlink:
            for family in (socket.AF_INET, socket.AF_INET6):
                for route in netlink.get_routes(family=family, table=254, dst_len=0):
                    metrics = route.get("RTA_METRICS")
                    gateway = route.get("RTA_GATEWAY") or "several"
                    yield gateway, route.get("RTA_PRIORITY"), dict(metrics["attrs"]) if metrics else {}

    return list(routes())


@pytest.fixture
def uplink(inside: Inside) -> Interface:
    interface: Interface = inside(make_uplink)
    return interface


def advertised(inside: Inside) -> dict[str, int | None]:
    return {gateway: metrics.get("RTAX_ADVMSS") for gateway, _, metrics in inside(default_routes)}


def test_the_interface_is_described(inside: Inside, uplink: Interface) -> None:
    assert (uplink.name, uplink.mtu, len(uplink.mac)) == ("eth0", 1500, 6)
    assert uplink.mac != bytes(6)


def test_an_unknown_interface_is_named(inside: Inside) -> None:
    with pytest.raises(InterfaceError, match="eth7"):
        inside(look_up_interface, "eth7")


def test_default_routes_of_both_families_leave_room_for_the_encapsulation(inside: Inside, uplink: Interface) -> None:
    assert inside(advertise, uplink, GUE) == (2, [])
    assert advertised(inside) == {V4_GATEWAY: 1500 - 44 - 40, V6_GATEWAY: 1500 - 44 - 60}


def test_the_mss_is_set_once_and_taken_off_again(inside: Inside, uplink: Interface) -> None:
    inside(advertise, uplink, GUE)
    once = inside(default_routes)
    assert inside(advertise, uplink, GUE) == (0, [])
    assert inside(default_routes) == once
    inside(stop_advertising_tunnel_mss, uplink)
    assert advertised(inside) == {V4_GATEWAY: None, V6_GATEWAY: None}


@pytest.mark.parametrize(("encapsulation", "version"), [pair for pair, octets in OVERHEADS.items() if octets])
def test_every_encapsulation_takes_its_own_and_is_told_from_an_operators(
    inside: Inside, uplink: Interface, encapsulation: Encapsulation, version: int
) -> None:
    octets = OVERHEADS[encapsulation, version]
    assert inside(advertise, uplink, octets) == (2, [])
    assert advertised(inside) == {V4_GATEWAY: 1500 - octets - 40, V6_GATEWAY: 1500 - octets - 60}
    inside(stop_advertising_tunnel_mss, uplink)
    assert advertised(inside) == {V4_GATEWAY: None, V6_GATEWAY: None}


def test_a_smaller_mss_of_the_operator_stands(inside: Inside, uplink: Interface) -> None:
    inside(add_route, dst="default", gateway="198.18.2.9", priority=50, metrics={"advmss": 1200, "window": 20000})
    assert inside(advertise, uplink, GUE) == (2, [])
    assert advertised(inside)["198.18.2.9"] == 1200
    inside(stop_advertising_tunnel_mss, uplink)
    assert advertised(inside)["198.18.2.9"] == 1200


def test_other_metrics_and_the_priority_survive(inside: Inside, uplink: Interface) -> None:
    inside(add_route, dst="default", gateway="198.18.2.9", priority=50, metrics={"window": 20000})
    before = len(inside(default_routes))
    inside(advertise, uplink, GUE)
    assert ("198.18.2.9", 50, {"RTAX_ADVMSS": 1416, "RTAX_WINDOW": 20000}) in inside(default_routes)
    assert len(inside(default_routes)) == before


def test_a_default_route_with_several_next_hops_keeps_them(inside: Inside, uplink: Interface) -> None:
    hops = [{"gateway": "198.18.2.2", "hops": 0}, {"gateway": "198.18.2.3", "hops": 2}]
    inside(add_route, dst="default", family=socket.AF_INET, priority=70, multipath=hops)
    inside(advertise, uplink, GUE)

    def next_hops() -> list[tuple[str, int]]:
        with IPRoute() as netlink:
            (route,) = (r for r in netlink.get_routes(family=socket.AF_INET, table=254) if r.get("RTA_MULTIPATH"))
            assert dict(route.get("RTA_METRICS")["attrs"]) == {"RTAX_ADVMSS": tunnel_mss(1500, socket.AF_INET, GUE)}
            return [(hop.get("RTA_GATEWAY"), hop["hops"]) for hop in route.get("RTA_MULTIPATH")]

    assert inside(next_hops) == [("198.18.2.2", 0), ("198.18.2.3", 2)]


def test_no_default_route_is_told(inside: Inside) -> None:
    changed, (obstacle,) = inside(advertise, Interface("eth0", 1500, mac=bytes(6)), GUE)
    assert changed == 0
    assert "no default route" in obstacle


def test_a_route_of_router_advertisements_is_left_to_them_and_told(inside: Inside, uplink: Interface) -> None:
    gateway = "2001:db8:18:2::9"
    inside(add_route, dst="default", family=socket.AF_INET6, gateway=gateway, priority=512, proto=9)
    changed, (obstacle,) = inside(advertise, uplink, GUE)
    assert changed == 2
    assert gateway in obstacle
    assert advertised(inside)[gateway] is None


def test_arp_for_vips_is_silenced_but_a_stricter_setting_stands(inside: Inside, uplink: Interface) -> None:
    def settings() -> tuple[str, str]:
        conf = IPV4_CONF / "all"
        return (conf / "arp_ignore").read_text().strip(), (conf / "arp_announce").read_text().strip()

    assert inside(settle, "eth0") == [
        "net.ipv4.conf.all.arp_ignore: 0 becomes 1",
        "net.ipv4.conf.all.arp_announce: 0 becomes 2",
    ]
    assert inside(settings) == ("1", "2")
    inside((IPV4_CONF / "all" / "arp_ignore").write_text, "8")
    assert inside(settle, "eth0") == []
    assert inside(settings) == ("8", "2")


@pytest.mark.parametrize("taking", ["takes_clients_packets", "takes_own_addresses"])
@pytest.mark.parametrize(("everywhere", "own", "afterwards"), [(0, 0, 0), (1, 0, 2), (0, 1, 2), (2, 0, 0), (0, 2, 2)])
def test_only_strict_reverse_path_filtering_is_loosened(
    inside: Inside, uplink: Interface, everywhere: int, own: int, afterwards: int, taking: str
) -> None:
    inside((IPV4_CONF / "all" / "rp_filter").write_text, str(everywhere))
    inside((IPV4_CONF / "eth0" / "rp_filter").write_text, str(own))
    inside(settle, "eth0")
    assert inside((IPV4_CONF / "eth0" / "rp_filter").read_text).strip() == str(own), "nothing asks for it"
    inside(settle, "eth0", **{taking: True})
    assert inside((IPV4_CONF / "eth0" / "rp_filter").read_text).strip() == str(afterwards)


def test_own_addresses_are_taken_where_probes_are_answered_only(inside: Inside, uplink: Interface) -> None:
    def accepts() -> list[str]:
        return [(IPV4_CONF / where / "accept_local").read_text().strip() for where in ("all", "eth0")]

    inside(settle, "eth0", takes_clients_packets=True)
    assert inside(accepts) == ["0", "0"]
    inside(settle, "eth0", takes_own_addresses=True)
    assert inside(accepts) == ["0", "1"]
