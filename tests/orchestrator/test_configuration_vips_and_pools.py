"""VIPs, pools and nodes in all the forms that they can have: what is accepted and what it means, what is refused."""

import pytest

from orchestrator.config.compile import load_configuration
from orchestrator.config.configuration import ConfiguredVip
from orchestrator.config.findings import ConfigurationRefused
from orchestrator.config.vips import MAX_PORT_PREFIXES
from orchestrator.contract.operator import VipView
from orchestrator.contract.pool import MAX_MEMBERS
from orchestrator.contract.vip import MAX_VIPS
from tests.orchestrator.fleets import PLATFORM, files

NODES_AND_POOLS = PLATFORM.partition("vips:\n")[0]


def with_vips(*vips: str) -> dict[str, str]:
    """The usual fleet behind these VIPs; `{address: …}` stands for a VIP of pool edge in passthrough mode."""
    lines = []
    for index, vip in enumerate(vips):
        usual = {"name": f"vip-{index}", "pool": "edge", "mode": "passthrough"}
        absent = "".join(f", {field}: {value}" for field, value in usual.items() if f"{field}:" not in vip)
        lines.append(f"  - {{{vip}{absent}}}\n")
    return files(NODES_AND_POOLS + "vips:\n" + "".join(lines))


def only_vip(text: str) -> ConfiguredVip:
    return load_configuration(with_vips(text)).vips[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "one address and port": ("address: 203.0.113.10, port: 443", ("203.0.113.10", None, 443, None)),
        "block": ("address: 203.0.113.0/28, port: 443", ("203.0.113.0", 28, 443, None)),
        "block of one": ("address: 203.0.113.10/32, port: 443", ("203.0.113.10", None, 443, None)),
        "IPv6 block": ('address: "2001:db8:203::/64", port: 443', ("2001:db8:203::", 64, 443, None)),
        "range": ("address: 203.0.113.10, port: 8000-8999", ("203.0.113.10", None, 8000, 8999)),
        "range of one": ("address: 203.0.113.10, port: 8000-8000", ("203.0.113.10", None, 8000, None)),
        "any port": ("address: 203.0.113.0/28, port: any", ("203.0.113.0", 28, 1, 65535)),
        "any port in numbers": ("address: 203.0.113.10, port: 1-65535", ("203.0.113.10", None, 1, 65535)),
    }.values(),
)
def test_addresses_and_ports_in_all_their_forms(text: str, expected: tuple[str, int | None, int, int | None]) -> None:
    vip = only_vip(text)
    assert (str(vip.address), vip.prefix_length, vip.port, vip.last_port) == expected
    assert (vip.protocol, vip.flow_hash, vip.quic) == ("tcp", "flow", False)


def test_udp_quic_and_the_hash_by_source() -> None:
    vip = only_vip("address: 203.0.113.10, port: 443, protocol: udp, hash: source, quic: true")
    assert (vip.protocol, vip.flow_hash, vip.quic) == ("udp", "source", True)


#: What may stand beside each other, because one is more specific, or they have nothing in common.
BESIDE = {
    "TCP and UDP": ("address: 203.0.113.10, port: 443", "address: 203.0.113.10, port: 443, protocol: udp"),
    "address in a block": ("address: 203.0.113.0/28, port: 443", "address: 203.0.113.10, port: 443"),
    "block in a block": ("address: 203.0.113.0/28, port: 80-90", "address: 203.0.113.8/29, port: 85-95"),
    "range in a range": ("address: 203.0.113.10, port: 8000-8999", "address: 203.0.113.10, port: 8100-8200"),
    "range with one end in common": ("address: 203.0.113.10, port: 80-90", "address: 203.0.113.10, port: 80-85"),
    "port in any": ("address: 203.0.113.10, port: 443", "address: 203.0.113.10, port: any"),
    "ranges side by side": ("address: 203.0.113.10, port: 80-89", "address: 203.0.113.10, port: 90-99"),
}


