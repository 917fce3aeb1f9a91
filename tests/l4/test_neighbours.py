"""Ethernet addresses of neighbours, from a real kernel: a bridge's worth of network in two namespaces."""

import os
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from pyroute2 import IPRoute, NetNS

from l4.entries import NO_MAC, MemberEntry
from l4.neighbours import Neighbours, with_macs

pytestmark = pytest.mark.kernel

Inside = Callable[..., Any]
HOST_MAC = "02:00:00:00:77:01"
HOST = {4: ip_address("198.18.5.7"), 6: ip_address("2001:db8:5::7")}
SILENT = {4: ip_address("198.18.5.8"), 6: ip_address("2001:db8:5::8")}
BEHIND = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8:99::1")}
MANAGED = 1


def make_segment(far: str) -> None:
    with IPRoute() as netlink:
        netlink.link("add", ifname="eth0", kind="veth", peer={"ifname": "host0", "address": HOST_MAC, "net_ns_fd": far})
        index = netlink.link_lookup(ifname="eth0")[0]
        netlink.link("set", index=index, state="up")
        netlink.addr("add", index=index, address="198.18.5.1", prefixlen=24)
        netlink.addr("add", index=index, address="2001:db8:5::1", prefixlen=64, flags=0x02)
        netlink.route("add", dst="192.0.2.0/24", gateway=str(HOST[4]))
        netlink.route("add", dst="2001:db8:99::/64", gateway=str(HOST[6]))


@pytest.fixture
def segment(inside: Inside) -> Iterator[NetNS]:
    """The other host of the segment, which answers for its addresses."""
    far = f"l4-neighbour-test-{os.getpid()}"
    with NetNS(far) as host:
        try:
            inside(make_segment, far)
            index = host.link_lookup(ifname="host0")[0]
            host.link("set", index=index, state="up")
            host.addr("add", index=index, address=str(HOST[4]), prefixlen=24)
            host.addr("add", index=index, address=str(HOST[6]), prefixlen=64, flags=0x02)
            yield host
        finally:
            host.remove()


def entries() -> dict[str, tuple[str | None, int]]:
    with IPRoute() as netlink:
        return {
            entry.get("NDA_DST"): (entry.get("NDA_LLADDR"), entry.get("NDA_FLAGS_EXT") or 0)
            for family in (2, 10)
            for entry in netlink.get_neighbours(family=family)
        }


def forget(address: Any) -> None:
    with IPRoute() as netlink:
        netlink.neigh("del", dst=str(address), ifindex=netlink.link_lookup(ifname="eth0")[0])


@pytest.mark.parametrize("version", [4, 6])
def test_member_in_the_segment_is_found_and_kept_by_the_kernel(inside: Inside, segment: NetNS, version: int) -> None:
    neighbours = Neighbours()
    inside(neighbours.keep, {HOST[version]}, 10.0)
    assert neighbours.mac(HOST[version]) == bytes.fromhex(HOST_MAC.replace(":", ""))
    assert inside(entries)[str(HOST[version])] == (HOST_MAC, MANAGED)
    member = MemberEntry(1, HOST[version], live=True)
    stranger = MemberEntry(2, SILENT[version], live=True)
    assert [entry.mac for entry in with_macs([member, stranger], neighbours)] == [
        bytes.fromhex(HOST_MAC.replace(":", "")),
        NO_MAC,
    ]


@pytest.mark.parametrize("version", [4, 6])
def test_gateway_is_kept_but_is_nobodys_own_address(inside: Inside, segment: NetNS, version: int) -> None:
    neighbours = Neighbours()
    inside(neighbours.keep, {BEHIND[version]}, 10.0)
    assert inside(entries)[str(HOST[version])] == (HOST_MAC, MANAGED)
    assert neighbours.mac(BEHIND[version]) is None


@pytest.mark.parametrize("version", [4, 6])
def test_host_that_does_not_answer_has_no_address_and_is_asked_for(
    inside: Inside, segment: NetNS, version: int
) -> None:
    neighbours = Neighbours()
    inside(neighbours.keep, {SILENT[version]}, 0.0)
    assert neighbours.mac(SILENT[version]) is None
    assert inside(entries)[str(SILENT[version])] == (None, MANAGED)


def test_what_is_no_longer_needed_is_let_go(inside: Inside, segment: NetNS) -> None:
    neighbours = Neighbours()
    inside(neighbours.keep, {HOST[4]}, 10.0)
    inside(neighbours.keep, set())
    assert str(HOST[4]) not in inside(entries)
    assert neighbours.mac(HOST[4]) is None


def test_static_entry_of_the_operator_is_used_and_left_alone(inside: Inside, segment: NetNS) -> None:
    def add() -> None:
        with IPRoute() as netlink:
            index = netlink.link_lookup(ifname="eth0")[0]
            netlink.neigh("add", dst=str(SILENT[4]), lladdr="02:00:00:00:88:01", ifindex=index)

    inside(add)
    neighbours = Neighbours()
    inside(neighbours.keep, {SILENT[4]}, 1.0)
    assert neighbours.mac(SILENT[4]) == bytes.fromhex("020000008801")
    inside(neighbours.keep, set())
    assert inside(entries)[str(SILENT[4])] == ("02:00:00:00:88:01", 0)


def test_older_kernel_is_asked_to_look_each_time(
    inside: Inside, segment: NetNS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l4.neighbours._NTF_EXT_MANAGED", 1 << 30)  # as unknown here as the right one is there
    neighbours = Neighbours()
    inside(neighbours.keep, {HOST[4]}, 10.0)
    assert neighbours.mac(HOST[4]) == bytes.fromhex(HOST_MAC.replace(":", ""))
    inside(forget, HOST[4])
    inside(neighbours.keep, {HOST[4]})
    assert inside(entries)[str(HOST[4])][1] == 0


def test_address_without_a_route_is_told_once(inside: Inside, segment: NetNS, caplog: pytest.LogCaptureFixture) -> None:
    neighbours = Neighbours()
    for _ in range(2):
        inside(neighbours.keep, {ip_address("203.0.113.1")})
    assert [record.message for record in caplog.records] == ["no route to 203.0.113.1: nothing can be sent there"]
