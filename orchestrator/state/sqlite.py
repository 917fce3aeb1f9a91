"""The store for one machine: a SQLite file in write-ahead mode.

Each operation is one transaction on a worker thread, one at a time: the data is small and the disk's flush is the
cost. `synchronous=FULL`, so that what was acknowledged survives a power cut (sqlite.org/pragma.html, "synchronous").
"""

import math
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Self, TypeVar

import trio

from orchestrator.state.store import ABSENT, MAX_VALUE_BYTES, Conflict, Entry, Lease, LeaseLost, StoreUnusable

#: Marks the file as ours (sqlite.org/pragma.html#pragma_application_id): "efst".
APPLICATION_ID = 0x65667374
#: Shape of the tables below. A store of a later version is refused, never guessed at.
SCHEMA_VERSION = 1
#: Seconds to wait for another process that writes.
BUSY_S = 5.0
#: Seconds between looks for the writes of other processes. Writes of this one wake the watchers at once.
WATCH_POLL_S = 1.0

_SCHEMA = """
CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, fence INTEGER NOT NULL, expires_at REAL NOT NULL);
CREATE TABLE clock (only INTEGER PRIMARY KEY CHECK (only = 1), version INTEGER NOT NULL);
INSERT INTO clock VALUES (1, 0);
"""
_MARKS = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"

T = TypeVar("T")


class SqliteStore:
    """`state.store.Store` in one file. Open with `SqliteStore.open`, close with `close`.

    `wall` gives Unix time, for leases: they are compared across processes.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, wall: Callable[[], float]) -> None:
        self._path = path
        self._connection = connection
        self._wall = wall
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._written = trio.Event()

    def __repr__(self) -> str:
        return f"SqliteStore({self._path})"

    @classmethod
    def open(cls, path: Path, *, wall: Callable[[], float] = time.time) -> Self:
        """Open `path`, made if it does not exist. Raises StoreUnusable."""
        path.touch(mode=0o600, exist_ok=True)
        try:
            connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise StoreUnusable(f"{path}: {error}") from error
        try:
            _prepare(connection, path)
        except sqlite3.Error as error:
            connection.close()
            raise StoreUnusable(f"{path}: {error}") from error
        except StoreUnusable:
            connection.close()
            raise
        return cls(path, connection, wall)

    def close(self) -> None:
        self._connection.close()

    async def get(self, key: str) -> Entry | None:
        def read(connection: sqlite3.Connection) -> Entry | None:
            row = connection.execute("SELECT value, version FROM entries WHERE key = ?", (key,)).fetchone()
            return None if row is None else Entry(*row)

        return await self._run(read)

    async def keys(self, prefix: str) -> tuple[str, ...]:
        def read(connection: sqlite3.Connection) -> tuple[str, ...]:
            found = connection.execute(
                "SELECT key FROM entries WHERE substr(key, 1, ?) = ? ORDER BY key", (len(prefix), prefix)
            )
            return tuple(row[0] for row in found)

        return await self._run(read)

    async def put_if_version(self, key: str, value: bytes, version: int, *, lease: Lease | None = None) -> int:
        if len(value) > MAX_VALUE_BYTES:
            raise ValueError(f"{key}: {len(value)} bytes, and a value holds {MAX_VALUE_BYTES} at most")

        def write(connection: sqlite3.Connection) -> int:
            self._check(connection, key, version, lease)
            (new,) = connection.execute("UPDATE clock SET version = version + 1 RETURNING version").fetchone()
            connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (key, value, new))
            return int(new)

        return await self._write(write)

    async def delete_if_version(self, key: str, version: int, *, lease: Lease | None = None) -> None:
        def write(connection: sqlite3.Connection) -> None:
            self._check(connection, key, version, lease)
            connection.execute("DELETE FROM entries WHERE key = ?", (key,))

        await self._write(write)

    @asynccontextmanager
    async def watch(self, key: str, after: int = ABSENT) -> AsyncIterator[AsyncIterator[Entry]]:
        async def entries() -> AsyncGenerator[Entry, None]:
            seen = after
            while True:
                written = self._written  # taken before the look: a write in between sets it
                entry = await self.get(key)
                if entry is not None and entry.version > seen:
                    seen = entry.version
                    yield entry
                else:
                    with trio.move_on_after(WATCH_POLL_S):
                        await written.wait()

        iterator = entries()
        try:
            yield iterator
        finally:
            with trio.CancelScope(shield=True):
                await iterator.aclose()

    async def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        if not (0 < ttl_s < math.inf):
            raise ValueError(f"a lease lasts for a while, not for {ttl_s} s")

        def write(connection: sqlite3.Connection) -> Lease | None:
            now = self._wall()
            row = connection.execute("SELECT holder, fence, expires_at FROM leases WHERE name = ?", (name,)).fetchone()
            present, fence, expires_at = row or ("", 0, 0.0)
            if present != holder and expires_at > now:
                return None
            if present != holder or expires_at <= now:
                fence += 1
            connection.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", (name, holder, fence, now + ttl_s))
            return Lease(name, holder, fence)

        return await self._write(write)

    async def release(self, lease: Lease) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE leases SET expires_at = 0 WHERE name = ? AND holder = ? AND fence = ?",
                (lease.name, lease.holder, lease.fence),
            )

        await self._write(write)

    def _check(self, connection: sqlite3.Connection, key: str, version: int, lease: Lease | None) -> None:
        if lease is not None:
            row = connection.execute("SELECT fence, expires_at FROM leases WHERE name = ?", (lease.name,)).fetchone()
            if row is None or row[0] != lease.fence or row[1] <= self._wall():
                raise LeaseLost(f"lease {lease.name} is no longer with {lease.holder}")
        row = connection.execute("SELECT version FROM entries WHERE key = ?", (key,)).fetchone()
        present = ABSENT if row is None else row[0]
        if present != version:
            raise Conflict(f"{key} is at version {present}, not {version}")

    async def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = change(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            return result

        result = await self._run(transaction)
        self._written.set()
        self._written = trio.Event()
        return result

    async def _run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await trio.to_thread.run_sync(operation, self._connection, limiter=self._one_at_a_time)
        except sqlite3.Error as error:
            raise StoreUnusable(f"{self._path}: {error}") from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if (application, schema) == (APPLICATION_ID, SCHEMA_VERSION):
        return
    with closing(connection.execute("SELECT count(*) FROM sqlite_master")) as cursor:
        (tables,) = cursor.fetchone()
    if application != 0 or schema != 0 or tables != 0:
        raise StoreUnusable(
            f"{path}: not a store of this version (application {application:#x}, schema {schema}; "
            f"wanted {APPLICATION_ID:#x}, {SCHEMA_VERSION})"
        )
    connection.executescript(f"BEGIN EXCLUSIVE;{_SCHEMA}{_MARKS}COMMIT;")