@pytest.mark.parametrize("vips", BESIDE.values(), ids=BESIDE)
def test_vips_that_do_not_contradict_each_other(vips: tuple[str, str]) -> None:
    assert len(load_configuration(with_vips(*vips)).vips) == 2


#: VIPs, the finding's code, its place, and words of its message or hint.
BAD_VIPS = {
    "address inside a block": (
        ["address: 203.0.113.10/28, port: 443"],
        ("invalid_value", "platform.yaml:12:15 vips[0].address", "write 203.0.113.0/28 for the block"),
    ),
    "address that is none": (
        ["address: 203.0.113.300, port: 443"],
        ("invalid_value", "platform.yaml:12:15 vips[0].address", "neither an address nor a block"),
    ),
    "prefix that is none": (
        ["address: 203.0.113.0/33, port: 443"],
        ("invalid_value", "platform.yaml:12:15 vips[0].address", "neither an address nor a block"),
    ),
    "netmask": (
        ["address: 203.0.113.0/255.255.255.0, port: 443"],
        ("invalid_value", "platform.yaml:12:15 vips[0].address", "neither an address nor a block"),
    ),
    "port 0": (
        ["address: 203.0.113.10, port: 0"],
        ("invalid_value", "platform.yaml:12:35 vips[0].port", "stay within 1 and 65535"),
    ),
    "range backwards": (
        ["address: 203.0.113.10, port: 90-80"],
        ("invalid_value", "platform.yaml:12:35 vips[0].port", "the smaller one first"),
    ),
    "port by name": (
        ["address: 203.0.113.10, port: https"],
        ("invalid_value", "platform.yaml:12:35 vips[0].port", "a port is an integer"),
    ),
    "protocol that is none": (
        ["address: 203.0.113.10, port: 443, protocol: sctp"],
        ("unknown_value", "platform.yaml:12:50 vips[0].protocol", "'tcp' or 'udp'"),
    ),
    "QUIC over TCP": (
        ["address: 203.0.113.10, port: 443, quic: true"],
        ("not_applicable", "platform.yaml:12:46 vips[0].quic", "add `protocol: udp`"),
    ),
    "hops before packets that nobody reads": (
        ["address: 203.0.113.10, port: 443, mode: passthrough, trusted_hops: 1"],
        ("not_applicable", "platform.yaml:12:73 vips[0].trusted_hops", "remove `trusted_hops`"),
    ),
    "more hops than anyone has": (
        ["address: 203.0.113.10, port: 443, mode: terminate, trusted_hops: 9"],
        ("invalid_value", "platform.yaml:12:71 vips[0].trusted_hops", "8"),
    ),
    "PROXY headers before packets that nobody reads": (
        ["address: 203.0.113.10, port: 443, mode: passthrough, accept_proxy_protocol: [198.51.100.1]"],
        ("not_applicable", "platform.yaml:12:82 vips[0].accept_proxy_protocol", "let the pool's hosts accept it"),
    ),
    "PROXY headers of anybody": (
        ["address: 203.0.113.10, port: 443, mode: terminate, accept_proxy_protocol: [198.51.100.1, 0.0.0.0/0]"],
        ("too_wide", "platform.yaml:12:95 vips[0].accept_proxy_protocol[1]", "name the addresses"),
    ),
    "PROXY headers of an address inside a block": (
        ["address: 203.0.113.10, port: 443, mode: terminate, accept_proxy_protocol: [198.51.100.1/24]"],
        ("invalid_value", "platform.yaml:12:81 vips[0].accept_proxy_protocol[0]", "write 198.51.100.0/24"),
    ),
    "block that is terminated": (
        ["address: 203.0.113.0/28, port: 443, mode: terminate"],
        ("one_address", "platform.yaml:12:15 vips[0].address", "16 addresses, and a proxy terminates at one"),
    ),
    "range that is terminated": (
        ["address: 203.0.113.10, port: 80-90, mode: terminate"],
        ("one_port", "platform.yaml:12:35 vips[0].port", "ports 80-90 are 11 ports"),
    ),
    "UDP that is terminated": (
        ["address: 203.0.113.10, port: 443, protocol: udp, mode: terminate"],
        ("mode_not_served", "platform.yaml:12:50 vips[0].protocol", "use `mode: passthrough`"),
    ),
    "same range twice": (
        ["address: 203.0.113.0/28, port: 80-90", "address: 203.0.113.0/28, port: 80-90"],
        ("address_in_use", "platform.yaml:13:15 vips[1].address", "ports 80-90 (tcp) is VIP vip-0 already"),
    ),
    "any port twice": (
        ["address: 203.0.113.10, port: any", "address: 203.0.113.10, port: 1-65535"],
        ("address_in_use", "platform.yaml:13:15 vips[1].address", "any port (tcp) is VIP vip-0 already"),
    ),
    "ranges that overlap": (
        ["address: 203.0.113.10, port: 80-90", "address: 203.0.113.10, port: 85-95"],
        ("ports_overlap", "platform.yaml:13:35 vips[1].port", "ports 85-95 overlap ports 80-90 of VIP vip-0"),
    ),
    "ranges that overlap, the upper one first": (
        ["address: 203.0.113.10, port: 85-95", "address: 203.0.113.10, port: 80-90"],
        ("ports_overlap", "platform.yaml:13:35 vips[1].port", "ports 80-90 overlap ports 85-95 of VIP vip-0"),
    ),
    "ranges that overlap inside any": (
        [f"address: 203.0.113.10, port: {port}" for port in ("any", "80-90", "85-95")],
        ("ports_overlap", "platform.yaml:14:35 vips[2].port", "of VIP vip-1"),
    ),
    "block with a node in it": (
        ["address: 198.18.2.0/24, port: 443"],
        ("address_in_use", "platform.yaml:12:15 vips[0].address", "198.18.2.11 is the own address of node proxy-1"),
    ),
    "block with link-local addresses in it": (
        ["address: 168.0.0.0/6, port: 443"],
        ("invalid_address", "platform.yaml:12:15 vips[0].address", "it overlaps 169.254.0.0/16"),
    ),
    "everything": (
        ['address: "::/0", port: 443'],
        ("invalid_address", "platform.yaml:12:15 vips[0].address", "cannot be announced"),
    ),
    "IPv4 written as IPv6": (
        ['address: "::ffff:203.0.113.10", port: 443'],
        ("invalid_address", "platform.yaml:12:15 vips[0].address", "it lies in ::ffff:0:0/96"),
    ),
}

