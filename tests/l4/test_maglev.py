"""Maglev: weights mean what they say, little moves that need not move, and order does not matter."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4.flow_hash import HashKey
from l4.maglev import NOBODY, is_prime, owners_of_rows, prime_from
from orchestrator.contract.pool import DEFAULT_TABLE_ROWS, GenerationMember
from tests.bench.tables import as_printed
from tests.l4.table_oracle import Permutation, turns

KEY = HashKey.from_hex("00112233445566778899aabbccddeeff")
FEW_ROWS = 1009

weights = st.dictionaries(st.integers(1, 65535), st.integers(1, 100), min_size=1, max_size=12)


def owners(weight_of: Mapping[int, int], rows: int = DEFAULT_TABLE_ROWS) -> list[int]:
    return list(owners_of_rows([GenerationMember(id=m, weight=w) for m, w in weight_of.items()], KEY, rows))


def shares(table: list[int]) -> dict[int, float]:
    return {member: count / len(table) for member, count in Counter(table).items()}


def test_weights_mean_what_they_say() -> None:
    assert shares(owners({1: 1, 2: 1, 3: 10})) == pytest.approx({1: 1 / 12, 2: 1 / 12, 3: 10 / 12}, abs=1e-4)


@given(weights)
def test_any_weights_give_their_share_to_a_row(weight_of: dict[int, int]) -> None:
    counted = Counter(owners(weight_of, FEW_ROWS))
    total = sum(weight_of.values())
    for member, weight in weight_of.items():
        missed = abs(counted[member] - FEW_ROWS * weight / total)
        assert missed <= len(weight_of), "in the unfinished last period, less than a turn of each"


@given(weights, st.randoms())
def test_the_order_of_members_does_not_matter(weight_of: dict[int, int], random: Random) -> None:
    shuffled = list(weight_of.items())
    random.shuffle(shuffled)
    assert owners(dict(shuffled), FEW_ROWS) == owners(weight_of, FEW_ROWS)


@pytest.mark.parametrize("rows", [65537, 655373])
def test_a_thousand_members_have_the_same_number_of_rows_but_for_one(rows: int) -> None:
    """Figure 11 of the paper: "almost perfect load balancing no matter what the table size is"."""
    counted = Counter(owners(dict.fromkeys(range(1, 1001), 1), rows))
    assert set(counted.values()) == {rows // 1000, rows // 1000 + 1}


@pytest.mark.parametrize("leaving", [1, 10])
def test_no_more_moves_beside_what_must_than_by_the_papers_algorithm(leaving: int) -> None:
    """Section 5.3 and figure 12: 1000 members, some fail at once. A single draw scatters."""
    everybody = range(1, 1001)
    moved = {"ours": 0, "paper": 0}
    for draw in range(3):
        leavers = set(Random(draw).sample(everybody, leaving))
        left = [member for member in everybody if member not in leavers]
        for name, build in {"ours": table_of_equals, "paper": as_printed}.items():
            changes = zip(build(everybody), build(left), strict=True)
            moved[name] += sum(before != after for before, after in changes if before not in leavers)
    assert moved["ours"] <= 1.2 * moved["paper"]
    assert moved["ours"] / 3 <= 0.03 * DEFAULT_TABLE_ROWS


def table_of_equals(members: Collection[int]) -> Sequence[int]:
    return owners(dict.fromkeys(members, 1))


@pytest.mark.parametrize("members", [3, 100, 655])
def test_balance_is_better_than_one_percent(members: int) -> None:
    counted = Counter(owners(dict.fromkeys(range(1, members + 1), 1)))
    assert max(counted.values()) / min(counted.values()) <= 1.0102, "100 rows a member: within 1 % (section 3.4)"


def test_the_key_decides_who_owns_what() -> None:
    members = [GenerationMember(id=m, weight=1) for m in (1, 2, 3)]
    other = HashKey.from_hex("ff112233445566778899aabbccddeeff")
    same = sum(
        a == b for a, b in zip(owners_of_rows(members, KEY, 1009), owners_of_rows(members, other, 1009), strict=True)
    )
    assert 200 < same < 500, "a third agrees by chance"


@given(st.integers(1, 65535))
def test_a_permutation_reaches_every_row(member: int) -> None:
    permutation = Permutation.of_member(member, KEY, 101)
    assert {(permutation.offset + turn * permutation.skip) % 101 for turn in range(101)} == set(range(101))


@given(st.lists(st.integers(1, 100), min_size=1, max_size=8))
def test_turns_are_evenly_spread(weight_list: list[int]) -> None:
    period = turns(weight_list)
    heaviest = max(weight_list)
    for index, weight in enumerate(weight_list):
        taken = [place for place, turn in enumerate(period) if turn == index]
        assert len(taken) * heaviest == weight * period.count(weight_list.index(heaviest))
        half = [place for place in taken if place < len(period) / 2]
        assert abs(len(half) - len(taken) / 2) <= len(weight_list)


def test_nobody_owns_the_rows_of_an_empty_generation() -> None:
    assert set(owners({}, 101)) == {NOBODY}


def test_a_table_that_is_not_prime_is_refused_with_one_that_is() -> None:
    with pytest.raises(ValueError, match="65537"):
        owners({1: 1}, 65536)
    assert prime_from(65536) == 65537
    assert [n for n in range(30) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
