"""Forwarding tables: a pure function of live generations in which every flow of a live owner is found again."""

from collections.abc import Sequence
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4.flow_hash import HashKey
from l4.forwarding import ForwardingTable, GenerationTables, build_table, describe, pack_row, unpack_row
from l4.maglev import owners_of_rows
from orchestrator.contract.pool import (
    ForwardingSettings,
    Generation,
    GenerationMember,
    Member,
    MemberState,
    PoolForwarding,
)

ROWS = 101
KEY = "00112233445566778899aabbccddeeff"
SETTINGS = ForwardingSettings(hash_key=KEY, rows=ROWS)

memberships = st.dictionaries(st.integers(1, 9), st.integers(1, 3), max_size=6)
histories = st.lists(memberships, min_size=1, max_size=10)


def pool_of(
    history: Sequence[dict[int, int]], *, live: set[int] | None = None, unreachable: set[int] | None = None
) -> PoolForwarding:
    """A pool after the memberships of `history` (numbered from 1), of which the newest and `live` are live."""
    generations = [
        Generation(
            number=number, members=tuple(GenerationMember(id=m, weight=w) for m, w in sorted(membership.items()))
        )
        for number, membership in enumerate(history, start=1)
        if live is None or number in live or number == len(history)
    ]
    known = sorted({member.id for generation in generations for member in generation.members})
    return PoolForwarding(
        name="edge",
        slot=0,
        members=tuple(
            Member(
                id=member,
                name=f"proxy-{member}",
                address=IPv4Address(f"198.18.2.{member}"),
                state=MemberState.ACTIVE,
                reachable=member not in (unreachable or ()),
            )
            for member in known
        ),
        generations=tuple(reversed(generations)),
    )


def owners_in(generation: Generation) -> list[int]:
    return list(owners_of_rows(generation.members, HashKey.from_hex(KEY), ROWS))


@settings(max_examples=150, deadline=None)
@given(histories, st.sets(st.integers(1, 10)), st.sets(st.integers(1, 9), max_size=4), st.integers(1, 4))
def test_a_flow_finds_its_owner_while_owner_and_generation_live(
    history: list[dict[int, int]], live: set[int], unreachable: set[int], owners_per_row: int
) -> None:
    pool = pool_of(history, live=live, unreachable=unreachable)
    table = build_table(pool, SETTINGS.model_copy(update={"owners_per_row": owners_per_row}), GenerationTables())
    began_with = [owners_in(generation) for generation in pool.generations]
    overflowed = 0
    for row in range(ROWS):
        entitled = list(dict.fromkeys(o[row] for o in began_with if o[row] and o[row] not in unreachable))
        chain = unpack_row(table.chains, row)
        assert chain == tuple(entitled[:owners_per_row]), "newest first, none left out, none invented"
        overflowed += len(entitled) > owners_per_row
    assert table.overflowed_rows == overflowed


@settings(max_examples=50, deadline=None)
@given(histories, histories)
def test_equal_generations_give_equal_tables_whatever_came_before(
    history: list[dict[int, int]], past: list[dict[int, int]]
) -> None:
    fresh = build_table(pool_of(history), SETTINGS, GenerationTables())
    experienced = GenerationTables()
    for length in range(1, len(past) + 1):
        build_table(pool_of(past[:length]), SETTINGS, experienced)
        experienced.retain([pool_of(past[:length])], SETTINGS)
    for length in range(1, len(history) + 1):
        table = build_table(pool_of(history[:length]), SETTINGS, experienced)
    assert table == fresh


def test_a_drained_member_stays_second_until_its_generation_is_retired() -> None:
    both, one = {1: 1, 2: 1}, {1: 1}
    tables = GenerationTables()
    draining = build_table(pool_of([both, one]), SETTINGS, tables)
    assert {unpack_row(draining.chains, row) for row in range(ROWS)} == {(1,), (1, 2)}
    drained = build_table(pool_of([both, one], live={2}), SETTINGS, tables)
    assert {unpack_row(drained.chains, row) for row in range(ROWS)} == {(1,)}


def test_a_generation_is_built_once_and_forgotten_when_it_is_no_longer_live() -> None:
    tables = GenerationTables()
    pool = pool_of([{1: 1, 2: 1}, {1: 1}, {1: 1, 2: 1}])
    build_table(pool, SETTINGS, tables)
    assert repr(tables) == "<GenerationTables: 2 built>", "the first and the third are alike"
    first = tables.owners(pool.generations[0], SETTINGS)
    tables.retain([pool_of([{1: 1, 2: 1}])], SETTINGS)
    assert repr(tables) == "<GenerationTables: 1 built>"
    assert tables.owners(pool.generations[0], SETTINGS) is first


def test_a_table_is_described_from_what_the_kernel_holds() -> None:
    held = pack_row([]) + pack_row([7]) + pack_row([7, 3]) + pack_row([3, 7, 1, 2])
    table = ForwardingTable(pool="edge", slot=0, generations=(5, 4), chains=b"not read", overflowed_rows=1)
    status = describe(table, held)
    assert status.rows == 4
    assert status.rows_of_member == {3: 1, 7: 2}
    assert status.chain_lengths == (1, 1, 1, 0, 1)
    assert status.overflowed_rows == 1
    assert status.generations == (5, 4)
    assert status.digest != describe(table, held[::-1]).digest


def test_the_kernel_reads_a_row_as_four_u16_in_its_own_byte_order() -> None:
    assert list(memoryview(pack_row([258, 3])).cast("H")) == [258, 3, 0, 0]


def test_rows_that_are_not_prime_are_refused() -> None:
    with pytest.raises(ValueError, match="prime"):
        build_table(pool_of([{1: 1}]), SETTINGS.model_copy(update={"rows": 102}), GenerationTables())
