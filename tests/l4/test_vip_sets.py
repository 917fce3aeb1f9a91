"""VIP sets against a naive reading of the rule: the most specific address wins, then the fewest ports."""

import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4.entries import PROTOCOL_TCP, PROTOCOL_UDP, VipEntry
from l4.vip_sets import MAX_PORT_ENTRIES, PortPrefix, VipSets, VipsRefused, compile_vips, quic_servers

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def vip(network: str, first: int, last: int | None = None, vip_id: int = 1, slot: int = 0, **more: object) -> VipEntry:
    return VipEntry(ip_network(network), first, first if last is None else last, vip_id, slot, **more)  # type: ignore[arg-type]


def find(compiled: VipSets, address: Address, protocol: int, port: int | None) -> VipEntry | None:
    """As the kernel does it; `port` None for a fragment."""
    if port is not None and (hit := compiled.exact.get((address, port, protocol))):
        return hit
    networks = [n for n in compiled.sets if n.version == address.version and address in n]
    if not networks:
        return None
    entries = compiled.sets[max(networks, key=lambda n: n.prefixlen)]
    fitting = [
        (prefix, found)
        for prefix, found in entries
        if prefix.protocol == protocol
        and prefix.portless == (port is None)
        and (port or 0) >> (16 - prefix.length) == prefix.port >> (16 - prefix.length)
    ]
    return max(fitting, key=lambda entry: entry[0].length)[1] if fitting else None


def naive(vips: Sequence[VipEntry], address: Address, protocol: int, port: int) -> VipEntry | None:
    def fits(candidate: VipEntry) -> bool:
        any_port = (candidate.first_port, candidate.last_port) == (1, 65535)
        return (
            address in candidate.network
            and protocol == candidate.protocol
            and (any_port or candidate.first_port <= port <= candidate.last_port)
        )

    def rank(candidate: VipEntry) -> tuple[int, int, int]:
        return -candidate.network.prefixlen, candidate.last_port - candidate.first_port, candidate.vip_id

    return min(filter(fits, vips), key=rank, default=None)


def edges(vips: Sequence[VipEntry]) -> list[int]:
    """Ports at and around which the answer can change."""
    around = {edge + step for vip in vips for edge in (vip.first_port, vip.last_port) for step in (-1, 0, 1)}
    return sorted(around - {65536})


def naive_portless(vips: Sequence[VipEntry], address: Address, protocol: int) -> bool:
    """Whether all VIPs that packets to this address can be for are treated alike."""
    reached = {naive(vips, address, protocol, port) for port in edges(vips)} - {None}
    return len({(found.slot, found.hash_source) for found in reached if found}) == 1


# A universe so small that addresses, blocks and ranges meet.
_BASES = (int(IPv4Address("203.0.113.0")), int(IPv6Address("2001:db8::")))
PORTS = st.sampled_from([1, 2, 3, 79, 80, 81, 127, 128, 442, 443, 444, 1023, 1024, 32768, 65534, 65535])


@st.composite
def entries(draw: st.DrawFn) -> list[VipEntry]:
    found: dict[tuple[object, ...], VipEntry] = {}
    for vip_id in range(1, draw(st.integers(1, 10)) + 1):
        version = draw(st.sampled_from([4, 6]))
        bits = 32 if version == 4 else 128
        host_bits = draw(st.integers(0, 3))
        base = _BASES[version == 6] + draw(st.integers(0, 7))
        network = ip_network((base >> host_bits << host_bits, bits - host_bits)) if version == 4 else None
        network = network or IPv6Network((base >> host_bits << host_bits, bits - host_bits))
        first, last = sorted((draw(PORTS), draw(PORTS)))
        if draw(st.booleans()):
            first, last = draw(st.sampled_from([(first, first), (1, 65535)]))
        protocol = draw(st.sampled_from([PROTOCOL_TCP, PROTOCOL_UDP]))
        entry = VipEntry(
            network, first, last, vip_id, draw(st.integers(0, 1)), protocol=protocol, hash_source=draw(st.booleans())
        )
        found.setdefault((network, first, last, protocol), entry)
    return [*found.values()]


def addresses() -> list[Address]:
    v4, v6 = _BASES
    return [*(IPv4Address(v4 + n) for n in range(-1, 9)), *(IPv6Address(v6 + n) for n in range(-1, 9))]


@settings(max_examples=150, deadline=None)
@given(entries())
def test_every_packet_finds_the_most_specific_vip(vips: list[VipEntry]) -> None:
    compiled = compile_vips(vips)
    for address in addresses():
        for protocol in (PROTOCOL_TCP, PROTOCOL_UDP):
            for port in edges(vips):
                assert find(compiled, address, protocol, port) == naive(vips, address, protocol, port)


@settings(max_examples=100, deadline=None)
@given(entries())
def test_fragments_are_known_where_all_vips_are_treated_alike(vips: list[VipEntry]) -> None:
    compiled = compile_vips(vips)
    for address in {v.network.network_address for v in vips}:
        for protocol in (PROTOCOL_TCP, PROTOCOL_UDP):
            found = find(compiled, address, protocol, None)
            assert (found is not None) == naive_portless(vips, address, protocol)


