"""VIPs on `lo` of a real namespace: ours are reconciled, others' are left alone."""

import errno
import socket
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
from pyroute2 import IPRoute

from l4.vips import LOOPBACK_INDEX, reconcile, vips_on_loopback

pytestmark = pytest.mark.kernel

V4 = ip_network("203.0.113.10")
V6 = ip_network("2001:db8:203::10")
V4_BLOCK = ip_network("203.0.113.0/24")
V6_BLOCK = ip_network("2001:db8:203::/64")
OTHER = ip_network("203.0.113.77")
LOOPBACKS = {ip_network("127.0.0.0/8"), ip_network("::1")}


def add_by_hand(address: str) -> None:
    with IPRoute() as netlink:
        netlink.addr("add", index=LOOPBACK_INDEX, address=address, prefixlen=32)


def raw_addresses() -> list[tuple[str, int, int]]:
    with IPRoute() as netlink:
        return sorted(
            (message.get("IFA_ADDRESS"), message["prefixlen"], message.get("IFA_CACHEINFO")["tstamp"])
            for message in netlink.get_addr(index=LOOPBACK_INDEX)
        )


def our_routes() -> list[str]:
    with IPRoute() as netlink:
        routes = [route for family in (socket.AF_INET, socket.AF_INET6) for route in netlink.get_routes(family=family)]
        return [str(route.get("RTA_DST")) for route in routes if "203" in str(route.get("RTA_DST"))]


def accepts(address: str) -> bool:
    """Whether a connection to this address, with nobody listening, is answered by this host's RST."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
        client.settimeout(1)
        return client.connect_ex((address, 443)) == errno.ECONNREFUSED


def test_vips_of_both_families_come_and_go(inside: Callable[..., Any]) -> None:
    assert inside(reconcile, {V4, V6}).ours == {V4, V6}
    assert inside(vips_on_loopback).all == LOOPBACKS | {V4, V6}
    assert inside(reconcile, {V6}).ours == {V6}
    assert inside(reconcile, set()).ours == set()
    assert inside(vips_on_loopback).all == LOOPBACKS


def test_vips_are_host_routes(inside: Callable[..., Any]) -> None:
    inside(reconcile, {V4, V6})
    lengths = {address: length for address, length, _ in inside(raw_addresses)}
    assert lengths[str(V4.network_address)] == 32
    assert lengths[str(V6.network_address)] == 128


@pytest.mark.parametrize(
    ("block", "accepted"),
    [
        (V4_BLOCK, ("203.0.113.0", "203.0.113.1", "203.0.113.254", "203.0.113.255")),
        (V6_BLOCK, ("2001:db8:203::", "2001:db8:203::1", "2001:db8:203:0:ffff:ffff:ffff:ffff")),
        (ip_network("203.0.113.4/31"), ("203.0.113.4", "203.0.113.5")),
    ],
    ids=str,
)
def test_every_address_of_a_block_is_accepted_while_the_block_is_there(
    inside: Callable[..., Any], block: Any, accepted: tuple[str, ...]
) -> None:
    assert inside(reconcile, {block}).ours == {block}
    assert [inside(accepts, address) for address in accepted] == [True] * len(accepted)
    assert inside(reconcile, ()).ours == set()
    assert [inside(accepts, address) for address in accepted] == [False] * len(accepted)
    assert inside(our_routes) == []


def test_blocks_within_blocks_and_single_addresses_live_side_by_side(inside: Callable[..., Any]) -> None:
    wanted = {V4, V6, V4_BLOCK, V6_BLOCK}
    wanted |= {ip_network("203.0.113.0/25"), ip_network("203.0.113.0"), ip_network("2001:db8:203::/80")}
    wanted |= {ip_network("2001:db8:203::")}
    assert inside(reconcile, wanted).ours == wanted
    assert inside(reconcile, {V4_BLOCK, V6}).ours == {V4_BLOCK, V6}
    assert inside(accepts, "203.0.113.255")
    assert not inside(accepts, "2001:db8:203::1")


def test_what_is_there_already_is_not_touched(inside: Callable[..., Any]) -> None:
    everything = {V4, V6, V4_BLOCK, V6_BLOCK}
    inside(reconcile, everything)
    before = inside(raw_addresses)
    inside(reconcile, everything)
    assert inside(raw_addresses) == before


def test_addresses_of_others_are_never_removed(inside: Callable[..., Any]) -> None:
    inside(add_by_hand, str(OTHER.network_address))
    present = inside(reconcile, {V4, OTHER})
    assert present.ours == {V4}
    assert OTHER in present.foreign
    inside(reconcile, set())
    assert OTHER in inside(vips_on_loopback).foreign
