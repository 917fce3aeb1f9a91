"""The promise of the edge, as properties: a flow finds its owner in its row's chain, whatever happened since it began.

First over generations that come and go by the rules of the contract alone, then over the orchestrator's own rules:
drains, weights, retirement by censuses, and agents that apply snapshots when they get round to it.
"""

from collections.abc import Callable, Sequence
from functools import cache

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from l4.census import Census
from l4.flow_hash import HashKey, flow_hash, row_of
from l4.forwarding import ForwardingTable, GenerationTables, build_table, unpack_row
from l4.tcp_sockets import Flow
from orchestrator.config.configuration import Configuration
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.pool import ForwardingSettings, Generation, PoolForwarding
from orchestrator.contract.report import Report
from orchestrator.contract.snapshot import BalancerSnapshot, RedirectorSnapshot
from orchestrator.fleet import drain
from orchestrator.fleet.document import FleetRefused, FleetState
from orchestrator.fleet.membership import configure
from orchestrator.fleet.snapshots import compile_snapshot
from tests.l4 import table_oracle
from tests.l4.test_forwarding import pool_of
from tests.orchestrator.fleets import HASH_KEY, Playbook, balancer_status, configuration, redirector_status

KEY = HashKey.from_hex(HASH_KEY)
ROWS = 101
MEMBERS = range(1, 10)


@cache
def owners_in(weights: tuple[tuple[int, int], ...], rows: int) -> list[int]:
    """By the oracle."""
    return table_oracle.owners_of_rows(dict(weights), KEY, rows)


def column(generation: Generation, rows: int) -> list[int]:
    return owners_in(tuple((member.id, member.weight) for member in generation.members), rows)


def is_overflowed(pool: PoolForwarding, row: int, settings: ForwardingSettings) -> bool:
    reachable = {member.id for member in pool.members if member.reachable}
    owners = [column(generation, settings.rows)[row] for generation in pool.generations]
    return table_oracle.chain(owners, reachable, settings.owners_per_row)[1]


