"""The store's interface: get, put-if-version, watch, lease.

Everything that the orchestrator must not forget is a few documents under keys. There is no write without a
comparison, so that two writers never lose each other's work; and none without a lease where one is given, so that a
leader that was replaced and does not know it yet can do no harm.

Versions are those of the store as a whole (as etcd's `mod_revision`): they grow with every write to any key, so a key
that was deleted and written anew never shows a version that it had before.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

#: Version to give for a key that must not exist yet.
ABSENT = 0

#: Largest value, in bytes: a compiled configuration with a thousand certificates.
MAX_VALUE_BYTES = 64 * 1024 * 1024


class Conflict(Exception):
    """The key is not at the version that the writer had read: read again, decide again."""


class LeaseLost(Exception):
    """The lease ran out or went to another holder: stop writing."""


class StoreUnusable(Exception):
    """The store cannot be opened or read; the message says which file and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value, and the version of the write that made it."""

    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write, for a while."""

    name: str
    holder: str
    fence: int
    """Grows each time that the lease goes to another holder, or back to one that had let it run out."""


class Store(Protocol):
    """See the module's text. All methods raise StoreUnusable if the store itself fails."""

    async def get(self, key: str) -> Entry | None:
        """The present entry."""

    async def keys(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin with `prefix`, sorted."""

    async def put_if_version(self, key: str, value: bytes, version: int, *, lease: Lease | None = None) -> int:
        """Write if `key` is at `version` (ABSENT: does not exist); the new version. Raises Conflict, LeaseLost."""

    async def delete_if_version(self, key: str, version: int, *, lease: Lease | None = None) -> None:
        """Delete if `key` is at `version`. Raises Conflict, LeaseLost."""

    def watch(self, key: str, after: int = ABSENT) -> AbstractAsyncContextManager[AsyncIterator[Entry]]:
        """Entries of `key` whose version is above `after`, the present one included. Skips what was overwritten."""

    async def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """Take, or renew, the lease for `ttl_s` seconds. None while another holder has it."""

    async def release(self, lease: Lease) -> None:
        """Give the lease back; nothing happens if it is lost already."""
