"""The fleet's document in the store: read, decide, write by compare-and-swap, tell who waits.

The configuration is kept beside it, under its digest, and the document names the digest: so one write puts a new
configuration and the fleet that follows from it in force, or neither.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import trio
from pydantic import ValidationError

from orchestrator.config.configuration import Configuration
from orchestrator.fleet.document import FleetRefused, FleetState
from orchestrator.state.store import ABSENT, Conflict, Lease, Store, StoreUnusable

log = logging.getLogger(__name__)

FLEET_KEY = "fleet"
CONFIGURATION_PREFIX = "configuration/"

#: Attempts to write before the change is refused. Each loss means that somebody else's change went through.
MAX_ATTEMPTS = 16
#: How far an agent may be ahead of the store before it is not believed.
MAX_VERSION_JUMP = 1_000_000


@dataclass(frozen=True, slots=True)
class Present:
    """Fleet and configuration as they are in the store."""

    fleet: FleetState
    configuration: Configuration
    version: int
    """Of the store's entry."""

    def __repr__(self) -> str:
        return f"Present(revision {self.fleet.revision}, {len(self.fleet.members)} members)"


Decision = Callable[[Present], tuple[FleetState, Configuration]]


class Ledger:
    """Open with `open_ledger`. `lease` gives the leader's lease, under which every write is made."""

    def __init__(self, store: Store, present: Present, lease: Callable[[], Lease | None]) -> None:
        self._store = store
        self._present = present
        self._lease = lease
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"Ledger({self._present})"

    @property
    def present(self) -> Present:
        """The newest that is known here."""
        return self._present

    async def change(self, decide: Decision) -> Present:
        """Put in force what `decide` makes of the present; nothing is written if that is the same.

        `decide` may be called again, when somebody else was faster. Raises what it raises, FleetRefused(busy), and
        the store's LeaseLost and StoreUnusable.
        """
        for _ in range(MAX_ATTEMPTS):
            before = await _read(self._store, self._present)
            self._take(before)
            fleet, configuration = decide(before)
            digest = before.fleet.configuration if configuration is before.configuration else configuration.digest
            if fleet == before.fleet and digest == before.fleet.configuration:
                return before
            if digest is not None and digest != before.fleet.configuration:
                await self._keep(digest, configuration)
            after = fleet.model_copy(update={"revision": before.fleet.revision + 1, "configuration": digest})
            try:
                version = await self._write(after, before.version)
            except Conflict:
                continue
            present = Present(after, configuration, version)
            self._take(present)
            if digest != before.fleet.configuration:
                await self._forget_configurations({digest, before.fleet.configuration})
            return present
        raise FleetRefused("busy", "others change the fleet all the time", "try again")

    async def pass_version(self, seen: int) -> None:
        """An agent has applied `seen`. If the store is behind that, it was restored from a backup: go beyond it.

        Agents refuse snapshots older than the one they run, so without this they would wait for the store to catch
        up. Raises FleetRefused(version_implausible).
        """
        if seen <= self._present.fleet.revision:
            return
        if seen - self._present.fleet.revision > MAX_VERSION_JUMP:
            raise FleetRefused("version_implausible", f"revision {seen} never was one of this fleet", "join anew")

        for _ in range(MAX_ATTEMPTS):
            before = await _read(self._store, self._present)
            self._take(before)
            if seen <= before.fleet.revision:
                return
            log.warning("an agent runs revision %d and the store is at %d: a restored backup; going on from there",
                        seen, before.fleet.revision)  # fmt: skip
            after = before.fleet.model_copy(update={"revision": seen + 1})
            try:
                version = await self._write(after, before.version)
            except Conflict:
                continue
            self._take(Present(after, before.configuration, version))
            return
        raise FleetRefused("busy", "others change the fleet all the time", "try again")

    async def beyond(self, revision: int) -> Present:
        """Waits until the fleet is at another revision than `revision`, which an agent has seen."""
        while self._present.fleet.revision <= revision:
            await self._changed.wait()
        return self._present

    async def follow(self) -> NoReturn:
        """Task: take up what others write to the store."""
        async with self._store.watch(FLEET_KEY, self._present.version) as entries:
            async for entry in entries:
                if entry.version > self._present.version:
                    self._take(await _read(self._store, self._present))
        raise AssertionError("a watch ends by cancellation only")

    def _take(self, present: Present) -> None:
        if present.version <= self._present.version:
            return
        self._present = present
        self._changed.set()
        self._changed = trio.Event()

    async def _write(self, fleet: FleetState, version: int) -> int:
        text = fleet.model_dump_json().encode()
        return await self._store.put_if_version(FLEET_KEY, text, version, lease=self._lease())

    async def _keep(self, digest: str, configuration: Configuration) -> None:
        try:
            await self._store.put_if_version(
                CONFIGURATION_PREFIX + digest, configuration.model_dump_json().encode(), ABSENT, lease=self._lease()
            )
        except Conflict:
            log.debug("configuration %s is in the store already", digest[:12])

    async def _forget_configurations(self, kept: set[str | None]) -> None:
        """All but the present and the previous one."""
        for key in await self._store.keys(CONFIGURATION_PREFIX):
            entry = await self._store.get(key)
            if entry is None or key.removeprefix(CONFIGURATION_PREFIX) in kept:
                continue
            try:
                await self._store.delete_if_version(key, entry.version, lease=self._lease())
            except Conflict:
                log.debug("configuration %s was written again", key)


async def create_fleet(store: Store, hash_key: str) -> None:
    """The document of a new fleet. Raises Conflict if there is one."""
    await store.put_if_version(FLEET_KEY, FleetState(hash_key=hash_key).model_dump_json().encode(), ABSENT)


async def open_ledger(store: Store, lease: Callable[[], Lease | None] = lambda: None) -> Ledger:
    """Raises StoreUnusable if the store holds no fleet of this version."""
    return Ledger(store, await _read(store, None), lease)


async def _read(store: Store, known: Present | None) -> Present:
    while True:
        entry = await store.get(FLEET_KEY)
        if entry is None:
            raise StoreUnusable(f"{store} holds no fleet: run edge-orchestrator init first")
        if known is not None and entry.version == known.version:
            return known
        try:
            fleet = FleetState.model_validate_json(entry.value)
            if fleet.configuration is None:
                return Present(fleet, Configuration(), entry.version)
            if known is not None and fleet.configuration == known.fleet.configuration:
                return Present(fleet, known.configuration, entry.version)
            text = await store.get(CONFIGURATION_PREFIX + fleet.configuration)
            if text is not None:
                return Present(fleet, Configuration.model_validate_json(text.value), entry.version)
        except ValidationError as error:
            raise StoreUnusable(f"{store}: not of this version: {error.errors(include_input=False)[0]}") from error
        # The configuration was replaced between the two reads, or it is lost.
        again = await store.get(FLEET_KEY)
        if again is not None and again.version == entry.version:
            raise StoreUnusable(f"{store}: configuration {fleet.configuration} is missing")
