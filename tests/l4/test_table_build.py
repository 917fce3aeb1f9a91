"""The compiled arithmetic equals its oracle, refuses what it cannot compute, and leaves the interpreter free."""

import gc
import os
import struct
import sys
import threading
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4 import table_build
from l4.flow_hash import HashKey
from tests.l4 import table_oracle

U64 = st.integers(0, 2**64 - 1)
KEYS = st.builds(HashKey, U64, U64)
PRIMES = st.sampled_from([2, 3, 101, 997, 1009])
MEMBERSHIPS = st.dictionaries(st.integers(1, 65535), st.integers(0, 100), max_size=20)


def u16(numbers: Any) -> "array[int]":
    return array("H", numbers)


def built(weight_of: Mapping[int, int], key: HashKey, rows: int) -> list[int]:
    ids = sorted(weight_of)
    octets = table_build.owners_of_rows(u16(ids), u16(weight_of[member] for member in ids), key.k0, key.k1, rows)
    return list(u16(octets))


@given(KEYS, st.binary(max_size=80))
def test_siphash_equals_its_oracle(key: HashKey, message: bytes) -> None:
    assert table_build.siphash13(key.k0, key.k1, message) == table_oracle.siphash13(key, message)


@given(KEYS, st.sampled_from([4, 16]).flatmap(lambda n: st.tuples(*[st.binary(min_size=n, max_size=n)] * 2)), U64)
def test_flow_hash_equals_its_oracle(key: HashKey, addresses: tuple[bytes, bytes], drawn: int) -> None:
    numbers = (drawn & 0xFFFF, drawn >> 16 & 0xFFFF, drawn >> 32 & 0xFF)
    hashed = table_build.flow_hash(key.k0, key.k1, *addresses, *numbers)
    assert hashed == table_oracle.hash_of_flow(key, *addresses, *numbers)


@settings(deadline=None)
@given(MEMBERSHIPS, KEYS, PRIMES)
def test_owners_equal_their_oracle(weight_of: dict[int, int], key: HashKey, rows: int) -> None:
    assert built(weight_of, key, rows) == table_oracle.owners_of_rows(weight_of, key, rows)


def test_a_large_pool_with_weights_equals_its_oracle() -> None:
    random = Random(4096)
    weight_of = {member: random.randint(0, 100) for member in random.sample(range(1, 65536), 4096)}
    key = HashKey(1, 2)
    assert built(weight_of, key, 65537) == table_oracle.owners_of_rows(weight_of, key, 65537)


@settings(deadline=None)
@given(st.data(), st.integers(1, 4))
def test_chains_equal_their_oracle(data: st.DataObject, places: int) -> None:
    rows = data.draw(st.integers(0, 40))
    few = st.integers(0, 9)
    columns = data.draw(st.lists(st.lists(few, min_size=rows, max_size=rows), min_size=1, max_size=12))
    reachable = data.draw(st.sets(few))
    chains, overflowed = table_build.merge_owners([u16(column) for column in columns], u16(reachable), places)
    expected = [table_oracle.chain(owners, reachable - {0}, places) for owners in zip(*columns, strict=True)]
    assert list(struct.iter_unpack("=4H", chains)) == [(*owners, *(0,) * (4 - len(owners))) for owners, _ in expected]
    assert overflowed == sum(has_more for _, has_more in expected)


def test_chains_of_many_rows_are_worked_on_in_blocks_without_a_seam() -> None:
    random = Random(65537)
    columns = [u16(random.choices(range(8), k=65537)) for _ in range(6)]
    chains, overflowed = table_build.merge_owners(columns, u16(range(1, 7)), 4)
    expected = [table_oracle.chain(owners, range(1, 7), 4) for owners in zip(*columns, strict=True)]
    assert chains == b"".join(struct.pack("=4H", *owners, *(0,) * (4 - len(owners))) for owners, _ in expected)
    assert overflowed == sum(has_more for _, has_more in expected)


