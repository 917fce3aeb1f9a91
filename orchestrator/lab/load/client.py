"""What all lanes share: where to connect, what has been seen so far, and how breakage is told."""

import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import trio

from orchestrator.lab.content import Resource, downloads, small
from orchestrator.lab.load.breakage import SLOW_S, Breakage, Broken, ClosedBeforeAnswer
from orchestrator.lab.load.connection import TlsConnection
from orchestrator.lab.load.http import Head, read_answer, request_bytes
from orchestrator.lab.load.messages import BreakageSeen, FlowTally, RequestTally, SlowSeen
from orchestrator.lab.load.plan import FlowKind, LoadPlan

#: Breakages that are told one by one; all are counted. Slow answers that are told, too.
MAX_TOLD = 200


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One VIP as seen from one client address."""

    address: str
    port: int
    source: str

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.address

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.is_ipv6 else f"{self.address}:{self.port}"


@dataclass(slots=True)
class FlowCount:
    """A `FlowTally` while it grows."""

    begun: int = 0
    open: int = 0
    completed: int = 0
    ipv6: int = 0
    bytes_checked: int = 0
    goodbyes: int = 0
    closed_idle: int = 0
    sent_again: int = 0
    longest_silence_s: float = 0.0
    breakages: Counter[Breakage] = field(default_factory=Counter)

    def tally(self) -> FlowTally:
        return FlowTally(
            begun=self.begun,
            open=self.open,
            completed=self.completed,
            broken=self.breakages.total(),
            breakages=dict(self.breakages),
            ipv6=self.ipv6,
            bytes_checked=self.bytes_checked,
            goodbyes=self.goodbyes,
            closed_idle=self.closed_idle,
            sent_again=self.sent_again,
            longest_silence_s=round(self.longest_silence_s, 4),
        )


@dataclass(slots=True)
class RequestCount:
    """A `RequestTally` while it grows."""

    answered: int = 0
    connections: int = 0
    sent_again: int = 0
    held_back: int = 0
    breakages: Counter[Breakage] = field(default_factory=Counter)

    def tally(self) -> RequestTally:
        return RequestTally(
            answered=self.answered,
            failed=self.breakages.total(),
            breakages=dict(self.breakages),
            connections=self.connections,
            sent_again=self.sent_again,
            held_back=self.held_back,
        )


class LoadClient:
    """The client side of a load plan."""

    def __init__(
        self,
        plan: LoadPlan,
        context: ssl.SSLContext,
        *,
        random: Random,
        unix_time: Callable[[], float],
        tell: Callable[[BreakageSeen], None],
        tell_slow: Callable[[SlowSeen], None] = lambda _seen: None,
    ) -> None:
        self.plan = plan
        self.random = random
        self.small = small()
        self.downloads = downloads()
        self.finishing = trio.Event()
        """Set: begin nothing new."""
        self.flows = {kind: FlowCount() for kind in FlowKind}
        self.requests = RequestCount()
        self._context = context
        self._unix_time = unix_time
        self._tell = tell
        self._tell_slow = tell_slow
        self._told = 0
        self._told_slow = 0
        self._slowest_answer_s = 0.0

    async def connect(self, endpoint: Endpoint) -> TlsConnection:
        """Raises Broken."""
        began = trio.current_time()
        connection = await TlsConnection.open(
            endpoint.address,
            endpoint.port,
            host=self.plan.host,
            context=self._context,
            source=endpoint.source,
            silence_bound_s=self.plan.silence_bound_s,
        )
        self._tell_if_slow("", trio.current_time() - began)
        return connection

    async def fetch(self, connection: TlsConnection, resource: Resource, *, rate: int | None = None) -> Head:
        """GET a resource, as fast as they come or at a rate in bytes per second.

        Raises ClosedBeforeAnswer, Broken.
        """
        query = f"?rate={rate}" if rate is not None else ""
        connection.ask(resource.path)
        await connection.send(request_bytes("GET", resource.path + query, self.plan.host))
        return await read_answer(connection, resource.size, resource.sha256)

    async def fetch_again(self, endpoint: Endpoint, resource: Resource) -> None:
        """The one new attempt after a clean close crossed a request. Raises Broken."""
        async with await self.connect(endpoint) as connection:
            try:
                await self.fetch(connection, resource)
            except ClosedBeforeAnswer:
                raise Broken(Breakage.TRUNCATED, "closed before any answer, twice in a row") from None

    def answered_in(self, seconds: float, connection: str) -> None:
        self._slowest_answer_s = max(self._slowest_answer_s, seconds)
        self._tell_if_slow(connection, seconds)

    def _tell_if_slow(self, connection: str, seconds: float) -> None:
        if seconds > SLOW_S and self._told_slow < MAX_TOLD:
            self._told_slow += 1
            self._tell_slow(SlowSeen(at=self._unix_time(), connection=connection, took_s=round(seconds, 3)))

    def take_slowest_answer(self) -> float:
        """The slowest answer since the last call, in seconds."""
        slowest, self._slowest_answer_s = self._slowest_answer_s, 0.0
        return slowest

    def broke(
        self, what: str, broken: Broken, endpoint: Endpoint, *, connection: TlsConnection | None, age_s: float
    ) -> None:
        """Tell of one breakage; beyond `MAX_TOLD` they are only counted, by the caller's tally."""
        self._told += 1
        if self._told > MAX_TOLD:
            return
        self._tell(
            BreakageSeen(
                at=self._unix_time(),
                what=what,
                how=broken.how,
                detail=broken.detail,
                connection=connection.name if connection else "",
                asked=connection.asked if connection else "",
                answered_by=connection.answered_by if connection else "",
                target=str(endpoint),
                age_s=round(age_s, 3),
            )
        )
