"""The leader's lease: who may write. With SQLite there is one orchestrator, and the lease guards against a mistake."""

import logging
import socket
from dataclasses import dataclass
from typing import NoReturn

import trio

from orchestrator.state.store import Lease, Store, StoreUnusable

log = logging.getLogger(__name__)

LEASE = "leader"
#: Seconds that the lease lasts, and between two renewals: two may fail (etcd's default election timeout is 1 s; an
#: orchestrator is not in the packets' way, so calm counts for more than speed).
LEASE_S = 10.0
RENEW_S = 3.0


@dataclass(slots=True)
class Leadership:
    """Holds the lease, or tries to. `lease` is what writes are made under."""

    store: Store
    holder: str = socket.gethostname()
    held: Lease | None = None

    @property
    def lease(self) -> Lease:
        """The newest lease; writes under one that was lost are refused by the store."""
        return self.held or Lease(LEASE, self.holder, 0)

    async def acquire(self) -> None:
        """Waits until the lease is ours. The holder is this host, so a restart takes it up at once."""
        while (lease := await self.store.acquire(LEASE, self.holder, LEASE_S)) is None:
            log.warning("another orchestrator leads; waiting for its lease to end")
            await trio.sleep(RENEW_S)
        self.held = lease

    async def keep(self) -> NoReturn:
        """Task: renews the lease."""
        while True:
            await trio.sleep(RENEW_S)
            try:
                lease = await self.store.acquire(LEASE, self.holder, LEASE_S)
            except StoreUnusable as error:
                log.error("lease not renewed: %s", error)
                continue
            if lease is None:
                log.error("another orchestrator leads now: nothing is written from here")
            elif lease != self.held:
                log.warning("lease taken anew, fence %d", lease.fence)
            self.held = lease or self.held
