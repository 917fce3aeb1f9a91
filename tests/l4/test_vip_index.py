"""Which VIP a local address and port are of: the same as the balancer finds for the client's packet."""

import random
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4.vip_index import VipIndex
from orchestrator.contract.vip import ANY_PORT, Protocol, Vip, VipMode

IDS = count(1)


def vip(block: str, first: int, last: int | None = None, **options: Any) -> Vip:
    network = ip_network(block)
    number = next(IDS)
    return Vip(
        name=f"vip-{number}",
        id=number % 60000 + 1,
        address=network.network_address,
        prefix_length=network.prefixlen,
        port=first,
        last_port=last,
        mode=VipMode.TERMINATE,
        pool="edge",
        **options,
    )


def find(vips: Sequence[Vip], address: str, port: int) -> Vip | None:
    return VipIndex(vips).find(ip_address(address).packed, port)


def by_the_rule(vips: Sequence[Vip], address: str, port: int) -> Vip | None:
    """The rule in one expression."""
    fitting = [v for v in vips if ip_address(address) in v.network and v.ports[0] <= port <= v.ports[1]]
    return min(fitting, key=lambda v: (-v.network.prefixlen, v.ports[1] - v.ports[0], v.id), default=None)


@pytest.mark.parametrize(
    ("block", "inside", "outside"),
    [
        ("203.0.113.10/32", "203.0.113.10", "203.0.113.11"),
        ("203.0.113.0/24", "203.0.113.255", "203.0.114.0"),
        ("0.0.0.0/0", "255.255.255.255", "::1"),
        ("2001:db8::/64", "2001:db8::ffff", "2001:db8:0:1::"),
        ("2001:db8::1/128", "2001:db8::1", "2001:db8::2"),
    ],
)
def test_block_has_its_addresses_and_no_others(block: str, inside: str, outside: str) -> None:
    only = vip(block, 443)
    assert find([only], inside, 443) is only
    assert find([only], inside, 444) is None
    assert find([only], outside, 443) is None


def test_more_specific_addresses_go_before_fewer_ports() -> None:
    block, host = vip("203.0.113.0/24", 443), vip("203.0.113.10/32", *ANY_PORT)
    assert find([block, host], "203.0.113.10", 443) is host
    assert find([block, host], "203.0.113.11", 443) is block


def test_what_the_narrower_block_leaves_open_is_the_wider_ones() -> None:
    block, host = vip("203.0.113.0/24", *ANY_PORT), vip("203.0.113.10/32", 443)
    assert find([host, block], "203.0.113.10", 80) is block


def test_narrower_ranges_are_cut_out_of_wider_ones() -> None:
    anything = vip("203.0.113.10/32", *ANY_PORT)
    middle = vip("203.0.113.10/32", 1000, 2000)
    inner = vip("203.0.113.10/32", 1500)
    found = {
        port: find([inner, anything, middle], "203.0.113.10", port)
        for port in (1, 999, 1000, 1499, 1500, 1501, 2000, 2001, 65535)
    }
    assert [port for port, at in found.items() if at is middle] == [1000, 1499, 1501, 2000]
    assert [port for port, at in found.items() if at is inner] == [1500]
    assert [port for port, at in found.items() if at is anything] == [1, 999, 2001, 65535]


def test_vips_of_udp_hold_no_tcp_flows() -> None:
    assert find([vip("203.0.113.10/32", 443, protocol=Protocol.UDP)], "203.0.113.10", 443) is None


def test_thousand_vips_are_told_apart() -> None:
    vips = [vip(f"10.{number // 250}.{number % 250}.0/24", 1 + number, 2 + number) for number in range(1024)]
    index = VipIndex(vips)
    for number, expected in enumerate(vips):
        address = ip_address(f"10.{number // 250}.{number % 250}.77").packed
        assert index.find(address, 2 + number) is expected
        assert index.find(address, 3 + number) is None


BLOCKS = st.sampled_from(
    ["10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/31", "10.0.0.0/32", "10.0.0.1/32", "2001:db8::/32", "2001:db8::1/128"]
)
RANGES = st.tuples(st.integers(1, 12), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(BLOCKS, RANGES), max_size=12), st.randoms(use_true_random=False))
def test_search_follows_the_rule(blocks: list[tuple[str, tuple[int, int]]], chance: random.Random) -> None:
    vips = [vip(block, first, last) for block, (first, last) in blocks]
    chance.shuffle(vips)
    for address in ("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.200.0.0", "2001:db8::1", "2001:db8::2", "2001:db9::"):
        for port in range(1, 26):
            assert find(vips, address, port) is by_the_rule(vips, address, port)
