"""The BIRD configuration: accepted by BIRD itself, and announcing VIPs and nothing else."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest

from l4.bgp import bird_configuration, silent_configuration
from l4.bird import Bird, BirdError
from orchestrator.contract.snapshot import Bgp, BgpNeighbor

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


@pytest.mark.parametrize("networks", [(), (V4,), (V6,), (V4, V6, BLOCK)], ids=str)
@pytest.mark.parametrize("peering", [bgp("198.18.1.1"), bgp("2001:db8:18:1::1"), BOTH], ids=("v4", "v6", "both"))
async def test_bird_accepts_it(tmp_path: Path, peering: Bgp, networks: tuple[IPv4Network | IPv6Network, ...]) -> None:
    await Bird(tmp_path).check(bird_configuration(peering, networks, tmp_path / "bird.log"))


async def test_bird_says_what_is_wrong_with_another(tmp_path: Path) -> None:
    with pytest.raises(BirdError, match="syntax error"):
        await Bird(tmp_path).check("protocol of nothing;\n")


def test_each_neighbour_is_told_of_its_own_family_only() -> None:
    text = bird_configuration(BOTH, (V4, V6), LOG)
    v4_session, v6_session = re.findall(r"protocol bgp .*?\n}\n", text, re.DOTALL)
    assert "neighbor 198.18.1.1 as 64600" in v4_session
    assert "export where source = RTS_DEVICE && net ~ [ 203.0.113.10/32 ]" in v4_session
    assert "ipv6" not in v4_session
    assert "neighbor 2001:db8:18:1::1 as 64600" in v6_session
    assert "export where source = RTS_DEVICE && net ~ [ 2001:db8:203::10/128 ]" in v6_session
    assert "ipv4" not in v6_session


def test_blocks_are_announced_as_they_are() -> None:
    text = bird_configuration(BOTH, (V4, BLOCK), LOG)
    assert text.count("net ~ [ 203.0.113.0/25, 203.0.113.10/32 ]") == 2, "at the import from lo and at the export"


def test_without_vips_nothing_is_announced() -> None:
    text = bird_configuration(BOTH, (), LOG)
    assert text.count("export none;") == 2
    assert "where" not in text


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