@settings(max_examples=150, deadline=None)
@given(entries())
def test_what_a_set_holds_is_no_more_than_it_must(vips: list[VipEntry]) -> None:
    compiled = compile_vips(vips)
    assert set(compiled.sets) == {v.network for v in vips}
    for entries_of_set in compiled.sets.values():
        prefixes = [prefix for prefix, _ in entries_of_set]
        assert len(set(prefixes)) == len(prefixes)
        assert prefixes == sorted(prefixes)
        for prefix in prefixes:
            assert prefix.port & ((1 << 16 - prefix.length) - 1) == 0, "no bits behind the prefix"


@given(entries(), st.randoms())
def test_the_order_of_vips_does_not_matter(vips: list[VipEntry], random: object) -> None:
    shuffled = [*vips]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert compile_vips(shuffled) == compile_vips(vips)


def test_single_addresses_and_ports_take_a_hash_entry_and_one_for_fragments() -> None:
    compiled = compile_vips([vip("203.0.113.10", 443)])
    assert list(compiled.exact) == [(ip_address("203.0.113.10"), 443, PROTOCOL_TCP)]
    assert [prefix for prefix, _ in compiled.sets[ip_network("203.0.113.10")]] == [
        PortPrefix(PROTOCOL_TCP, portless=True, port=0, length=0)
    ]


def test_any_port_takes_one_entry_whatever_exceptions_there_are() -> None:
    web, rest = vip("203.0.113.0/24", 443, vip_id=1, slot=1), vip("203.0.113.0/24", 1, 65535, vip_id=2, slot=2)
    (found,) = compile_vips([web, rest]).sets.values()
    assert found == (
        (PortPrefix(PROTOCOL_TCP, portless=False, port=0, length=0), rest),
        (PortPrefix(PROTOCOL_TCP, portless=False, port=443, length=16), web),
    )


def test_a_single_address_inherits_from_its_block() -> None:
    block, single = vip("203.0.113.0/24", 80, 90, vip_id=1), vip("203.0.113.10", 85, vip_id=2, slot=1)
    compiled = compile_vips([block, single])
    inside = ip_address("203.0.113.10")
    assert [find(compiled, inside, PROTOCOL_TCP, port) for port in (84, 85, 86, 91)] == [block, single, block, None]
    assert find(compiled, inside, PROTOCOL_TCP, None) is None, "a fragment could be for either"
    assert find(compiled, ip_address("203.0.113.11"), PROTOCOL_TCP, None) == block


def test_a_shadowed_vip_does_not_make_fragments_ambiguous() -> None:
    shadowed, upper = vip("203.0.113.10", 80, 81, vip_id=1, slot=1), vip("203.0.113.10", 80, vip_id=2, slot=2)
    lower = vip("203.0.113.10", 81, vip_id=3, slot=2)
    compiled = compile_vips([shadowed, upper, lower])
    assert find(compiled, ip_address("203.0.113.10"), PROTOCOL_TCP, None) == upper


def test_equal_vips_and_mapped_blocks_are_refused() -> None:
    with pytest.raises(VipsRefused, match="VIPs 1 and 2 have the same addresses, ports and protocol"):
        compile_vips([vip("203.0.113.0/24", 1, 65535), vip("203.0.113.0/24", 1, 65535, vip_id=2)])
    with pytest.raises(VipsRefused, match=r"::/0 overlaps ::ffff:0.0.0.0/96|::/0 overlaps ::ffff:0:0/96"):
        compile_vips([vip("::/0", 443)])
    with pytest.raises(VipsRefused, match=f"at most {MAX_PORT_ENTRIES}"):
        compile_vips([vip(f"2001:db8:{n:x}::/48", 1, 65534, vip_id=n + 1) for n in range(1200)])


def test_a_thousand_vips_of_any_kind_compile_in_reasonable_time() -> None:
    vips = [vip("198.51.100.0/24", 1, 65535, vip_id=2000)]
    vips += [vip(f"198.51.100.{n}", 1000 + n, 3000 + 2 * n, vip_id=n + 1) for n in range(256)]
    vips += [vip(f"2001:db8::{n:x}", 443, vip_id=n + 300) for n in range(512)]
    vips += [vip(f"203.0.113.{n}", 443, vip_id=n + 900) for n in range(255)]
    compiled = compile_vips(vips)
    assert len(vips) == 1024
    assert len(compiled.exact) == 767
    start = time.perf_counter()
    compile_vips(vips)
    print(f"1024 VIPs compiled in {time.perf_counter() - start:.3f} s")


def test_quic_servers_are_the_members_of_pools_with_quic_vips() -> None:
    vips = [vip("203.0.113.1", 443, slot=3, quic=True), vip("203.0.113.2", 443, slot=4)]
    assert quic_servers(vips, {3: [7, 9], 4: [8]}) == {(3, 7): 7, (3, 9): 9}