PROXIES_V6 = (
    NODES_AND_POOLS.replace("198.18.2.1", '"2001:db8:18:2::1')
    .replace("1}\n  - {name: proxy", '1"}\n  - {name: proxy')
    .replace("::12}", '::12"}')
    .replace("::13}", '::13"}')
    .replace("address: 198.18.1.11,", 'address: 198.18.1.11, address_v6: "2001:db8:18:1::11",')
    .replace("address: 198.18.1.12", 'address: 198.18.1.12, address_v6: "2001:db8:18:1::12", fib: true')
    + "vips: [{name: a, address: 203.0.113.10, port: 443, mode: terminate, pool: edge}]\n"
)


def edited(old: str, new: str, text: str = PLATFORM) -> dict[str, str]:
    assert old in text
    return files(text.replace(old, new, 1))


#: The same for nodes and pools.
BAD_NODES_AND_POOLS = {
    "IPIP with redirectors": (
        edited("min_active: 2", "min_active: 2\n    encapsulation: ipip"),
        ("needs_gue", "platform.yaml:8:5 pools[0].redirectors", "add `redirectors: false`"),
    ),
    "L2 with redirectors": (
        edited("min_active: 2", "min_active: 2\n    encapsulation: l2\n    redirectors: true"),
        ("needs_gue", "platform.yaml:12:18 pools[0].redirectors", "l2 carries no owner chain"),
    ),
    "encapsulation that is none": (
        edited("min_active: 2", "min_active: 2\n    encapsulation: gre"),
        ("unknown_value", "platform.yaml:11:20 pools[0].encapsulation", "'gue', 'ipip' or 'l2'"),
    ),
    "weight above the limit": (
        edited("weight: 2", "weight: 101"),
        ("invalid_value", "platform.yaml:9:56 pools[0].members[1].weight", "less than or equal to 100"),
    ),
    "weight below zero": (
        edited("weight: 2", "weight: -1"),
        ("invalid_value", "platform.yaml:9:56 pools[0].members[1].weight", "greater than or equal to 0"),
    ),
    "guard that counts a member without weight": (
        edited("weight: 2}, {node: proxy-3}", "weight: 0}, {node: proxy-3, weight: 0}"),
        ("guard_too_high", "platform.yaml:10:17 pools[0].min_active", "has 1 members with a weight above 0"),
    ),
    "families in one pool": (
        edited('"2001:db8:18:2::12"', "198.18.2.12", PROXIES_V6),
        ("mixed_families", "platform.yaml:9:39 pools[0].members[1].node", "make a pool of each family"),
    ),
    "L4 node without an address to send from": (
        edited(', address_v6: "2001:db8:18:1::12"', "", PROXIES_V6),
        ("missing_field", "platform.yaml:3:5 nodes[1].address_v6", "member proxy-1 of pool edge has an IPv6 address"),
    ),
    "L4 node known by IPv6 only": (
        edited("198.18.1.12", '"2001:db8::12"'),
        ("invalid_address", "platform.yaml:3:37 nodes[1].address", "this one as `address_v6`"),
    ),
    "address of two nodes": (
        edited("2001:db8:18:1::12", "2001:db8:18:1::11", PROXIES_V6),
        ("duplicate", "platform.yaml:3:5 nodes[1]", "platform.yaml:2:5"),
    ),
    "address of an L4 node that is a proxy's": (
        edited("2001:db8:18:1::12", "2001:db8:18:2::12", PROXIES_V6),
        ("duplicate", "platform.yaml:3:62 nodes[1].address_v6", "the address of node proxy-2"),
    ),
    "second address of a proxy": (
        edited("198.18.2.11", '198.18.2.11, address_v6: "2001:db8::1"'),
        ("not_applicable", "platform.yaml:4:68 nodes[2].address_v6", "write it as `address`"),
    ),
    "FIB on a proxy": (
        edited("198.18.2.11", "198.18.2.11, fib: true"),
        ("not_applicable", "platform.yaml:4:61 nodes[2].fib", "remove `fib`"),
    ),
    "time for what cannot be counted": (
        files(PLATFORM + "drain: {uncounted_s: -1}\n"),
        ("invalid_value", "platform.yaml:14:22 drain.uncounted_s", "greater than 0"),
    ),
    "rows that are not prime": (
        files(PLATFORM + "forwarding: {rows: 65536}\n"),
        ("not_prime", "platform.yaml:14:20 forwarding.rows", "try 65537"),
    ),
    "most rows there may be, if they were prime": (
        files(PLATFORM + "forwarding: {rows: 655372}\n"),
        ("not_prime", "platform.yaml:14:20 forwarding.rows", "try 655373"),
    ),
}
BAD = {name: (with_vips(*vips), finding) for name, (vips, finding) in BAD_VIPS.items()} | BAD_NODES_AND_POOLS