class Generations(RuleBasedStateMachine):
    """Memberships change, hosts vanish and return, generations without flows are retired; two nodes build tables.

    One has built all of them. The other was started just now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history: list[dict[int, int]] = [{1: 1, 2: 1, 3: 10}]
        self.live = {1}
        self.unreachable: set[int] = set()
        self.settings = ForwardingSettings(hash_key=HASH_KEY, rows=ROWS)
        self.tables = GenerationTables()
        self.flows: list[tuple[int, int, int]] = []
        self._build()

    def _build(self) -> None:
        self.pool = pool_of(self.history, live=self.live, unreachable=self.unreachable)
        self.table = build_table(self.pool, self.settings, self.tables)
        self.tables.retain([self.pool], self.settings)

    @precondition(lambda self: len(self.live) < 64)
    @rule(membership=st.dictionaries(st.sampled_from(MEMBERS), st.integers(1, 100), max_size=6))
    def membership_changes(self, membership: dict[int, int]) -> None:
        self.history.append(membership)
        self.live.add(len(self.history))
        self._build()

    @precondition(lambda self: len(self.live) < 64)
    @rule(factor=st.integers(2, 9))
    def a_weight_changes(self, factor: int) -> None:
        if self.history[-1]:
            changed = dict(self.history[-1])
            heaviest = max(changed, key=changed.__getitem__)
            self.history.append({**changed, heaviest: changed[heaviest] % 100 * factor % 100 + 1})
            self.live.add(len(self.history))
            self._build()

    @rule(member=st.sampled_from(MEMBERS))
    def a_host_vanishes_or_returns(self, member: int) -> None:
        self.unreachable ^= {member}
        self._build()

    @rule(rows=st.sets(st.integers(0, ROWS - 1), max_size=30))
    def flows_begin(self, rows: set[int]) -> None:
        for row in rows:
            chain = unpack_row(self.table.chains, row)
            if not chain:
                continue
            began = next(each.number for each in self.pool.generations if column(each, ROWS)[row] == chain[0])
            self.flows.append((began, row, chain[0]))

    @rule(kept=st.integers(0, 5))
    def flows_end(self, kept: int) -> None:
        del self.flows[: max(0, len(self.flows) - kept)]

    @rule()
    def what_no_flow_needs_is_retired(self) -> None:
        self.live = {began for began, _, _ in self.flows} | {len(self.history)}
        self._build()

    @rule(owners_per_row=st.integers(1, 4))
    def chains_get_another_length(self, owners_per_row: int) -> None:
        self.settings = self.settings.model_copy(update={"owners_per_row": owners_per_row})
        self._build()

    @invariant()
    def every_flow_finds_its_reachable_owner(self) -> None:
        for began, row, owner in self.flows:
            assert began in self.live
            if owner not in self.unreachable and owner not in unpack_row(self.table.chains, row):
                assert is_overflowed(self.pool, row, self.settings)

    @invariant()
    def overflowed_rows_are_counted_exactly(self) -> None:
        expected = sum(is_overflowed(self.pool, row, self.settings) for row in range(ROWS))
        assert self.table.overflowed_rows == expected

    @invariant()
    def a_node_without_a_past_holds_the_same_table(self) -> None:
        assert build_table(self.pool, self.settings, GenerationTables()) == self.table


TestGenerations = Generations.TestCase
TestGenerations.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

PROXIES = tuple(f"proxy-{number}" for number in range(1, 7))
L4_NODES = ("l4-1", "l4-2")
VIP = bytes((203, 0, 113, 10))


@cache
def configured(weights: tuple[int, ...]) -> Configuration:
    nodes = [f"  - {{name: {name}, kind: l4, address: 198.18.1.{n}}}" for n, name in enumerate(L4_NODES, 11)]
    nodes += [f"  - {{name: {name}, kind: proxy, address: 198.18.2.{n}}}" for n, name in enumerate(PROXIES, 11)]
    members = ", ".join(f"{{node: {name}, weight: {w}}}" for name, w in zip(PROXIES, weights, strict=True))
    vip = "{name: web, address: 203.0.113.10, port: 443, mode: terminate, pool: edge}"
    platform = [
        *("nodes:", *nodes),
        *("forwarding: {rows: 601}",),
        *("pools:", f"  - {{name: edge, min_active: 1, members: [{members}]}}"),
        *("vips:", f"  - {vip}"),
    ]
    return configuration("\n".join(platform) + "\n")


WEIGHTS = [(1, 1, 1, 1, 1, 1), (1, 1, 10, 1, 1, 1), (5, 1, 1, 2, 100, 1)]


class Edge(RuleBasedStateMachine):
    """Flows of clients over a whole edge: the orchestrator's rules, real tables and real censuses.

    Each agent runs the snapshot that it applied last. Reports come when they come.
    """

    def __init__(self) -> None:
        super().__init__()
        self.play = Playbook(configured(WEIGHTS[0]))
        self.snapshots: dict[str, BalancerSnapshot] = {}
        self.tables: dict[str, ForwardingTable] = {}
        self.built = {name: GenerationTables() for name in L4_NODES}
        self.censuses: dict[str, tuple[int, Census]] = {}
        self.flows: dict[Flow, tuple[str, int]] = {}
        self.ports = 20000
        for name in L4_NODES:
            self.balancer_applies(name)
        for name in PROXIES:
            self.redirector_applies(name)

    @rule(name=st.sampled_from(L4_NODES))
    def balancer_applies(self, name: str) -> None:
        identity = AgentIdentity(node=name, role=AgentRole.BALANCER)
        snapshot = compile_snapshot(self.play.fleet, self.play.config, identity)
        assert isinstance(snapshot, BalancerSnapshot)
        self.snapshots[name] = snapshot
        self.tables[name] = build_table(snapshot.pools[0], snapshot.forwarding, self.built[name])

    @rule(name=st.sampled_from(PROXIES))
    def redirector_applies(self, name: str) -> None:
        identity = AgentIdentity(node=name, role=AgentRole.REDIRECTOR)
        snapshot = compile_snapshot(self.play.fleet, self.play.config, identity)
        assert isinstance(snapshot, RedirectorSnapshot)
        self.censuses[name] = (snapshot.version, Census(snapshot, GenerationTables()))

    @rule(by=st.sampled_from(L4_NODES), count=st.integers(1, 40))
    def flows_begin(self, by: str, count: int) -> None:
        """By whichever L4 node the routers choose, with the table that it has."""
        newest = self.snapshots[by].pools[0].generations[0].number
        names = {member.id: member.name for member in self.snapshots[by].pools[0].members}
        for _ in range(count):
            self.ports += 1
            flow = Flow(VIP, 443, bytes((198, 51, 100, self.ports % 250)), self.ports)
            chain = unpack_row(self.tables[by].chains, self.row(flow))
            self.flows[flow] = (names[chain[0]], newest)

    def row(self, flow: Flow) -> int:
        hashed = flow_hash(KEY, flow.remote_address, flow.local_address, flow.remote_port, flow.local_port)
        return row_of(hashed, 601)

    @rule(left=st.integers(0, 10))
    def flows_end(self, left: int) -> None:
        self.flows = dict(list(self.flows.items())[-left:] if left else [])

    @rule(name=st.sampled_from(PROXIES))
    def a_member_drains(self, name: str) -> None:
        self.change(lambda: drain.start(self.play.fleet, self.play.config, name, now=self.play.now))

    @rule(name=st.sampled_from(PROXIES))
    def a_member_returns(self, name: str) -> None:
        self.change(lambda: drain.undrain(self.play.fleet, self.play.config, name))

    @rule(weights=st.sampled_from(WEIGHTS))
    def weights_change(self, weights: tuple[int, ...]) -> None:
        after = configured(weights)
        if self.change(lambda: configure(self.play.fleet, self.play.config, after, self.play.now)):
            self.play.config = after

    def change(self, how: Callable[[], FleetState]) -> bool:
        try:
            self.play.save(how())
        except FleetRefused:
            return False
        return True

    @rule(names=st.lists(st.sampled_from(L4_NODES), max_size=2))
    def balancers_report(self, names: Sequence[str]) -> None:
        for name in names:
            report = Report(applied_version=self.snapshots[name].version, nack=None, status=balancer_status())
            self.play.board.take(AgentIdentity(node=name, role=AgentRole.BALANCER), report)

    @rule(names=st.lists(st.sampled_from(PROXIES), max_size=6))
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
    def no_flow_is_lost_on_a_node_that_knows_its_generation(self) -> None:
        for name in L4_NODES:
            snapshot = self.snapshots[name]
            (pool,) = snapshot.pools
            ids = {member.name: member.id for member in pool.members}
            for flow, (holder, began) in self.flows.items():
                if began > pool.generations[0].number:
                    continue
                chain = unpack_row(self.tables[name].chains, self.row(flow))
                if ids.get(holder) not in chain:
                    assert is_overflowed(pool, self.row(flow), snapshot.forwarding), f"{name} lost a flow of {holder}"


TestEdge = Edge.TestCase
TestEdge.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
