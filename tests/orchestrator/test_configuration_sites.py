"""Sites in the configuration: who is where, what is announced where, and names that are mistyped."""

import pytest

from orchestrator.config.compile import load_configuration
from orchestrator.config.configuration import Configuration
from orchestrator.config.difference import describe_change
from orchestrator.config.findings import ConfigurationRefused
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.snapshot import BalancerSnapshot, RedirectorSnapshot
from orchestrator.fleet.snapshots import compile_snapshot
from tests.orchestrator.fleets import PLATFORM, Playbook, configuration, files

#: l4-2 and proxy-3 are in the east, all others at the default site.
NODES = PLATFORM.replace("198.18.1.12}", "198.18.1.12, site: east}").replace("198.18.2.13}", "198.18.2.13, site: east}")


def with_sites(sites: str = "", *, nodes: str = NODES, web: str = "") -> str:
    platform = nodes.replace("port: 443,", f"port: 443, {web}", 1)
    return f"sites: [{sites}]\n{platform}" if sites else platform


def test_who_names_no_site_is_at_the_default_one() -> None:
    plain = configuration()
    assert {node.site for node in plain.nodes} == {"main"}
    assert [(site.name, site.spill_below) for site in plain.sites] == [("main", 1)]


def test_sites_are_there_because_nodes_are() -> None:
    sites = configuration(with_sites()).sites
    assert [(site.name, site.spill_below) for site in sites] == [("east", 1), ("main", 1)]


def test_sites_may_be_listed_in_any_order_and_before_their_first_node() -> None:
    sites = configuration(with_sites("{name: west}, {name: main}, {name: east, spill_below: 2}")).sites
    assert [(site.name, site.spill_below) for site in sites] == [("east", 2), ("main", 1), ("west", 1)]


#: Platform, the finding's code, its place, and words of its message or hint.
BAD_SITES = {
    "node at a site that is not listed": (
        with_sites("{name: eats}"),
        ("unknown_site", "platform.yaml:4:56 nodes[1].site", "name one of: eats, main"),
    ),
    "VIP at a site that no node is at": (
        with_sites(web="sites: [east, west],"),
        ("unknown_site", "platform.yaml:12:68 vips[0].sites[1]", "there is no site west"),
    ),
    "VIP at a site that is not listed": (
        with_sites("{name: east}", web="sites: [west],"),
        ("unknown_site", "platform.yaml:13:62 vips[0].sites[0]", "name one of: east, main"),
    ),
    "VIP at no site": (
        with_sites(web="sites: [],"),
        ("invalid_value", "platform.yaml:12:61 vips[0].sites", "add at least one entry"),
    ),
    "site twice": (
        with_sites("{name: east}, {name: east}"),
        ("duplicate", "platform.yaml:1:23 sites[1]", "a site east is there already, at platform.yaml:1:9"),
    ),
    "site that never spills": (
        with_sites("{name: east, spill_below: 0}"),
        ("invalid_value", "platform.yaml:1:35 sites[0].spill_below", "stay within the limit"),
    ),
    "name that is none": (
        with_sites(nodes=NODES.replace("site: east", "site: East", 1)),
        ("invalid_name", "platform.yaml:3:56 nodes[1].site", "lower case"),
    ),
    "too many": (
        with_sites(", ".join(f"{{name: s{number}}}" for number in range(15)) + ", {name: east}"),
        ("too_many", "platform.yaml:3:", "17 sites, and 16 are the most"),
    ),
    "too many by their nodes": (
        with_sites(
            nodes=PLATFORM.replace(
                "pools:",
                "".join(
                    f"  - {{name: p{n}, kind: proxy, address: 198.18.2.{100 + n}, site: s{n}}}\n" for n in range(16)
                )
                + "pools:",
            )
        ),
        ("too_many", "platform.yaml:22:", "17 sites, and 16 are the most"),
    ),
}


@pytest.mark.parametrize(("platform", "expected"), BAD_SITES.values(), ids=BAD_SITES)
def test_bad_sites_are_refused_at_their_place(platform: str, expected: tuple[str, str, str]) -> None:
    with pytest.raises(ConfigurationRefused) as refusal:
        load_configuration(files(platform))
    code, place, words = expected
    found = [problem for problem in refusal.value.problems if problem.code == code]
    assert found, refusal.value.problems
    assert (found[0].path or "").startswith(place)
    assert words in f"{found[0].message} {found[0].hint}"


def test_what_changes_is_said_with_the_sites() -> None:
    after = configuration(with_sites("{name: main, spill_below: 2}, {name: east}", web="sites: [main],"))
    assert describe_change(configuration(), after) == (
        "site east: added",
        "site main: spill_below 1 → 2",
        "node l4-2: site main → east",
        "node proxy-3: site main → east",
        "VIP web-v4: sites all → main",
    )


def snapshot(config: Configuration, node: str, role: AgentRole) -> BalancerSnapshot | RedirectorSnapshot:
    found = compile_snapshot(Playbook(config).fleet, config, AgentIdentity(node=node, role=role))
    assert isinstance(found, BalancerSnapshot | RedirectorSnapshot)
    return found


def test_a_sites_l4_nodes_have_its_vips_and_all_members_have_all() -> None:
    config = configuration(with_sites(web="sites: [main],"))
    west, east = (snapshot(config, name, AgentRole.BALANCER) for name in ("l4-1", "l4-2"))
    assert isinstance(west, BalancerSnapshot) and isinstance(east, BalancerSnapshot)
    assert (west.site, east.site) == ("main", "east")
    assert [vip.name for vip in west.vips] == ["web-v4", "web-v6"]
    assert [vip.name for vip in east.vips] == ["web-v6"]
    for name in ("proxy-1", "proxy-3"):
        redirector = snapshot(config, name, AgentRole.REDIRECTOR)
        assert [vip.name for vip in redirector.vips] == ["web-v4", "web-v6"]