A, B = bytes(4), bytes(16)
REFUSED: dict[str, tuple[str, tuple[Any, ...], type[Exception]]] = {
    "key too large": ("siphash13", (2**64, 0, b""), OverflowError),
    "key below 0": ("siphash13", (0, -1, b""), OverflowError),
    "key no number": ("siphash13", ("0", 0, b""), TypeError),
    "message no buffer": ("siphash13", (0, 0, "text"), TypeError),
    "families mixed": ("flow_hash", (0, 0, A, B, 1, 2, 6), ValueError),
    "address too long": ("flow_hash", (0, 0, bytes(17), bytes(17), 1, 2, 6), ValueError),
    "no address": ("flow_hash", (0, 0, b"", b"", 1, 2, 6), ValueError),
    "port too large": ("flow_hash", (0, 0, A, A, 65536, 2, 6), ValueError),
    "port beyond a word": ("flow_hash", (0, 0, A, A, 2**64 + 80, 2, 6), OverflowError),
    "port below 0": ("flow_hash", (0, 0, A, A, 1, -1, 6), ValueError),
    "protocol too large": ("flow_hash", (0, 0, A, A, 1, 2, 256), ValueError),
    "rows not prime": ("owners_of_rows", (u16([1]), u16([1]), 0, 0, 102), ValueError),
    "no rows": ("owners_of_rows", (u16([1]), u16([1]), 0, 0, 0), ValueError),
    "one row": ("owners_of_rows", (u16([1]), u16([1]), 0, 0, 1), ValueError),
    "rows below 0": ("owners_of_rows", (u16([1]), u16([1]), 0, 0, -7), ValueError),
    "rows out of bounds": ("owners_of_rows", (u16([1]), u16([1]), 0, 0, 2**31 - 1), ValueError),
    "rows beyond a word": ("owners_of_rows", (u16([1]), u16([1]), 0, 0, 2**64 + 101), OverflowError),
    "nobody as member": ("owners_of_rows", (u16([0]), u16([1]), 0, 0, 101), ValueError),
    "ids not in order": ("owners_of_rows", (u16([2, 1]), u16([1, 1]), 0, 0, 101), ValueError),
    "an id twice": ("owners_of_rows", (u16([2, 2]), u16([1, 1]), 0, 0, 101), ValueError),
    "a weight missing": ("owners_of_rows", (u16([1, 2]), u16([1]), 0, 0, 101), ValueError),
    "half a number": ("owners_of_rows", (b"123", b"123", 0, 0, 101), ValueError),
    "not aligned": ("owners_of_rows", (memoryview(bytes(9))[1:], memoryview(bytes(9))[1:], 0, 0, 101), ValueError),
    "ids no buffer": ("owners_of_rows", ([1], [1], 0, 0, 101), TypeError),
    "no column": ("merge_owners", ([], u16([]), 4), ValueError),
    "columns no sequence": ("merge_owners", (7, u16([]), 4), TypeError),
    "columns differ": ("merge_owners", ([u16([1]), u16([1, 2])], u16([1]), 4), ValueError),
    "a column no buffer": ("merge_owners", ([u16([1]), None], u16([1]), 4), TypeError),
    "half an owner": ("merge_owners", ([b"123"], u16([1]), 4), ValueError),
    "no place": ("merge_owners", ([u16([1])], u16([1]), 0), ValueError),
    "five places": ("merge_owners", ([u16([1])], u16([1]), 5), ValueError),
    "nothing": ("merge_owners", (), TypeError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_computed_is_refused(case: str) -> None:
    name, arguments, error = REFUSED[case]
    with pytest.raises(error):
        getattr(table_build, name)(*arguments)


ANYTHING = st.one_of(
    st.integers(),
    st.none(),
    st.text(max_size=4),
    st.binary(max_size=64),
    st.lists(st.binary(max_size=16), max_size=8),
    st.lists(st.integers(0, 65535), max_size=8).map(u16),
    st.sampled_from([2, 101, 2**63, float("nan"), (), memoryview(b"12345678")[::2]]),
)


@settings(max_examples=2000, deadline=None)
@given(st.sampled_from(["siphash13", "flow_hash", "owners_of_rows", "merge_owners"]), st.lists(ANYTHING, max_size=8))
def test_no_argument_crashes_the_process(name: str, arguments: list[Any]) -> None:
    try:
        getattr(table_build, name)(*arguments)
    except (TypeError, ValueError, OverflowError, BufferError):
        return


def resident_octets() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_nothing_is_leaked_by_results_or_refusals() -> None:
    ids = u16(range(1, 300))
    column = u16([1]) * 20011

    def use_everything() -> None:
        for _ in range(60):
            table_build.owners_of_rows(ids, ids, 1, 2, 20011)
            table_build.merge_owners([column] * 64, ids, 4)
            for name, arguments, error in REFUSED.values():
                with pytest.raises(error):
                    getattr(table_build, name)(*arguments)

    use_everything()
    gc.collect()
    before = resident_octets()
    for _ in range(5):
        use_everything()
    gc.collect()
    assert resident_octets() - before < 4 * 2**20, "one leaked table of each call would be 48 MB"


def test_all_buffers_are_given_back() -> None:
    """An array that is still held cannot grow."""
    arrays = [u16([3, 5, 7]) for _ in range(4)]
    table_build.owners_of_rows(arrays[0], arrays[1], 1, 2, 101)
    table_build.merge_owners(arrays[:3], arrays[3], 4)
    refused: list[Any] = [(arrays[:3], arrays[3], 0), ([*arrays[:3], None], arrays[3], 4)]
    for columns, reachable, places in refused:
        with pytest.raises((ValueError, TypeError)):
            table_build.merge_owners(columns, reachable, places)
    with pytest.raises(ValueError, match="prime"):
        table_build.owners_of_rows(arrays[0], arrays[1], 1, 2, 100)
    for each in arrays:
        each.append(9)
    with pytest.raises(ValueError, match="16-bit"):
        table_build.merge_owners([arrays[0], u16([1])], arrays[3], 4)
    for each in arrays:
        each.append(11)


def test_threads_run_while_a_table_is_built() -> None:
    """With the interpreter's lock held, the other thread could not count before the table is done."""
    ids, weights = u16(range(1, 4097)), u16([1]) * 4096
    counted = 0
    stop = threading.Event()
    interval = sys.getswitchinterval()

    def count() -> None:
        nonlocal counted
        while not stop.is_set():
            counted += 1
            time.sleep(0)

    counter = threading.Thread(target=count)
    counter.start()
    try:
        while counted == 0:
            time.sleep(0.001)
        sys.setswitchinterval(3600)  # the lock changes hands only where it is let go
        before = counted
        table_build.owners_of_rows(ids, weights, 1, 2, 655373)
        table_build.merge_owners([u16([1]) * 655373] * 64, ids, 4)
        assert counted > before
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        counter.join()
