"""The promise of sites, as properties: a flow that begins at one site finds its owner at every site, and for as long.

Sites prefer their own members, spill, drain, come, go, and lose and gain nodes and health, while agents apply snapshots
and report when they get round to it. A client may come to any L4 node at any time: the routers decide.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from l4.census import Census
from l4.flow_hash import HashKey, flow_hash, row_of
from l4.forwarding import ForwardingTable, GenerationTables, build_table, unpack_row
from l4.tcp_sockets import Flow
from orchestrator.config.configuration import Configuration
from orchestrator.contract.node import AgentIdentity, AgentRole, NodeKind
from orchestrator.contract.report import Report
from orchestrator.contract.snapshot import BalancerSnapshot, RedirectorSnapshot
from orchestrator.fleet import drain
from orchestrator.fleet.document import FleetRefused, FleetState, L4Drain
from orchestrator.fleet.membership import configure
from orchestrator.fleet.retirement import regenerated
from orchestrator.fleet.snapshots import compile_snapshot
from tests.l4.test_flows_keep_their_owner import column
from tests.orchestrator.fleets import HASH_KEY, Playbook, balancer_status, configuration, redirector_status

KEY = HashKey.from_hex(HASH_KEY)
ROWS = 421
VIP = bytes((203, 0, 113, 10))
L4_NODES = ("l4-1", "l4-2", "l4-3")
#: As many as a chain has places, so that no row overflows, and no flow has an excuse.
PROXIES = ("proxy-1", "proxy-2", "proxy-3", "proxy-4")

#: Sites of L4 nodes and of proxies; below how many own members a site spills; where the VIP is announced.
LAYOUTS: Mapping[str, tuple[str, str, int, str]] = {
    "two sites": ("east east west", "east east west west", 1, "east, west"),
    "two sites that spill soon": ("east east west", "east east west west", 2, "east, west"),
    "a node and a proxy have moved": ("east west west", "east west west west", 1, "east, west"),
    "a site without proxies": ("east east west", "east east east east", 1, "east, west"),
    "proxies without L4 nodes": ("east east west", "east west far far", 1, "east, west"),
    "announced in the west only": ("east east west", "east east west west", 1, "west"),
    "the east is gone": ("west west west", "west west west west", 1, "west"),
    "all at the default site": ("main main main", "main main main main", 1, "main"),
    "three sites": ("east main west", "east east main west", 1, "east, main, west"),
}


@cache
def configured(layout: str, heavy: int = 1) -> Configuration:
    l4_sites, proxy_sites, spill_below, announced = LAYOUTS[layout]
    homes = [*zip(L4_NODES, l4_sites.split(), strict=True), *zip(PROXIES, proxy_sites.split(), strict=True)]
    nodes = [
        f"  - {{name: {name}, kind: {'l4' if name in L4_NODES else 'proxy'}, address: 198.18.1.{n}, site: {site}}}"
        for n, (name, site) in enumerate(homes, 11)
    ]
    sites = ", ".join(f"{{name: {site}, spill_below: {spill_below}}}" for site in sorted({site for _, site in homes}))
    members = ", ".join(f"{{node: {name}, weight: {heavy if name == PROXIES[0] else 1}}}" for name in PROXIES)
    vip = f"{{name: web, address: 203.0.113.10, port: 443, mode: terminate, pool: edge, sites: [{announced}]}}"
    platform = [
        f"sites: [{sites}]",
        *("nodes:", *nodes),
        f"forwarding: {{rows: {ROWS}}}",
        *("pools:", f"  - {{name: edge, min_active: 1, members: [{members}]}}"),
        *("vips:", f"  - {vip}"),
    ]
    return configuration("\n".join(platform) + "\n")


class Sites(RuleBasedStateMachine):
    """Flows of clients over a whole edge: the orchestrator's rules, real tables and real censuses."""

    def __init__(self) -> None:
        super().__init__()
        self.flows: dict[Flow, tuple[str, int]] = {}
        self.ports = 20000
        self.snapshots: dict[str, BalancerSnapshot] = {}
        self.tables: dict[str, ForwardingTable] = {}
        self.built = GenerationTables()
        self.censuses: dict[str, tuple[int, Census]] = {}

    @initialize(layout=st.sampled_from([*LAYOUTS]))
    def the_fleet_is_built(self, layout: str) -> None:
        self.play = Playbook(configured(layout))
        for name in L4_NODES:
            self.balancer_applies(name)
        for name in PROXIES:
            self.redirector_applies(name)

    def snapshot_of(self, name: str) -> BalancerSnapshot:
        identity = AgentIdentity(node=name, role=AgentRole.BALANCER)
        snapshot = compile_snapshot(self.play.fleet, self.play.config, identity)
        assert isinstance(snapshot, BalancerSnapshot)
        return snapshot

    @rule(name=st.sampled_from(L4_NODES))
    def balancer_applies(self, name: str) -> None:
        self.snapshots[name] = snapshot = self.snapshot_of(name)
        self.tables[name] = build_table(snapshot.pools[0], snapshot.forwarding, self.built)

    @rule(name=st.sampled_from(PROXIES))
    def redirector_applies(self, name: str) -> None:
        identity = AgentIdentity(node=name, role=AgentRole.REDIRECTOR)
        snapshot = compile_snapshot(self.play.fleet, self.play.config, identity)
        assert isinstance(snapshot, RedirectorSnapshot)
        self.censuses[name] = (snapshot.version, Census(snapshot, self.built))

    @rule(by=st.sampled_from(L4_NODES), count=st.integers(1, 40))
    def flows_begin(self, by: str, count: int) -> None:
        """At whichever site, with the table that the L4 node has, if it has the VIP."""
        snapshot = self.snapshots[by]
        if not snapshot.vips:
            return
        (pool,) = snapshot.pools
        names = {member.id: member.name for member in pool.members}
        for _ in range(count):
            self.ports += 1
            flow = Flow(VIP, 443, bytes((198, 51, 100, self.ports % 250)), self.ports)
            owner = unpack_row(self.tables[by].chains, row(flow))[0]
            began = next(each.number for each in pool.generations if column(each, ROWS)[row(flow)] == owner)
            self.flows[flow] = (names[owner], began)

    @rule(left=st.integers(0, 10))
    def flows_end(self, left: int) -> None:
        self.flows = dict(list(self.flows.items())[-left:] if left else [])

    @rule(name=st.sampled_from(PROXIES))
    def a_member_drains(self, name: str) -> None:
        self.change(lambda: drain.start(self.play.fleet, self.play.config, name, now=self.play.now))

    @rule(name=st.sampled_from(PROXIES))
    def a_member_returns(self, name: str) -> None:
        self.change(lambda: drain.undrain(self.play.fleet, self.play.config, name))

    @rule(name=st.sampled_from(PROXIES))
    def a_member_loses_its_health_or_has_it_again(self, name: str) -> None:
        member = self.play.fleet.member(name)
        if member is not None:
            health = member.health.model_copy(update={"healthy": not member.health.healthy})
            fleet = self.play.fleet.with_member(member.model_copy(update={"health": health}))
            self.change(lambda: regenerated(fleet, self.play.config))

    @rule(site=st.sampled_from(["east", "west"]))
    def all_proxies_of_a_site_drain(self, site: str) -> None:
        for name in PROXIES:
            node = self.play.config.node(name)
            if node is not None and node.site == site:
                self.a_member_drains(name)

    @rule(site=st.sampled_from(["east", "west", "nowhere"]))
    def all_l4_nodes_of_one_site_drain(self, site: str) -> None:
        names = [node.name for node in self.play.config.nodes if node.kind is NodeKind.L4 and node.site == site]
        drains = {name: L4Drain(started_at=self.play.now) for name in names}
        fleet = self.play.fleet.model_copy(update={"l4_drains": drains})
        self.change(lambda: regenerated(fleet, self.play.config))

    @rule(layout=st.sampled_from([*LAYOUTS]), heavy=st.sampled_from([1, 1, 10]))
    def the_configuration_changes(self, layout: str, heavy: int) -> None:
        after = configured(layout, heavy)
        if self.change(lambda: configure(self.play.fleet, self.play.config, after, self.play.now)):
            self.play.config = after

    def change(self, how: Callable[[], FleetState]) -> bool:
        try:
            self.play.save(how())
        except FleetRefused:
            return False
        return True

    @rule(names=st.lists(st.sampled_from(L4_NODES), max_size=3))
    def balancers_report(self, names: Sequence[str]) -> None:
        for name in names:
            report = Report(applied_version=self.snapshots[name].version, nack=None, status=balancer_status())
            self.play.board.take(AgentIdentity(node=name, role=AgentRole.BALANCER), report)

    @rule(names=st.lists(st.sampled_from(PROXIES), max_size=4))
    def members_report(self, names: Sequence[str]) -> None:
        for name in names:
            version, census = self.censuses[name]
            counted = census.count(flow for flow, (holder, _) in self.flows.items() if holder == name)
            report = Report(applied_version=version, nack=None, status=redirector_status(*counted))
            self.play.board.take(AgentIdentity(node=name, role=AgentRole.REDIRECTOR), report)
            self.play.report_proxy(name, counted[0].flows if counted else 0)

    @rule(seconds=st.sampled_from([0.0, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.play.advance(seconds)

    @rule(lagging=st.sampled_from(["nobody", "nobody", *L4_NODES, *PROXIES]))
    def a_while_passes(self, lagging: str) -> None:
        for _ in range(5):
            for name in L4_NODES:
                if name != lagging:
                    self.balancer_applies(name)
            for name in PROXIES:
                if name != lagging:
                    self.redirector_applies(name)
            self.balancers_report(L4_NODES)
            self.members_report(PROXIES)
            self.time_passes(1.0)

    @invariant()
    def every_flow_finds_its_owner_on_every_node_that_knows_its_generation(self) -> None:
        for name, snapshot in self.snapshots.items():
            self.expect_flows(name, snapshot, self.tables[name])

    @invariant()
    def every_flow_finds_its_owner_at_a_node_of_any_site_that_starts_now(self) -> None:
        for name in L4_NODES if self.snapshots else ():
            snapshot = self.snapshot_of(name)
            self.expect_flows(name, snapshot, build_table(snapshot.pools[0], snapshot.forwarding, self.built))

    def expect_flows(self, name: str, snapshot: BalancerSnapshot, table: ForwardingTable) -> None:
        (pool,) = snapshot.pools
        assert table.overflowed_rows == 0
        ids = {member.name: member.id for member in pool.members}
        known = max(generation.number for generation in pool.generations)
        for flow, (holder, began) in self.flows.items():
            if began <= known:
                chain = unpack_row(table.chains, row(flow))
                assert ids.get(holder) in chain, (
                    f"{name}, {snapshot.site}: a flow of {holder}, of generation {began}, is lost"
                )

    @invariant()
    def a_site_gives_new_flows_to_its_own_while_it_has_enough(self) -> None:
        for name in L4_NODES if self.snapshots else ():
            snapshot = self.snapshot_of(name)
            site = self.play.config.site(snapshot.site)
            newest = snapshot.pools[0].generations[0]
            assert site is not None
            if newest.site != site.name:
                assert not snapshot.vips, "only a site that announces nothing has no generation of its own"
                continue
            homes = {member.id: self.play.config.node(member.name) for member in self.play.fleet.members}
            own = [
                number for number in newest.ids if (node := homes.get(number)) is not None and node.site == site.name
            ]
            assert len(own) == len(newest.ids) or len(own) < site.spill_below
            assert newest.members, "new flows have somebody to go to"

    @invariant()
    def nodes_of_a_site_hold_one_table(self) -> None:
        tables: dict[tuple[str, int], ForwardingTable] = {}
        for name, snapshot in self.snapshots.items():
            key = snapshot.site, snapshot.version
            assert tables.setdefault(key, self.tables[name]) == self.tables[name]


def row(flow: Flow) -> int:
    hashed = flow_hash(KEY, flow.remote_address, flow.local_address, flow.remote_port, flow.local_port)
    return row_of(hashed, ROWS)


TestSites = Sites.TestCase
TestSites.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