@pytest.mark.parametrize(("given", "finding"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_refused_in_its_place_and_says_what_to_do(
    given: dict[str, str], finding: tuple[str, str, str]
) -> None:
    code, place, words = finding
    with pytest.raises(ConfigurationRefused) as refusal:
        load_configuration(given)
    found = [(problem.code, problem.path) for problem in refusal.value.problems]
    assert found == [(code, place)]
    problem = refusal.value.problems[0]
    assert words in f"{problem.message}; {problem.hint}"


def test_proxies_over_ipv6() -> None:
    configuration = load_configuration(files(PROXIES_V6))
    assert [str(node.address_v6) for node in configuration.nodes[:2]] == ["2001:db8:18:1::11", "2001:db8:18:1::12"]
    assert [node.fib for node in configuration.nodes[:2]] == [False, True]
    assert str(configuration.nodes[2].address) == "2001:db8:18:2::11"


def test_members_on_the_own_segment_need_no_address_to_send_from() -> None:
    bare = PROXIES_V6.replace(', address_v6: "2001:db8:18:1::11"', "").replace(', address_v6: "2001:db8:18:1::12"', "")
    load_configuration(edited("min_active: 2", "min_active: 2\n    encapsulation: l2\n    redirectors: false", bare))


def large(members: int, forwarding: str = "") -> dict[str, str]:
    """A fleet of one pool with so many proxies."""
    nodes = "".join(
        f"  - {{name: proxy-{n}, kind: proxy, address: 198.18.{16 + n // 250}.{n % 250 + 1}}}\n" for n in range(members)
    )
    names = ", ".join(f"{{node: proxy-{n}}}" for n in range(members))
    return files(
        f"nodes:\n  - {{name: l4-1, kind: l4, address: 198.18.1.11}}\n{nodes}"
        f"pools: [{{name: edge, members: [{names}]}}]\n"
        "vips: [{name: a, address: 203.0.113.10, port: 443, mode: terminate, pool: edge}]\n" + forwarding
    )


@pytest.mark.parametrize(
    ("members", "forwarding", "words"),
    [
        (1000, "", "take a prime above 100000: `rows: 100003`"),
        (MAX_MEMBERS + 1, "forwarding: {rows: 655373}\n", "has 4097 members, and 4096 are the most"),
    ],
)
def test_a_large_pool_needs_rows_and_has_a_limit(members: int, forwarding: str, words: str) -> None:
    with pytest.raises(ConfigurationRefused) as refusal:
        load_configuration(large(members, forwarding))
    assert len(refusal.value.problems) == 1
    assert words in f"{refusal.value.problems[0].message}; {refusal.value.problems[0].hint}"


def many(count: int, port: str, prefix: int = 32) -> list[str]:
    step = 2 ** (32 - prefix)
    base = int.from_bytes(bytes([203, 0, 0, 0]))
    return [
        f"address: {'.'.join(map(str, (base + n * step).to_bytes(4)))}/{prefix}, port: {port}, name: v-{n}"
        for n in range(count)
    ]


def test_as_many_vips_as_the_kernel_has_room_for() -> None:
    assert len(load_configuration(with_vips(*many(MAX_VIPS, "443"))).vips) == MAX_VIPS
    with pytest.raises(ConfigurationRefused, match="1025 VIPs, and 1024 are the most"):
        load_configuration(with_vips(*many(MAX_VIPS + 1, "443")))


def test_ranges_that_take_too_many_entries_in_the_kernel_are_refused_here_and_not_by_the_nodes() -> None:
    load_configuration(with_vips(*many(1000, "8000-8999")))
    around = [f"address: 203.0.0.0/12, port: {n}-{65535 - n}, name: around-{n}" for n in range(3, 20)]
    with pytest.raises(ConfigurationRefused) as refusal:
        load_configuration(with_vips(*many(1000, "8000-8999", prefix=28), *around))
    assert "port prefixes" in refusal.value.problems[0].message
    assert str(MAX_PORT_PREFIXES) in refusal.value.problems[0].message


def test_every_field_of_a_vip_is_shown() -> None:
    assert ConfiguredVip.model_fields.keys() <= VipView.model_fields.keys()


def with_probe(text: str) -> dict[str, str]:
    """The usual fleet, whose pool has this `probe`; and a pool with a UDP VIP alone."""
    pools = NODES_AND_POOLS.replace("    min_active: 2\n", f"    min_active: 2\n    probe: {text}\n")
    return files(
        pools
        + "  - {name: dns, members: [{node: proxy-1}]}\n"
        + "vips:\n"
        + "  - {name: web, address: 203.0.113.10, port: 443, mode: terminate, pool: edge}\n"
        + "  - {name: block, address: 203.0.113.32/28, port: any, mode: passthrough, pool: edge}\n"
        + "  - {name: game, address: 203.0.113.11, port: 99, protocol: udp, mode: passthrough, pool: edge}\n"
        + "  - {name: dns, address: 203.0.113.53, port: 53, protocol: udp, mode: passthrough, pool: dns}\n"
    )


def test_pools_with_a_tcp_vip_are_probed_unless_they_want_none() -> None:
    dns, edge = load_configuration(with_probe("{kind: https, host: www.example.com, path: /up}")).pools
    assert dns.probe is None
    assert edge.probe is not None
    assert (edge.probe.kind, edge.probe.vip, edge.probe.path, edge.probe.statuses) == ("https", "web", "/up", (200,))
    dns, edge = load_configuration(with_probe("none")).pools
    assert edge.probe is None
    edge = load_configuration(with_probe("{vip: block}")).pools[1]
    assert edge.probe is not None
    assert (edge.probe.kind, edge.probe.vip) == ("tcp", "block")


@pytest.mark.parametrize(
    ("text", "code", "place"),
    {
        "unknown VIP": ("{vip: wep}", "unknown_vip", "pools[0].probe.vip"),
        "VIP of another pool": ("{vip: dns}", "wrong_pool", "pools[0].probe.vip"),
        "UDP VIP": ("{vip: game}", "not_applicable", "pools[0].probe.vip"),
        "path without a request": ("{path: /up}", "not_applicable", "pools[0].probe.path"),
        "no path": ("{kind: http, path: up}", "invalid_value", "pools[0].probe.path"),
        "kind": ("{kind: icmp}", "unknown_value", "pools[0].probe.kind"),
        "word": ("nothing", "invalid_value", "pools[0].probe"),
        "field": ("{paths: /up}", "unknown_field", "pools[0].probe.paths"),
        "longer than the interval": ("{timeout_ms: 2000}", "timeout_too_long", "pools[0].probe.timeout_ms"),
        "shorter interval": ("{reach_interval_ms: 100}", "timeout_too_long", "pools[0].probe.reach_interval_ms"),
    }.values(),
)
def test_probes_that_would_ask_in_vain_are_refused(text: str, code: str, place: str) -> None:
    with pytest.raises(ConfigurationRefused) as refused:
        load_configuration(with_probe(text))
    (problem,) = refused.value.problems
    assert problem.code == code
    assert (problem.path or "").endswith(place)


def test_a_probe_of_an_ipv6_vip_needs_an_address_to_ask_from() -> None:
    v6 = files(
        NODES_AND_POOLS.replace("    min_active: 2\n", "    min_active: 2\n    probe: {kind: http}\n")
        + 'vips:\n  - {name: web, address: "2001:db8:203::10", port: 80, mode: terminate, pool: edge, tls: false}\n'
    )
    with pytest.raises(ConfigurationRefused, match="no address of that family to ask from"):
        load_configuration(v6)
    v4_too = dict(v6)
    v4_too["platform.yaml"] += "  - {name: web-v4, address: 203.0.113.10, port: 443, mode: terminate, pool: edge}\n"
    probe = load_configuration(v4_too).pools[0].probe
    assert probe is not None
    assert probe.vip == "web-v4", "IPv4 is asked first"
