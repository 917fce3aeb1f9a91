"""The BIRD configuration: accepted by BIRD itself, and announcing VIPs and nothing else."""

import os
import re
import stat
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest

from l4.balancer_plan import plan_for
from l4.bgp import announcement_of_filter, bird_configuration, silent_configuration
from l4.bird import Bird, BirdError
from l4.forwarding import GenerationTables
from orchestrator.contract.node import Announcement
from orchestrator.contract.pool import ForwardingSettings
from orchestrator.contract.snapshot import BalancerSnapshot, Bgp, BgpNeighbor

V4 = ip_network("203.0.113.10")
V6 = ip_network("2001:db8:203::10")
BLOCK = ip_network("203.0.113.0/25")
LOG = Path("/run/edgefleet/bird/bird.log")


def bgp(*neighbors: str) -> Bgp:
    return Bgp(
        asn=64601,
        router_id="198.18.1.11",
        neighbors=tuple(BgpNeighbor(address=ip_address(address), asn=64600) for address in neighbors),
    )


BOTH = bgp("198.18.1.1", "2001:db8:18:1::1")

#: With everything that an operator may choose.
CHOSEN = Bgp(
    asn=64601,
    router_id="198.18.1.11",
    neighbors=(
        BgpNeighbor(address=ip_address("198.18.1.1"), asn=64600, password="a b'$c {1}; // \\"),
        BgpNeighbor(address=ip_address("198.18.1.2"), asn=64601),
    ),
    communities=("64600:7", "64600:1:2"),
    med=20,
    soft_med=500,
    soft_prepend=2,
    bfd=False,
)


def filter_of(text: str, name: str) -> list[str]:
    """Lines of the body of an export filter."""
    found = re.search(rf"^filter {name} {{\n(.*?)^}}$", text, re.DOTALL | re.MULTILINE)
    assert found is not None, text
    return [line.strip() for line in found[1].splitlines()]


@pytest.mark.parametrize("networks", [(), (V4,), (V6,), (V4, V6, BLOCK)], ids=str)
@pytest.mark.parametrize("peering", [bgp("198.18.1.1"), bgp("2001:db8:18:1::1"), BOTH], ids=("v4", "v6", "both"))
async def test_bird_accepts_it(tmp_path: Path, peering: Bgp, networks: tuple[IPv4Network | IPv6Network, ...]) -> None:
    await Bird(tmp_path).check(bird_configuration(peering, networks, tmp_path / "bird.log"))


@pytest.mark.parametrize("announcement", Announcement)
async def test_bird_accepts_every_choice(tmp_path: Path, announcement: Announcement) -> None:
    await Bird(tmp_path).check(bird_configuration(CHOSEN, (V4, BLOCK), tmp_path / "bird.log", announcement))


async def test_bird_says_what_is_wrong_with_another(tmp_path: Path) -> None:
    with pytest.raises(BirdError, match="syntax error"):
        await Bird(tmp_path).check("protocol of nothing;\n")


def test_each_neighbour_is_told_of_its_own_family_only() -> None:
    text = bird_configuration(BOTH, (V4, V6), LOG)
    v4_session, v6_session = re.findall(r"protocol bgp .*?\n}\n", text, re.DOTALL)
    assert "neighbor 198.18.1.1 as 64600" in v4_session
    assert "export filter normal_neighbor_1" in v4_session
    assert "net !~ [ 203.0.113.10/32 ] then reject" in filter_of(text, "normal_neighbor_1")[0]
    assert "ipv6" not in v4_session
    assert "neighbor 2001:db8:18:1::1 as 64600" in v6_session
    assert "export filter normal_neighbor_2" in v6_session
    assert "net !~ [ 2001:db8:203::10/128 ] then reject" in filter_of(text, "normal_neighbor_2")[0]
    assert "ipv4" not in v6_session


def test_blocks_are_announced_as_they_are() -> None:
    text = bird_configuration(BOTH, (V4, BLOCK), LOG)
    assert text.count("~ [ 203.0.113.0/25, 203.0.113.10/32 ]") == 2, "at the import from lo and at the export"


def test_without_vips_nothing_is_announced() -> None:
    text = bird_configuration(BOTH, (), LOG)
    assert filter_of(text, "normal_neighbor_1") == filter_of(text, "normal_neighbor_2") == ["reject;"]
    assert "where" not in text


