"""The census: which of a host's flows need which earlier generation of a pool.

A redirector counts the flows to its pools' VIPs that its host holds. One in a row that the newest generation gives to
this member needs nothing. Any other came here under an earlier generation, and reaches this host only as long as a live
generation puts the member into the row's chain: the newest live generation that does is the one *needed*. A flow in a
row that no live generation gave to this member is an orphan: nothing brings its packets here any more.
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from l4.flow_hash import HashKey, flow_hash, row_of
from l4.forwarding import GenerationTables
from l4.tcp_sockets import Flow
from orchestrator.contract.report import PoolCensus
from orchestrator.contract.snapshot import RedirectorSnapshot


@dataclass(frozen=True, slots=True)
class _PoolRows:
    """A pool's live generations, newest first, and the owners of rows in each."""

    name: str
    generations: tuple[int, ...]
    owners: tuple["array[int]", ...]

    def generation_needed(self, member_id: int, row: int) -> int | None:
        """The newest live generation that gives the row to the member, None if no one does."""
        for number, owners in zip(self.generations, self.owners, strict=True):
            if owners[row] == member_id:
                return number
        return None


class Census:
    """Counts flows by the rules of one snapshot. Made anew for each snapshot; not to be used by two threads at once."""

    def __init__(self, snapshot: RedirectorSnapshot, tables: GenerationTables) -> None:
        """Builds the generations that `tables` does not hold yet. Raises ValueError if the rows are not prime."""
        self._member_id = snapshot.member_id
        self._key = HashKey.from_hex(snapshot.forwarding.hash_key)
        self._row_count = snapshot.forwarding.rows
        self._pools = {
            pool.name: _PoolRows(
                name=pool.name,
                generations=tuple(generation.number for generation in pool.generations),
                owners=tuple(tables.owners(generation, snapshot.forwarding) for generation in pool.generations),
            )
            for pool in snapshot.pools
        }
        self._pool_of_vip = {(vip.address.packed, int(vip.port)): vip.pool for vip in snapshot.vips}
        # Rows of the flows of the last count: a long flow is hashed once, not every second. As large as that count.
        self._rows: dict[Flow, int] = {}

    def __repr__(self) -> str:
        return f"<Census of member {self._member_id}: {len(self._rows)} flows at the last count>"

    def count(self, flows: Iterable[Flow]) -> tuple[PoolCensus, ...]:
        """One entry per pool, in the snapshot's order; flows to other addresses than the VIPs are passed over."""
        rows: dict[Flow, int] = {}
        rows_by_pool: dict[str, list[int]] = {name: [] for name in self._pools}
        for flow in flows:
            pool = self._pool_of_vip.get((flow.local_address, flow.local_port))
            if pool is None or flow in rows:
                continue
            row = self._rows.get(flow)
            if row is None:
                row = self._row(flow)
            rows[flow] = row
            rows_by_pool[pool].append(row)
        self._rows = rows
        return tuple(self._count_pool(self._pools[name], found) for name, found in rows_by_pool.items())

    def _row(self, flow: Flow) -> int:
        hashed = flow_hash(self._key, flow.remote_address, flow.local_address, flow.remote_port, flow.local_port)
        return row_of(hashed, self._row_count)

    def _count_pool(self, pool: _PoolRows, rows: list[int]) -> PoolCensus:
        generations = Counter(pool.generation_needed(self._member_id, row) for row in rows)
        newest = pool.generations[0]
        return PoolCensus(
            pool=pool.name,
            newest_generation=newest,
            flows=len(rows),
            needed={
                number: flows
                for number, flows in sorted((n, f) for n, f in generations.items() if n is not None)
                if number != newest
            },
            orphans=generations[None],
        )
