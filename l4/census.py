"""The census: which of a host's flows need which earlier generation of a pool.

A redirector counts the flows to its pools' VIPs that its host holds. One in a row that some site's newest generation
gives to this member needs nothing: none of these is retired. Any other came here under an earlier generation, and
reaches this host only as long as a live generation puts the member into the row's chain: the newest live generation
that does, of whichever site, is the one *needed*. A flow in a row that no live generation gave to this member is an
orphan: nothing brings its packets here any more.
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from l4.flow_hash import HashKey, flow_hash, row_of, source_hash
from l4.forwarding import GenerationTables
from l4.tcp_sockets import Flow
from l4.vip_index import VipIndex
from orchestrator.contract.pool import ForwardingSettings, Generation, PoolForwarding
from orchestrator.contract.report import PoolCensus
from orchestrator.contract.snapshot import RedirectorSnapshot
from orchestrator.contract.vip import FlowHash

#: No generation's number.
NOTHING = 0


@dataclass(frozen=True, slots=True)
class _PoolRows:
    """A pool's live generations, and the owners of rows in each."""

    name: str
    newest: int
    """The highest number."""
    owners_now: tuple["array[int]", ...]
    """In each site's newest generation."""
    owners: tuple[tuple[int, "array[int]"], ...]
    """In all of them, newest first."""

    @classmethod
    def of(cls, pool: PoolForwarding, tables: GenerationTables, settings: ForwardingSettings) -> "_PoolRows":
        newest_first = sorted(pool.generations, key=lambda generation: -generation.number)
        newest_by_site: dict[str, Generation] = {}
        for generation in newest_first:
            if generation.site is not None:
                newest_by_site.setdefault(generation.site, generation)
        return cls(
            name=pool.name,
            newest=newest_first[0].number,
            owners_now=tuple(tables.owners(generation, settings) for generation in newest_by_site.values()),
            owners=tuple((generation.number, tables.owners(generation, settings)) for generation in newest_first),
        )

    def generation_needed(self, member_id: int, row: int) -> int | None:
        """The newest live generation that gives the row to the member, None if none does, `NOTHING` if none has to."""
        if any(owners[row] == member_id for owners in self.owners_now):
            return NOTHING
        for number, owners in self.owners:
            if owners[row] == member_id:
                return number
        return None


class _Place(NamedTuple):
    """Where a flow is in the tables."""

    pool: str
    row: int


class Census:
    """Counts flows by the rules of one snapshot. Made anew for each snapshot; not to be used by two threads at once."""

    def __init__(self, snapshot: RedirectorSnapshot, tables: GenerationTables) -> None:
        """Builds the generations that `tables` does not hold yet. Raises ValueError if the rows are not prime."""
        self._member_id = snapshot.member_id
        self._key = HashKey.from_hex(snapshot.forwarding.hash_key)
        self._row_count = snapshot.forwarding.rows
        self._pools = {pool.name: _PoolRows.of(pool, tables, snapshot.forwarding) for pool in snapshot.pools}
        self._vips = VipIndex(snapshot.vips)
        self._probe_sources = frozenset(address.packed for address in snapshot.probe_sources)
        # Of the flows of the last count: a long flow is hashed once, not every second. As large as that count.
        self._places: dict[Flow, _Place] = {}

    def __repr__(self) -> str:
        return f"<Census of member {self._member_id}: {len(self._places)} flows at the last count>"

    def count(self, flows: Iterable[Flow]) -> tuple[PoolCensus, ...]:
        """One entry per pool, in the snapshot's order; flows to other addresses than the VIPs are passed over, and
        so are L4 nodes' probes."""
        places: dict[Flow, _Place] = {}
        rows_by_pool: dict[str, list[int]] = {name: [] for name in self._pools}
        for flow in flows:
            if flow in places or flow.remote_address in self._probe_sources:
                continue
            place = self._places.get(flow) or self._find_place(flow)
            if place is None:
                continue
            places[flow] = place
            rows_by_pool[place.pool].append(place.row)
        self._places = places
        return tuple(self._count_pool(self._pools[name], found) for name, found in rows_by_pool.items())

    def _find_place(self, flow: Flow) -> _Place | None:
        """None if the flow is for no VIP."""
        vip = self._vips.find(flow.local_address, flow.local_port)
        if vip is None:
            return None
        if vip.flow_hash is FlowHash.SOURCE:
            hashed = source_hash(self._key, flow.remote_address)
        else:
            hashed = flow_hash(self._key, flow.remote_address, flow.local_address, flow.remote_port, flow.local_port)
        return _Place(vip.pool, row_of(hashed, self._row_count))

    def _count_pool(self, pool: _PoolRows, rows: list[int]) -> PoolCensus:
        generations = Counter(pool.generation_needed(self._member_id, row) for row in rows)
        return PoolCensus(
            pool=pool.name,
            newest_generation=pool.newest,
            flows=len(rows),
            needed={
                number: flows
                for number, flows in sorted((n, f) for n, f in generations.items() if n is not None)
                if number != NOTHING
            },
            orphans=generations[None],
        )
