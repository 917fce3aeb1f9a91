"""Each site has generations of its own: it prefers its own members, spills, and keeps what its flows need."""

import pytest

from orchestrator.cli import drawings
from orchestrator.config.configuration import Configuration
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.pool import MAX_LIVE_GENERATIONS
from orchestrator.contract.snapshot import BalancerSnapshot, RedirectorSnapshot
from orchestrator.fleet import drain
from orchestrator.fleet.document import FleetRefused, L4Drain
from orchestrator.fleet.ledger import Present
from orchestrator.fleet.membership import configure
from orchestrator.fleet.progress import drain_obstacles, retirable
from orchestrator.fleet.retirement import regenerated
from orchestrator.fleet.site_views import site_views, site_warnings
from orchestrator.fleet.snapshots import Compilation, compile_snapshot
from tests.orchestrator.fleets import PLATFORM, Playbook, configuration

#: main: l4-1, proxy-1, proxy-2. east: l4-2, proxy-3.
TWO = PLATFORM.replace("198.18.1.12}", "198.18.1.12, site: east}").replace("198.18.2.13}", "198.18.2.13, site: east}")
TWO = TWO.replace("min_active: 2", "min_active: 1")
#: proxy-3 is in the east, where no L4 node is.
NO_NODE = TWO.replace("198.18.1.12, site: east}", "198.18.1.12}")


def sites(platform: str = TWO, spill_below: int = 1) -> Configuration:
    return configuration(f"sites: [{{name: main, spill_below: {spill_below}}}, {{name: east}}]\n{platform}")


def generations(play: Playbook) -> list[tuple[int, str | None, list[int]]]:
    """Newest first: number, site, members."""
    made = (live.generation for live in play.fleet.pools[0].generations)
    return [(each.number, each.site, sorted(each.ids)) for each in made]


def apply(play: Playbook, config: Configuration) -> None:
    play.save(configure(play.fleet, play.config, config, play.now))
    play.config = config


def drain_member(play: Playbook, name: str) -> None:
    play.save(drain.start(play.fleet, play.config, name, now=play.now))


@pytest.fixture
def play() -> Playbook:
    return Playbook(sites())


def test_each_site_begins_with_its_own_members(play: Playbook) -> None:
    assert generations(play) == [(2, "main", [1, 2]), (1, "east", [3])]


def test_a_change_at_one_site_is_no_generation_of_the_other(play: Playbook) -> None:
    drain_member(play, "proxy-1")
    assert generations(play) == [(3, "main", [2]), (2, "main", [1, 2]), (1, "east", [3])]


def test_a_site_without_members_that_serve_spills_to_all_and_comes_back(play: Playbook) -> None:
    drain_member(play, "proxy-3")
    assert generations(play)[0] == (3, "east", [1, 2])
    play.save(drain.undrain(play.fleet, play.config, "proxy-3"))
    assert generations(play)[0] == (3, "east", [1, 2]), "it joins first, and counts for nothing until then"
    play.admit()
    assert generations(play)[0] == (4, "east", [3])


def test_a_site_spills_when_fewer_than_configured_serve() -> None:
    play = Playbook(sites(spill_below=2))
    drain_member(play, "proxy-1")
    assert generations(play)[0] == (3, "main", [2, 3]), "its own that is left, and the others'"


def test_a_site_of_l4_nodes_alone_gives_flows_to_all() -> None:
    play = Playbook(sites(TWO.replace("198.18.2.13, site: east}", "198.18.2.13}")))
    assert generations(play) == [(2, "main", [1, 2, 3]), (1, "east", [1, 2, 3])]


def test_who_serves_where_no_l4_node_is_joins_before_others_spill_to_it() -> None:
    play = Playbook(sites(NO_NODE))
    assert generations(play) == [(1, "main", [1, 2])]
    play.admit()
    assert play.fleet.pools[0].joining == {}, "nobody gives it flows, so it does not wait for any"
    drain_member(play, "proxy-1")
    drain_member(play, "proxy-2")
    assert generations(play)[0] == (2, "main", [2]), "rather to those who leave than to nobody"
    assert "has no generation without proxy-2 yet" in " ".join(obstacles(play, "proxy-2"))
    with pytest.raises(FleetRefused, match="without proxy-3 it would have 0"):
        drain_member(play, "proxy-3")
    play.admit()
    assert generations(play)[0] == (3, "main", [3])
    revisions = []
    for _ in range(12):
        play.report_all()
        play.advance(0.5)
        revisions.append(play.fleet.revision)
    assert generations(play) == [(3, "main", [3])]
    assert len({*revisions[-3:]}) == 1, "nothing goes round in circles"


def obstacles(play: Playbook, name: str) -> tuple[str, ...]:
    member = play.fleet.member(name)
    assert member is not None
    return drain_obstacles(play.fleet, play.config, play.board, member, play.now)


