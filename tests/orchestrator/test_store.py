"""The store: no write without a comparison, watchers that wake, leases that fence, and nothing lost in a crash."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from orchestrator.state.sqlite import SqliteStore
from orchestrator.state.store import ABSENT, Conflict, LeaseLost, StoreUnusable


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(tmp_path / "store.sqlite")
    yield opened
    opened.close()


async def test_a_write_needs_the_version_that_was_read(store: SqliteStore) -> None:
    first = await store.put_if_version("fleet", b"1", ABSENT)
    with pytest.raises(Conflict):
        await store.put_if_version("fleet", b"other", ABSENT)
    second = await store.put_if_version("fleet", b"2", first)
    with pytest.raises(Conflict):
        await store.put_if_version("fleet", b"late", first)
    entry = await store.get("fleet")
    assert entry is not None
    assert (entry.value, entry.version) == (b"2", second)


async def test_a_deleted_key_never_shows_an_old_version_again(store: SqliteStore) -> None:
    first = await store.put_if_version("token", b"1", ABSENT)
    await store.delete_if_version("token", first)
    assert await store.get("token") is None
    assert await store.put_if_version("token", b"1", ABSENT) > first


async def test_two_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    """Two stores on one file, each adding one a hundred times: the sum is there, whatever the interleaving."""
    stores = [SqliteStore.open(tmp_path / "store.sqlite") for _ in range(2)]
    conflicts = 0

    async def add(store: SqliteStore) -> None:
        nonlocal conflicts
        for _ in range(50):
            while True:
                entry = await store.get("sum")
                value, version = (int(entry.value), entry.version) if entry else (0, ABSENT)
                try:
                    await store.put_if_version("sum", str(value + 1).encode(), version)
                    break
                except Conflict:
                    conflicts += 1

    async with trio.open_nursery() as nursery:
        for store in stores:
            nursery.start_soon(add, store)
    entry = await stores[0].get("sum")
    assert entry is not None
    assert int(entry.value) == 100
    assert conflicts > 0
    for store in stores:
        store.close()


async def test_a_watcher_sees_the_present_entry_and_then_each_newest(store: SqliteStore) -> None:
    version = await store.put_if_version("fleet", b"1", ABSENT)
    async with store.watch("fleet") as entries:
        assert (await anext(entries)).value == b"1"

        async def write() -> None:
            await store.put_if_version("other", b"noise", ABSENT)
            await store.put_if_version("fleet", b"2", version)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            with trio.fail_after(2):
                assert (await anext(entries)).value == b"2"


async def test_a_watcher_sees_the_writes_of_another_process(tmp_path: Path) -> None:
    ours, theirs = (SqliteStore.open(tmp_path / "store.sqlite") for _ in range(2))
    async with ours.watch("fleet") as entries, trio.open_nursery() as nursery:
        nursery.start_soon(theirs.put_if_version, "fleet", b"1", ABSENT)
        with trio.fail_after(5):
            assert (await anext(entries)).value == b"1"
    ours.close()
    theirs.close()


async def test_a_replaced_leader_can_do_no_harm(tmp_path: Path) -> None:
    now = 1000.0
    store = SqliteStore.open(tmp_path / "store.sqlite", wall=lambda: now)
    first = await store.acquire("leader", "a", ttl_s=10)
    assert first is not None
    assert await store.acquire("leader", "b", ttl_s=10) is None
    assert await store.acquire("leader", "a", ttl_s=10) == first, "renewing keeps the fence"
    now += 11
    with pytest.raises(LeaseLost):
        await store.put_if_version("fleet", b"late", ABSENT, lease=first)
    second = await store.acquire("leader", "b", ttl_s=10)
    assert second is not None
    with pytest.raises(LeaseLost):
        await store.put_if_version("fleet", b"late", ABSENT, lease=first)
    await store.put_if_version("fleet", b"new", ABSENT, lease=second)
    await store.release(second)
    assert await store.acquire("leader", "a", ttl_s=10) is not None
    store.close()


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """A child writes 1, 2, 3, ... and prints each after its write returned; it is killed in between."""
    path = tmp_path / "store.sqlite"
    program = """
import sys, trio
from pathlib import Path
from orchestrator.state.sqlite import SqliteStore
async def main():
    store, version, n = SqliteStore.open(Path(sys.argv[1])), 0, 0
    while True:
        n += 1
        version = await store.put_if_version("n", str(n).encode(), version)
        print(n, flush=True)
trio.run(main)
"""
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = 0
    for line in child.stdout:
        acknowledged = int(line)
        if acknowledged == 20:
            os.kill(child.pid, signal.SIGKILL)
    child.wait()
    store = SqliteStore.open(path)
    entry = trio.run(store.get, "n")
    assert entry is not None
    assert int(entry.value) in (acknowledged, acknowledged + 1)
    store.close()


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE cats (name TEXT)")
    other.close()
    with pytest.raises(StoreUnusable, match="not a store of this version"):
        SqliteStore.open(path)
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    with pytest.raises(StoreUnusable, match=r"other\.sqlite"):
        SqliteStore.open(path)
