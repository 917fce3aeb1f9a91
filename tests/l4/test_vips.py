"""VIPs on `lo` of a real namespace: ours are reconciled, others' are left alone."""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest
from pyroute2 import IPRoute

from l4.vips import LOOPBACK_INDEX, addresses_on_loopback, reconcile

pytestmark = pytest.mark.kernel

V4 = ip_address("203.0.113.10")
V6 = ip_address("2001:db8:203::10")
OTHER = ip_address("203.0.113.77")
LOOPBACKS = {ip_address("127.0.0.1"), ip_address("::1")}


def add_by_hand(address: str) -> None:
    with IPRoute() as netlink:
        netlink.addr("add", index=LOOPBACK_INDEX, address=address, prefixlen=32)


def raw_addresses() -> list[tuple[str, int, int]]:
    with IPRoute() as netlink:
        return sorted(
            (message.get("IFA_ADDRESS"), message["prefixlen"], message.get("IFA_CACHEINFO")["tstamp"])
            for message in netlink.get_addr(index=LOOPBACK_INDEX)
        )


def test_vips_of_both_families_come_and_go(inside: Callable[..., Any]) -> None:
    assert inside(reconcile, {V4, V6}).ours == {V4, V6}
    assert inside(addresses_on_loopback).all == LOOPBACKS | {V4, V6}
    assert inside(reconcile, {V6}).ours == {V6}
    assert inside(reconcile, set()).ours == set()
    assert inside(addresses_on_loopback).all == LOOPBACKS


def test_vips_are_host_routes(inside: Callable[..., Any]) -> None:
    inside(reconcile, {V4, V6})
    lengths = {address: length for address, length, _ in inside(raw_addresses)}
    assert lengths[str(V4)] == 32
    assert lengths[str(V6)] == 128


def test_what_is_there_already_is_not_touched(inside: Callable[..., Any]) -> None:
    inside(reconcile, {V4, V6})
    before = inside(raw_addresses)
    inside(reconcile, {V4, V6})
    assert inside(raw_addresses) == before


def test_addresses_of_others_are_never_removed(inside: Callable[..., Any]) -> None:
    inside(add_by_hand, str(OTHER))
    present = inside(reconcile, {V4, OTHER})
    assert present.ours == {V4}
    assert OTHER in present.foreign
    inside(reconcile, set())
    assert OTHER in inside(addresses_on_loopback).foreign
