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
from orchestrator.contract.backoff import Backoff
from orchestrator.fleet.document import FleetRefused, FleetState
from orchestrator.state.store import ABSENT, Conflict, Lease, Store, StoreUnusable

log = logging.getLogger(__name__)

FLEET_KEY = "fleet"
CONFIGURATION_PREFIX = "configuration/"

#: Attempts to write before the change is refused. Each loss means that another process's change went through.
MAX_ATTEMPTS = 16
#: First and longest wait between two attempts, in seconds: a write takes a few milliseconds.
RETRY_FIRST_S = 0.005
RETRY_LONGEST_S = 0.2
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
#: The next fleet, with its revision; None if the present one is right.
Succession = Callable[[Present], tuple[FleetState, Configuration] | None]


class Ledger:
    """Open with `open_ledger`. `lease` gives the leader's lease, under which every write is made."""

    def __init__(self, store: Store, present: Present, lease: Callable[[], Lease | None]) -> None:
        self._store = store
        self._present = present
        self._lease = lease
        self._changed = trio.Event()
        self._one_change = trio.Lock()

    def __repr__(self) -> str:
        return f"Ledger({self._present})"

    @property
    def present(self) -> Present:
        """The newest that is known here."""
        return self._present

    async def change(self, decide: Decision) -> Present:
        """Put in force what `decide` makes of the present; nothing is written if that is the same.

        `decide` may be called again, when another process was faster. Raises what it raises, FleetRefused(busy), and
        the store's LeaseLost and StoreUnusable.
        """

        def succeed(before: Present) -> tuple[FleetState, Configuration] | None:
            fleet, configuration = decide(before)
            digest = before.fleet.configuration if configuration is before.configuration else configuration.digest
            fleet = fleet.model_copy(update={"configuration": digest})
            if fleet == before.fleet:
                return None
            return fleet.model_copy(update={"revision": before.fleet.revision + 1}), configuration

        return await self._compare_and_swap(succeed)

    async def pass_version(self, seen: int) -> None:
        """An agent has applied `seen`. If the store is behind that, it was restored from a backup: go beyond it.

        Agents refuse snapshots older than the one they run, so without this they would wait for the store to catch
        up. Raises FleetRefused: version_implausible, busy.
        """
        if seen <= self._present.fleet.revision:
            return
        if seen - self._present.fleet.revision > MAX_VERSION_JUMP:
            raise FleetRefused("version_implausible", f"revision {seen} never was one of this fleet", "join anew")

        def succeed(before: Present) -> tuple[FleetState, Configuration] | None:
            if seen <= before.fleet.revision:
                return None
            return _relabelled(before.fleet, seen + 1), before.configuration

        behind = self._present.fleet.revision
        present = await self._compare_and_swap(succeed)
        log.warning(
            "an agent runs revision %d and the store was at %d, so it was restored from a backup; going on as %d",
            seen,
            behind,
            present.fleet.revision,
        )

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

    async def _compare_and_swap(self, succeed: Succession) -> Present:
        """Read, decide, write, until nobody came in between."""
        backoff = Backoff(RETRY_FIRST_S, RETRY_LONGEST_S)
        async with self._one_change:
            for _ in range(MAX_ATTEMPTS):
                before = await _read(self._store, self._present)
                self._take(before)
                following = succeed(before)
                if following is None:
                    return before
                fleet, configuration = following
                try:
                    version = await self._write(before, fleet, configuration)
                except Conflict:
                    await trio.sleep(backoff.next_wait_s())
                    continue
                present = Present(fleet, configuration, version)
                self._take(present)
                if fleet.configuration != before.fleet.configuration:
                    await self._forget_configurations({fleet.configuration, before.fleet.configuration})
                return present
        raise FleetRefused("busy", "others change the fleet all the time", "try again")

    def _take(self, present: Present) -> None:
        if present.version <= self._present.version:
            return
        self._present = present
        self._changed.set()
        self._changed = trio.Event()

    async def _write(self, before: Present, fleet: FleetState, configuration: Configuration) -> int:
        if fleet.configuration is not None and fleet.configuration != before.fleet.configuration:
            await self._keep(fleet.configuration, configuration)
        text = fleet.model_dump_json().encode()
        return await self._store.put_if_version(FLEET_KEY, text, before.version, lease=self._lease())

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


def _relabelled(fleet: FleetState, revision: int) -> FleetState:
    """The same fleet as `revision`, its generations too: what agents applied before was of another history."""
    pools = tuple(
        pool.model_copy(
            update={"generations": tuple(live.model_copy(update={"revision": revision}) for live in pool.generations)}
        )
        for pool in fleet.pools
    )
    return fleet.model_copy(update={"revision": revision, "pools": pools})


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