def test_a_sites_newest_generation_is_never_retired_however_old(play: Playbook) -> None:
    for _ in range(3):
        drain_member(play, "proxy-1")
        play.save(drain.undrain(play.fleet, play.config, "proxy-1"))
        play.admit()
    for _ in range(10):
        play.report_all()
        play.advance(1.0)
    assert [(number, site) for number, site, _ in generations(play)] == [(8, "main"), (1, "east")]


def test_a_flow_of_one_site_keeps_the_generation_of_that_site_alone(play: Playbook) -> None:
    drain_member(play, "proxy-1")
    drain_member(play, "proxy-3")
    for _ in range(10):
        play.report_all()
        play.report_census("proxy-3", 5, needed={1: 5})
        play.advance(1.0)
    assert generations(play) == [(4, "east", [2]), (3, "main", [2]), (1, "east", [3])]


ALL_MAIN = TWO.replace(", site: east", "")


def test_a_site_that_is_gone_leaves_its_generations_to_its_flows(play: Playbook) -> None:
    apply(play, sites(ALL_MAIN))
    assert generations(play) == [(3, "main", [1, 2, 3]), (2, "main", [1, 2]), (1, None, [3])]
    for _ in range(10):
        play.report_all()
        play.report_census("proxy-3", 5, needed={1: 5})
        play.advance(1.0)
    assert generations(play) == [(3, "main", [1, 2, 3]), (1, None, [3])]
    for _ in range(10):
        play.report_all()
        play.advance(1.0)
    assert generations(play) == [(3, "main", [1, 2, 3])]


#: The east loses its L4 node, and nobody's members change.
NODE_MOVED = TWO.replace("198.18.1.12, site: east}", "198.18.1.12}")


def test_that_a_site_is_gone_is_a_generation_so_that_it_is_seen_who_knows(play: Playbook) -> None:
    apply(play, sites(NODE_MOVED))
    assert generations(play) == [(3, "main", [1, 2]), (2, "main", [1, 2]), (1, None, [3])]
    before = play.fleet.revision - 1
    play.report_all()
    assert retirable(play.fleet, play.config, play.board, play.fleet.pools[0], play.now) == {1, 2}
    play.report_balancers("l4-2", version=before)
    found = retirable(play.fleet, play.config, play.board, play.fleet.pools[0], play.now)
    assert found == set(), "l4-2 gives new flows by generation 1 still, which nobody needs yet"
    play.report_balancers("l4-2")
    play.report_census("proxy-3", 7, newest=2)
    found = retirable(play.fleet, play.config, play.board, play.fleet.pools[0], play.now)
    assert found == set(), "a census that does not know that the east is gone takes its flows for safe"


def test_a_drain_waits_for_a_node_that_was_at_another_site(play: Playbook) -> None:
    apply(play, sites(NODE_MOVED))
    before = play.fleet.revision - 1
    drain_member(play, "proxy-3")
    play.report_all()
    play.report_balancers("l4-2", version=before)
    assert "the balancer of l4-2 has not applied revision 2" in " ".join(obstacles(play, "proxy-3"))
    play.report_balancers("l4-2", version=before + 1)
    assert not any("l4-2" in obstacle for obstacle in obstacles(play, "proxy-3"))


def test_a_vip_that_is_taken_from_a_site_ends_the_sites_generations(play: Playbook) -> None:
    only_main = TWO.replace("mode: terminate,", "mode: terminate, sites: [main],")
    apply(play, sites(only_main))
    assert [site for _, site, _ in generations(play)] == ["main", "main", None]


def test_sites_share_the_limit_of_live_generations(play: Playbook) -> None:
    while len(play.fleet.pools[0].generations) < MAX_LIVE_GENERATIONS:
        drain_member(play, "proxy-1")
        if len(play.fleet.pools[0].generations) < MAX_LIVE_GENERATIONS:
            play.save(drain.cancel(play.fleet, play.config, "proxy-1"))
            play.admit()
    with pytest.raises(FleetRefused) as refusal:
        drain_member(play, "proxy-3")
    assert refusal.value.code == "generations_full"
    assert sum(site == "east" for _, site, _ in generations(play)) == 1, "though this one site has one only"


def test_a_pool_that_comes_back_counts_on_where_another_of_its_name_ended(play: Playbook) -> None:
    other = TWO.replace("name: edge", "name: other").replace("pool: edge", "pool: other")
    last = generations(play)[0][0]
    apply(play, sites(other))
    apply(play, sites())
    assert min(number for number, _, _ in generations(play)) > last
    apply(play, sites(other))
    assert play.fleet.last_generation >= 5


