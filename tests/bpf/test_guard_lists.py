"""The guard's lists: the most specific prefix decides, whatever else is listed."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.packet import Packet

from l4.balancer_program import BalancerProgram
from l4.guard_lists import Listing, Network
from tests.bpf.guarding import counted, refused, serve_all
from tests.bpf.packets import FLOWS, framed, inner_packet, node_settings
from tests.bpf.program_run import Verdict, run

pytestmark = pytest.mark.kernel

BLOCKED, ALLOWED, UNLISTED = Listing.BLOCKED, Listing.ALLOWED, Listing.UNLISTED

#: Name → lists, source, what is to be found.
CASES: dict[str, tuple[dict[str, Listing], str, Listing]] = {
    "nothing listed": ({}, "198.51.100.7", UNLISTED),
    "the address itself": ({"198.51.100.7/32": BLOCKED}, "198.51.100.7", BLOCKED),
    "a neighbour in the same /24": ({"198.51.100.6/32": BLOCKED}, "198.51.100.7", UNLISTED),
    "a neighbour in the next /24": ({"198.51.101.0/24": BLOCKED}, "198.51.100.7", UNLISTED),
    "first of a block": ({"198.51.100.0/23": BLOCKED}, "198.51.100.0", BLOCKED),
    "last of a block": ({"198.51.100.0/23": BLOCKED}, "198.51.101.255", BLOCKED),
    "behind a block": ({"198.51.100.0/23": BLOCKED}, "198.51.102.0", UNLISTED),
    "half of a /24": ({"198.51.100.128/25": BLOCKED}, "198.51.100.127", UNLISTED),
    "other half of a /24": ({"198.51.100.128/25": BLOCKED}, "198.51.100.128", BLOCKED),
    "a hole in a block": ({"198.51.0.0/16": BLOCKED, "198.51.100.7/32": ALLOWED}, "198.51.100.7", ALLOWED),
    "beside a hole in a block": ({"198.51.0.0/16": BLOCKED, "198.51.100.7/32": ALLOWED}, "198.51.100.8", BLOCKED),
    "a block in a hole in a block": (
        {"198.0.0.0/8": BLOCKED, "198.51.100.0/24": ALLOWED, "198.51.100.4/30": BLOCKED},
        "198.51.100.7",
        BLOCKED,
    ),
    "everything": ({"0.0.0.0/0": BLOCKED}, "198.51.100.7", BLOCKED),
    "everything but one": ({"0.0.0.0/0": BLOCKED, "198.51.100.7/32": ALLOWED}, "198.51.100.7", ALLOWED),
    "the last network": ({"255.255.255.0/24": BLOCKED}, "255.255.255.254", BLOCKED),
    "other family": ({"::/0": BLOCKED}, "198.51.100.7", UNLISTED),
    "IPv6: the address itself": ({"2001:db8:51::7/128": BLOCKED}, "2001:db8:51::7", BLOCKED),
    "IPv6: a neighbour in the same /64": ({"2001:db8:51::6/128": BLOCKED}, "2001:db8:51::7", UNLISTED),
    "IPv6: /64": ({"2001:db8:51::/64": BLOCKED}, "2001:db8:51::7", BLOCKED),
    "IPv6: a neighbour in the same /48": ({"2001:db8:51:1::/64": BLOCKED}, "2001:db8:51::7", UNLISTED),
    "IPv6: /63": ({"2001:db8:51::/63": BLOCKED}, "2001:db8:51:1::7", BLOCKED),
    "IPv6: /65": ({"2001:db8:51::/65": BLOCKED}, "2001:db8:51::7", BLOCKED),
    "IPv6: /48": ({"2001:db8:51::/48": BLOCKED}, "2001:db8:51:ffff::7", BLOCKED),
    "IPv6: /47": ({"2001:db8:50::/47": BLOCKED}, "2001:db8:51::7", BLOCKED),
    "IPv6: /32": ({"2001:db8::/32": BLOCKED}, "2001:db8:51::7", BLOCKED),
    "IPv6: /31": ({"2001:db8::/31": BLOCKED}, "2001:db9:51::7", BLOCKED),
    "IPv6: /20": ({"2001::/20": BLOCKED}, "2001:fff:51::7", BLOCKED),
    "IPv6: /19": ({"2001::/19": BLOCKED}, "2001:fff:51::7", BLOCKED),
    "IPv6: everything": ({"::/0": BLOCKED}, "2001:db8:51::7", BLOCKED),
    "IPv6: a hole in a block": (
        {"2001:db8::/32": BLOCKED, "2001:db8:51::/48": ALLOWED},
        "2001:db8:51::7",
        ALLOWED,
    ),
}


def lists(written: dict[str, Listing]) -> dict[Network, Listing]:
    return {ip_network(prefix): what for prefix, what in written.items()}


def packet_from(source: IPv4Address | IPv6Address, flags: str = "A") -> Packet:
    return inner_packet(replace(FLOWS[f"ipv{source.version}"], client=source), flags)


def is_blocked(balancer: BalancerProgram, packet: Packet) -> bool:
    """Whether the packet was dropped, having checked that it was sent on otherwise, and counted."""
    family = "ipv6" if packet.version == 6 else "ipv4"
    before, of_vip = balancer.counters(), refused(balancer, family, "blocked")
    verdict = run(balancer.descriptor, framed(packet)).verdict
    change = counted(before, balancer.counters())
    of_vip = refused(balancer, family, "blocked") - of_vip
    if verdict == Verdict.DROP:
        assert ({**change, "icmp_errors": 0}, of_vip) == ({"blocked": 1, "icmp_errors": 0}, 1)
        return True
    assert (verdict, of_vip) == (Verdict.TX, 0)
    assert "blocked" not in change
    return False


@pytest.mark.parametrize("case", CASES)
def test_most_specific_prefix_decides(balancer: BalancerProgram, case: str) -> None:
    serve_all(balancer)
    written, source, expected = CASES[case]
    balancer.guard.set_lists(lists(written))
    assert is_blocked(balancer, packet_from(ip_address(source))) == (expected is BLOCKED)


def oracle(listed: dict[Network, Listing], source: IPv4Address | IPv6Address) -> Listing:
    holding = [network for network in listed if network.version == source.version and source in network]
    return listed[max(holding, key=lambda network: network.prefixlen)] if holding else UNLISTED


def near_each_other(bits: int, base: int) -> st.SearchStrategy[int]:
    """Addresses that share much: differing in few places, so that prefixes lie within each other."""
    return st.lists(st.integers(0, bits - 1), max_size=4).map(lambda flips: base ^ sum({1 << flip for flip in flips}))


IPV4 = near_each_other(32, int(IPv4Address("198.51.100.7"))).map(IPv4Address)
IPV6 = near_each_other(128, int(IPv6Address("2001:db8:51::7"))).map(IPv6Address)
SOURCES = st.one_of(IPV4, IPV6)


@st.composite
def prefixes(draw: Any) -> Network:
    if draw(st.booleans()):
        return IPv4Network((draw(IPV4), draw(st.sampled_from((0, 1, 8, 15, 16, *range(20, 33))))), strict=False)
    return IPv6Network(
        (draw(IPV6), draw(st.sampled_from((0, 19, 20, 31, 32, 33, 47, 48, 49, 56, 64, 127, 128)))), False
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    listed=st.dictionaries(prefixes(), st.sampled_from((BLOCKED, ALLOWED)), max_size=12),
    sources=st.lists(SOURCES, min_size=1, max_size=12),
)
def test_any_lists_are_read_as_the_address_library_reads_them(
    balancer: BalancerProgram, listed: dict[Network, Listing], sources: list[IPv4Address | IPv6Address]
) -> None:
    serve_all(balancer)
    balancer.guard.set_lists(listed)
    for edge in [*listed][:4]:  # where prefixes begin and end
        sources = [*sources, edge.network_address, edge.broadcast_address]
    for source in sources:
        assert is_blocked(balancer, packet_from(source)) == (oracle(listed, source) is BLOCKED), source


def test_ten_thousand_prefixes_are_all_found(balancer: BalancerProgram) -> None:
    serve_all(balancer)
    hosts: dict[Network, Listing] = {IPv4Network((0x0A000000 + 997 * number, 32)): BLOCKED for number in range(10_000)}
    networks: dict[Network, Listing] = {
        IPv6Network((0x20010DB8 << 96 | number << 72, 56)): BLOCKED for number in range(10_000)
    }
    balancer.guard.set_lists({**hosts, **networks})
    for number in range(0, 10_000, 1111):
        assert is_blocked(balancer, packet_from(IPv4Address(0x0A000000 + 997 * number)))
        assert not is_blocked(balancer, packet_from(IPv4Address(0x0A000001 + 997 * number)))
        assert is_blocked(balancer, packet_from(IPv6Address(0x20010DB8 << 96 | number << 72 | 7)))
    assert not is_blocked(balancer, packet_from(IPv6Address(0x20010DB8 << 96 | 10_000 << 72 | 7)))


def test_more_prefixes_than_the_maps_hold_are_refused_and_change_nothing(balancer: BalancerProgram) -> None:
    serve_all(balancer)
    balancer.guard.set_lists(lists({"198.51.100.7/32": BLOCKED}))
    with pytest.raises(ValueError, match="65537 IPv4 prefixes are listed, and the guard holds 65536"):
        balancer.guard.set_lists({IPv4Network((number << 8, 32)): BLOCKED for number in range(65_537)})
    assert is_blocked(balancer, packet_from(IPv4Address("198.51.100.7")))


def test_lists_outlive_the_agent_and_are_taken_up_by_the_next(balancer: BalancerProgram) -> None:
    serve_all(balancer)
    balancer.guard.set_lists(lists({"198.51.100.7/32": BLOCKED, "2001:db8:51::/48": BLOCKED}))
    successor = BalancerProgram(balancer._pins.directory.parent.parent, rows=balancer.rows)
    for source in ("198.51.100.7", "2001:db8:51::7"):
        assert is_blocked(successor, packet_from(ip_address(source)))
    successor.guard.set_lists({})
    for source in ("198.51.100.7", "2001:db8:51::7"):
        assert not is_blocked(successor, packet_from(ip_address(source)))


def test_lists_are_not_asked_while_the_settings_say_that_they_are_empty(balancer: BalancerProgram) -> None:
    serve_all(balancer)
    balancer.guard.set_lists(lists({"198.51.100.7/32": BLOCKED}))
    balancer.set_settings(node_settings(balancer.rows, lists_ipv6=True))
    assert not is_blocked(balancer, packet_from(IPv4Address("198.51.100.7")))


def test_icmp_error_counts_as_the_client_whose_packet_it_quotes(balancer: BalancerProgram) -> None:
    serve_all(balancer)
    balancer.guard.set_lists(lists({"198.51.100.7/32": BLOCKED}))
    quoted = IP(src="203.0.113.10", dst="198.51.100.7") / bytes.fromhex("01bb9c4000000000")
    quoted.proto = 6
    assert is_blocked(balancer, IP(src="192.0.2.1", dst="203.0.113.10") / ICMP(type=3, code=4) / quoted)


def test_what_is_for_no_vip_is_left_alone(balancer: BalancerProgram) -> None:
    serve_all(balancer)
    balancer.guard.set_lists(lists({"0.0.0.0/0": BLOCKED}))
    elsewhere = packet_from(IPv4Address("198.51.100.7"))
    elsewhere.dst = "203.0.113.99"
    assert run(balancer.descriptor, framed(elsewhere)).verdict == Verdict.PASS


def test_same_lists_again_cost_nothing(balancer: BalancerProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = lists({"198.51.100.7/32": BLOCKED})
    balancer.guard.set_lists(listed)
    monkeypatch.setattr("l4.guard.compile_lists", lambda _: pytest.fail("compiled again"))
    balancer.guard.set_lists(dict(listed))
