"""Forwarding tables: a pure function of a pool's live generations.

A row's owner chain is what Maglev gave the row in the live generations, in the order of the snapshot, without repeats
and without members whose host is gone, cut to the first few. The order is newest first, the node's own site before all
others. So the first owner gets new flows; the others are the second chances of flows that began under earlier
generations, or at other sites. No flow state exists beside this, so two nodes with equal snapshots hold equal tables,
byte for byte, whatever their history.
"""

import hashlib
import struct
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from l4 import table_build
from l4.flow_hash import HashKey
from l4.maglev import NOBODY, owners_of_rows
from orchestrator.contract.pool import (
    MAX_OWNERS,
    ForwardingSettings,
    Generation,
    PoolForwarding,
)
from orchestrator.contract.report import TableStatus

#: One row: member ids in the machine's byte order, newest owner first, `NOBODY` behind the last.
_ROW = struct.Struct(f"={MAX_OWNERS}H")
ROW_SIZE = _ROW.size


@dataclass(frozen=True, slots=True)
class _TableIdentity:
    """All that decides what a generation's owners of rows are."""

    membership: bytes
    """Ids and weights: compared at every change for up to 64 generations, which members one by one would make slow."""
    hash_key: str
    rows: int

    @classmethod
    def of(cls, generation: Generation, settings: ForwardingSettings) -> "_TableIdentity":
        ids = array("H", [member.id for member in generation.members])
        weights = array("H", [member.weight for member in generation.members])
        return cls((ids + weights).tobytes(), settings.hash_key, settings.rows)


class GenerationTables:
    """Owners of rows of the generations in use, so that each generation is built once.

    Bounded by `retain`: the caller names the generations that are live, which the contract bounds.
    """

    def __init__(self) -> None:
        self._built: dict[_TableIdentity, array[int]] = {}
        # Of the generations that were asked for since the last `retain`, by what they are in memory: one by one their
        # members are slow to read. Holds on to them, so that another cannot come to lie in the same place.
        self._asked: dict[int, tuple[Generation, _TableIdentity]] = {}

    def __repr__(self) -> str:
        return f"<GenerationTables: {len(self._built)} built>"

    def owners(self, generation: Generation, settings: ForwardingSettings) -> "array[int]":
        """Each row's owner in a generation. Generations with the same members share one table."""
        identity = self._identity(generation, settings)
        if identity not in self._built:
            key = HashKey.from_hex(settings.hash_key)
            self._built[identity] = owners_of_rows(generation.members, key, settings.rows)
        return self._built[identity]

    def retain(self, pools: Sequence[PoolForwarding], settings: ForwardingSettings) -> None:
        """Forgets all but the live generations of these pools."""
        live = {self._identity(generation, settings) for pool in pools for generation in pool.generations}
        self._built = {identity: owners for identity, owners in self._built.items() if identity in live}
        self._asked.clear()

    def _identity(self, generation: Generation, settings: ForwardingSettings) -> _TableIdentity:
        asked = self._asked.get(id(generation))
        if asked is None or (asked[1].hash_key, asked[1].rows) != (settings.hash_key, settings.rows):
            asked = self._asked[id(generation)] = (generation, _TableIdentity.of(generation, settings))
        return asked[1]


@dataclass(frozen=True, slots=True)
class ForwardingTable:
    """A pool's table as the kernel is to hold it."""

    pool: str
    slot: int
    generations: tuple[int, ...]
    """Numbers of the live generations that it was built from, in the order of chains."""
    chains: bytes
    """`ROW_SIZE` bytes per row."""
    overflowed_rows: int
    """Rows with more reachable owners in their live generations than a chain holds."""

    @property
    def rows(self) -> int:
        return len(self.chains) // ROW_SIZE

    def __repr__(self) -> str:
        return f"<ForwardingTable {self.pool}: {self.rows} rows, generations {self.generations}>"


def build_table(pool: PoolForwarding, settings: ForwardingSettings, tables: GenerationTables) -> ForwardingTable:
    """Builds a pool's table: a few milliseconds per generation that `tables` has not built yet, and as many for all.

    Raises ValueError if `settings.rows` is not prime.
    """
    reachable = array("H", [member.id for member in pool.members if member.reachable])
    # Generations with the same members share one column: the second says nothing new.
    columns = {id(owners): owners for owners in (tables.owners(each, settings) for each in pool.generations)}
    chains, overflowed_rows = table_build.merge_owners([*columns.values()], reachable, settings.owners_per_row)
    return ForwardingTable(
        pool=pool.name,
        slot=pool.slot,
        generations=tuple(generation.number for generation in pool.generations),
        chains=chains,
        overflowed_rows=overflowed_rows,
    )


def pack_row(owners: Sequence[int]) -> bytes:
    """A row as the kernel holds it, of at most `MAX_OWNERS` owners."""
    return _ROW.pack(*owners, *(NOBODY,) * (MAX_OWNERS - len(owners)))


def unpack_row(chains: bytes, row: int) -> tuple[int, ...]:
    """The owners of a row, in the order of their chain."""
    return tuple(owner for owner in _ROW.unpack_from(chains, row * ROW_SIZE) if owner != NOBODY)


def describe(table: ForwardingTable, held: bytes) -> TableStatus:
    """The report on a table, of which `held` is what the kernel holds, read back."""
    owners = array("H", held)
    first_owners = Counter(owners[::MAX_OWNERS])
    rows = len(held) // ROW_SIZE
    # Rows with at least n owners: those whose n-th place is taken.
    at_least = [rows, *(rows - owners[place::MAX_OWNERS].count(NOBODY) for place in range(MAX_OWNERS)), 0]
    return TableStatus(
        pool=table.pool,
        generations=table.generations,
        rows=rows,
        digest=hashlib.sha256(held).hexdigest(),
        rows_of_member={owner: count for owner, count in sorted(first_owners.items()) if owner != NOBODY},
        chain_lengths=tuple(at_least[length] - at_least[length + 1] for length in range(MAX_OWNERS + 1)),
        overflowed_rows=table.overflowed_rows,
    )