def test_routes_bear_what_the_operator_chose() -> None:
    text = bird_configuration(CHOSEN, (V4,), LOG)
    assert filter_of(text, "normal_neighbor_1") == [
        "if source != RTS_DEVICE || net !~ [ 203.0.113.10/32 ] then reject;",
        "bgp_med = 20;",
        "bgp_community.add((64600, 7));",
        "bgp_large_community.add((64600, 1, 2));",
        "accept;",
    ]


def test_a_last_resort_is_worse_in_every_way_that_routers_look_at() -> None:
    """RFC 8326, and for routers that do not know it MED and the path; in the node's own AS the preference."""
    text = bird_configuration(CHOSEN, (V4,), LOG, Announcement.SOFT)
    common = ["bgp_med = 500;", "bgp_community.add((64600, 7));", "bgp_large_community.add((64600, 1, 2));"]
    assert filter_of(text, "soft_neighbor_1")[1:] == [
        *common,
        "bgp_community.add((65535, 0));",
        "bgp_path.prepend(64601);",
        "bgp_path.prepend(64601);",
        "accept;",
    ]
    assert filter_of(text, "soft_neighbor_2")[1:] == [
        *common,
        "bgp_community.add((65535, 0));",
        "bgp_local_pref = 0;",
        "accept;",
    ]


def test_what_is_withdrawn_is_withdrawn_from_everybody() -> None:
    text = bird_configuration(CHOSEN, (V4,), LOG, Announcement.NONE)
    assert filter_of(text, "none_neighbor_1") == filter_of(text, "none_neighbor_2") == ["reject;"]


@pytest.mark.parametrize("announcement", Announcement)
def test_a_filters_name_tells_how_it_announces(announcement: Announcement) -> None:
    text = bird_configuration(CHOSEN, (V4,), LOG, announcement)
    names = re.findall(r"export filter (\w+);", text)
    assert [announcement_of_filter(name) for name in names] == [announcement, announcement]
    assert announcement_of_filter("(unnamed)") is announcement_of_filter("normal") is None


def test_bfd_is_an_option() -> None:
    assert "protocol bfd" in bird_configuration(BOTH, (V4,), LOG)
    assert "bfd off;" in bird_configuration(CHOSEN, (V4,), LOG)
    assert "protocol bfd" not in bird_configuration(CHOSEN, (V4,), LOG)


def test_passwords_are_in_no_repr() -> None:
    snapshot = BalancerSnapshot(
        version=1,
        node="l4",
        node_id=1,
        address=IPv4Address("198.18.1.11"),
        forwarding=ForwardingSettings(hash_key="00" * 16, rows=101),
        vips=(),
        pools=(),
        bgp=CHOSEN,
    )
    plan = plan_for(snapshot, GenerationTables(), LOG)
    password = CHOSEN.neighbors[0].password
    assert password is not None
    assert password in plan.bird_configuration
    assert all("a b'" not in repr(thing) for thing in (plan, snapshot, CHOSEN))


async def test_only_the_owner_and_the_directorys_group_read_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "bird").mkdir()
    os.chown(tmp_path / "bird", -1, 4711)
    bird = Bird(tmp_path / "bird")
    await bird.check(bird_configuration(CHOSEN, (V4,), tmp_path / "bird.log"))
    found = (bird.directory / "candidate.conf").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o640, 4711)


async def test_bird_accepts_having_nothing_to_say(tmp_path: Path) -> None:
    text = silent_configuration(IPv4Address("198.18.1.11"), tmp_path / "bird.log")
    await Bird(tmp_path).check(text)
    assert "protocol bgp" not in text


def test_equal_vips_in_any_order_give_equal_text() -> None:
    other = ip_network("203.0.113.9")
    assert bird_configuration(BOTH, (V4, V6, other, V4), LOG) == bird_configuration(BOTH, (other, V4, V6), LOG)


async def test_a_bird_that_does_not_run_is_told_apart(tmp_path: Path) -> None:
    bird = Bird(tmp_path)
    assert not await bird.answers()
    with pytest.raises(BirdError, match=r"does not answer on .*bird\.ctl"):
        await bird.sessions()
