"""How long tables take to build, and how many rows a change of members moves that it need not move.

The latter beside the algorithm as the paper prints it (Eisenbud et al., NSDI 2016, section 3.4, pseudocode 1), with
other hashes, members without weights, and nothing else in common with the product's. The paper's own experiment
(section 5.3, figure 12) is done with both: of 1000 members some fail at once.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from random import Random

from l4.flow_hash import HashKey
from l4.forwarding import GenerationTables, build_table
from l4.maglev import owners_of_rows
from orchestrator.contract.pool import (
    MAX_LIVE_GENERATIONS,
    ForwardingSettings,
    Generation,
    GenerationMember,
    Member,
    MemberState,
    PoolForwarding,
)

ROWS = 65537
MEMBERS = 1000
HASH_KEY = "00112233445566778899aabbccddeeff"
SETTINGS = ForwardingSettings(hash_key=HASH_KEY, rows=ROWS)

#: Members that fail at once, of 1000; and of how many draws the mean is taken.
FAILURES = (1, 5, 10, 20)
DRAWS = 10

_TIMES = 9


def build_milliseconds() -> dict[str, float]:
    """Medians of whole builds, from the members of a snapshot to the octets that the kernel is given.

    One generation; the chains of four; and a change on top of the most generations that may be live, of which all but
    the newest were built before.
    """
    generations = [
        Generation(number=number, members=_without({number % MEMBERS + 1}))
        for number in range(MAX_LIVE_GENERATIONS + _TIMES, 0, -1)
    ]

    def newest(count: int, leave_out: int = 0) -> PoolForwarding:
        return _pool(generations[leave_out : leave_out + count])

    changing = GenerationTables()
    build_table(newest(MAX_LIVE_GENERATIONS, _TIMES), SETTINGS, changing)
    changes = [newest(MAX_LIVE_GENERATIONS, left) for left in range(_TIMES - 1, -1, -1)]
    one, four = newest(1), newest(4)
    return {
        "one": _median_ms([lambda: build_table(one, SETTINGS, GenerationTables())] * _TIMES),
        "four": _median_ms([lambda: build_table(four, SETTINGS, GenerationTables())] * _TIMES),
        "change_on_64": _median_ms([_Build(pool, changing) for pool in changes]),
    }


@dataclass(frozen=True, slots=True)
class _Build:
    pool: PoolForwarding
    tables: GenerationTables

    def __call__(self) -> None:
        build_table(self.pool, SETTINGS, self.tables)
        self.tables.retain([self.pool], SETTINGS)


def _median_ms(calls: Sequence[Callable[[], object]]) -> float:
    taken = []
    for call in calls:
        began = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def _without(leavers: Collection[int]) -> tuple[GenerationMember, ...]:
    return tuple(GenerationMember(id=m, weight=1) for m in range(1, MEMBERS + 1) if m not in leavers)


def _pool(generations: Sequence[Generation]) -> PoolForwarding:
    members = tuple(
        Member(id=number, name=f"proxy-{number}", address=IPv4Address("10.0.0.0") + number, state=MemberState.ACTIVE)
        for number in range(1, MEMBERS + 1)
    )
    return PoolForwarding(name="edge", slot=0, members=members, generations=tuple(generations))


def collateral_percent() -> dict[str, dict[str, float]]:
    """Rows that changed their owner although it stayed, in percent of all, by how many of 1000 members left at once.

    Somebody who joins moves as many: before and after are exchanged.
    """
    random = Random(2016)
    leaving = {count: [set(random.sample(range(1, MEMBERS + 1), count)) for _ in range(DRAWS)] for count in FAILURES}
    return {
        "ours": _mean_collateral(_ours, leaving),
        "paper": _mean_collateral(as_printed, leaving),
    }


def _mean_collateral(
    build: Callable[[Collection[int]], Sequence[int]], leaving: dict[int, list[set[int]]]
) -> dict[str, float]:
    before = build(range(1, MEMBERS + 1))
    result = {}
    for count, draws in leaving.items():
        shares = []
        for leavers in draws:
            after = build([member for member in range(1, MEMBERS + 1) if member not in leavers])
            moved = sum(b != a for b, a in zip(before, after, strict=True) if b not in leavers)
            shares.append(100 * moved / ROWS)
        result[f"{count}_of_{MEMBERS}"] = round(statistics.mean(shares), 3)
    return result


def _ours(members: Collection[int]) -> Sequence[int]:
    generation = [GenerationMember(id=member, weight=1) for member in members]
    return owners_of_rows(generation, HashKey.from_hex(HASH_KEY), ROWS)


def as_printed(members: Collection[int]) -> Sequence[int]:
    """Pseudocode 1 of the paper: each row's member."""
    names = sorted(members)
    drawn = [hashlib.blake2b(f"backend-{name}".encode(), digest_size=16).digest() for name in names]
    offset = [int.from_bytes(digest[:8]) % ROWS for digest in drawn]
    skip = [int.from_bytes(digest[8:]) % (ROWS - 1) + 1 for digest in drawn]
    entry = [-1] * ROWS
    filled = 0
    while True:
        for i, name in enumerate(names):
            candidate = offset[i]
            while entry[candidate] >= 0:
                candidate = (candidate + skip[i]) % ROWS
            entry[candidate] = name
            offset[i] = candidate
            filled += 1
            if filled == ROWS:
                return entry