def test_a_balancer_is_sent_its_own_sites_generations_first_and_members_all_newest_first(play: Playbook) -> None:
    drain_member(play, "proxy-1")
    compilation = Compilation(play.fleet, play.config)

    def numbers(node: str, role: AgentRole) -> list[int]:
        agent = AgentIdentity(node=node, role=role)
        snapshot = compilation.snapshot(agent)
        assert isinstance(snapshot, BalancerSnapshot | RedirectorSnapshot)
        text = compilation.text(agent)
        assert text is not None
        assert type(snapshot).model_validate_json(text) == snapshot == compile_snapshot(play.fleet, play.config, agent)
        return [generation.number for generation in snapshot.pools[0].generations]

    assert numbers("l4-1", AgentRole.BALANCER) == [3, 2, 1]
    assert numbers("l4-2", AgentRole.BALANCER) == [1, 3, 2]
    assert numbers("proxy-3", AgentRole.REDIRECTOR) == [3, 2, 1]


def test_sites_are_shown_with_what_they_announce_and_where_new_flows_go(play: Playbook) -> None:
    play.report_all()
    drain_member(play, "proxy-3")
    present = Present(play.fleet, play.config, 1)
    east, main = site_views(present, play.board)
    assert (east.name, east.l4_nodes, east.proxies) == ("east", ("l4-2",), ("proxy-3",))
    assert east.vips == {"web-v4": (), "web-v6": ()}
    (pool,) = east.pools
    assert (pool.pool, pool.generation, pool.members, pool.active, pool.spills) == ("edge", 3, 1, 0, True)
    assert [(pool.active, pool.spills) for pool in main.pools] == [(2, False)]
    (warning,) = site_warnings(present)
    assert warning.startswith("site east gives new flows of pool edge to all sites: 0 of its 1 members are active")
    assert drawings.sites((east, main))


def test_a_new_site_spills_until_its_own_members_have_joined(play: Playbook) -> None:
    apply(play, configuration(THREE))
    assert generations(play)[0] == (3, "west", [1, 2, 3])
    play.admit()
    assert generations(play)[0] == (4, "west", [4])


THREE = TWO.replace(
    "pools:",
    "  - {name: l4-3, kind: l4, address: 198.18.1.13, site: west}\n"
    "  - {name: proxy-4, kind: proxy, address: 198.18.2.14, site: west}\npools:",
).replace("{node: proxy-3}]", "{node: proxy-3}, {node: proxy-4}]")


def drain_l4(play: Playbook, *names: str) -> None:
    drains = {name: L4Drain(started_at=play.now) for name in names}
    play.save(regenerated(play.fleet.model_copy(update={"l4_drains": drains}), play.config))


def in_force(play: Playbook) -> dict[str, list[int]]:
    newest = play.fleet.pools[0].newest_by_site
    return {site: sorted(live.generation.ids) for site, live in sorted(newest.items())}


def test_a_site_whose_l4_nodes_all_drain_gets_no_new_flows_of_others() -> None:
    play = Playbook(configuration(THREE))
    drain_member(play, "proxy-3")
    assert in_force(play) == {"east": [1, 2, 4], "main": [1, 2], "west": [4]}
    drain_l4(play, "l4-3")
    assert in_force(play) == {"east": [1, 2], "main": [1, 2], "west": [4]}
    drain_l4(play)
    assert in_force(play)["east"] == [1, 2, 4]


def test_a_site_that_is_being_emptied_takes_what_others_spill_if_nobody_else_can(play: Playbook) -> None:
    drain_member(play, "proxy-3")
    drain_l4(play, "l4-1")
    assert in_force(play)["east"] == [1, 2]


def test_a_site_whose_members_lose_their_health_spills_like_one_whose_members_drain(play: Playbook) -> None:
    sick = play.fleet.member("proxy-3")
    assert sick is not None
    sick = sick.model_copy(update={"health": sick.health.model_copy(update={"healthy": False})})
    play.save(regenerated(play.fleet.with_member(sick), play.config))
    assert in_force(play) == {"east": [1, 2], "main": [1, 2]}
    well = sick.model_copy(update={"health": sick.health.model_copy(update={"healthy": True})})
    play.save(regenerated(play.fleet.with_member(well), play.config))
    play.admit()
    assert in_force(play) == {"east": [3], "main": [1, 2]}


def test_a_new_site_whose_members_all_join_does_as_another_site_does_until_then() -> None:
    config = sites(TWO.replace("mode: terminate,", "mode: terminate, sites: [main],"))
    play = Playbook(config)
    drain_member(play, "proxy-1")
    sick = play.fleet.member("proxy-2")
    assert sick is not None
    sick = sick.model_copy(update={"health": sick.health.model_copy(update={"healthy": False})})
    play.save(regenerated(play.fleet.with_member(sick), play.config))
    assert in_force(play) == {"main": [2]}
    assert list(play.fleet.pools[0].joining) == [3]
    apply(play, sites())
    assert in_force(play) == {"east": [2], "main": [2]}, "rather than nobody"
    play.admit()
    assert in_force(play) == {"east": [3], "main": [3]}
