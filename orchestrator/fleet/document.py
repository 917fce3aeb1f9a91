"""The fleet's state: one immutable document.

It holds what must survive the orchestrator and is not in the configuration: identifiers, the state of members, and
the live generations of each pool. `revision` is the version of the snapshots compiled from it, and grows with every
change.
"""

from typing import Annotated

from pydantic import Field

from orchestrator.contract.base import Address, Contract, Identifier, Name
from orchestrator.contract.guard import GuardState
from orchestrator.contract.node import L4DrainPhase
from orchestrator.contract.pool import MAX_LIVE_GENERATIONS, Generation, MemberState
from orchestrator.contract.ticket import TicketKey

MAX_IDENTIFIER = 65535


class FleetRefused(Exception):
    """A change that the fleet's state does not allow. `code` is for programs, `hint` says what to do."""

    def __init__(self, code: str, message: str, hint: str, path: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
        self.path = path


class Drain(Contract):
    """A member's way out, from the first moment; kept while it is drained."""

    started_at: float
    """Unix time."""
    deadline_at: float | None = None
    force: bool = False
    reset: bool = False
    """The moment for `force` has come: what is open is reset."""
    flows_at_start: int | None = None
    drained_at: float | None = None
    removed: bool = False
    """The configuration no longer names the node: that began the drain, and naming it again ends it."""


class MemberHealth(Contract):
    """What must be remembered of a member's health (`fleet.health`); all else follows from reports."""

    healthy: bool = True
    """False: it is given no new flows, until it is healthy again and its hold is over."""
    seen_healthy: bool = False
    """Whether its probes were ever passed. Until then they put nobody out who is given new flows."""
    losses: int = 0
    """How often it lost its health while it was given new flows, as of `lost_at`. Halved by every quiet while."""
    lost_at: float | None = None
    """Unix time of the last loss."""
    share: Annotated[int, Field(ge=1, le=100)] = 100
    """Percent of its weight that it has, or will have when it comes back (slow start)."""
    share_since: float | None = None
    """Unix time; None while it is given no new flows, or has all of its weight."""


class FleetMember(Contract):
    """A proxy of the configuration, or one that a live generation still knows."""

    id: Identifier
    name: Name
    address: Address
    state: MemberState = MemberState.ACTIVE
    drain: Drain | None = None
    """Present unless active."""
    reachable: bool = True
    """False: its host does not answer, as most L4 nodes see it. Its flows are lost."""
    health: MemberHealth = MemberHealth()


class L4Drain(Contract):
    """An L4 node's way out (`fleet.l4_drain`); kept while it is drained."""

    started_at: float
    """Unix time."""
    phase: L4DrainPhase = L4DrainPhase.SOFT
    deadline_at: float | None = None
    go_dark: bool = False
    """An operator has said that VIPs may be left without anybody who announces them."""
    drained_at: float | None = None


class LiveGeneration(Contract):
    """A generation, and the revision that brought it."""

    generation: Generation
    revision: int
    """An agent that has applied this revision, or a later one, knows the generation. Of a site that is gone: knows that
    it is."""


class FleetPool(Contract):
    """A pool's slot and generations."""

    name: Name
    slot: Annotated[int, Field(ge=0, le=255)]
    generations: Annotated[tuple[LiveGeneration, ...], Field(min_length=1, max_length=MAX_LIVE_GENERATIONS)]
    """Newest first, of all sites. Each site's own newest is the one that its L4 nodes give new flows by."""
    joining: dict[Identifier, int] = Field(default_factory=dict)
    """Member → revision that its agents, and its fellows' redirectors, must have applied before it is given rows.

    A host that is not ready would swallow the flows of those rows, old ones too: it could not pass them on."""

    @property
    def newest(self) -> LiveGeneration:
        """Of all sites."""
        return self.generations[0]

    @property
    def newest_by_site(self) -> dict[str, LiveGeneration]:
        """Those that new flows are given by."""
        found: dict[str, LiveGeneration] = {}
        for live in self.generations:
            if live.generation.site is not None:
                found.setdefault(live.generation.site, live)
        return found

    @property
    def serving_ids(self) -> frozenset[int]:
        """Members that a site gives new flows to."""
        return frozenset[int]().union(*(live.generation.ids for live in self.newest_by_site.values()))

    @property
    def known_ids(self) -> frozenset[int]:
        """Members of any live generation."""
        return frozenset[int]().union(*(live.generation.ids for live in self.generations))

    @property
    def member_ids(self) -> frozenset[int]:
        """Members of any live generation, and those that join."""
        return self.known_ids.union(self.joining)


class TicketKeyChain(Contract):
    """Keys of session tickets by age (`fleet.ticket_keys`). A secret: it is shown to nobody but proxies."""

    next: TicketKey
    issuing: TicketKey
    older: tuple[TicketKey, ...] = ()
    """Accepted still, newest first."""
    rotated_at: float
    """Unix time since which `issuing` issues."""


class FleetState(Contract):
    """The whole. A new fleet has revision 0 and no configuration."""

    revision: int = 0
    hash_key: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", repr=False)]
    configuration: str | None = None
    """Digest of the configuration in force."""
    members: tuple[FleetMember, ...] = ()
    """Sorted by id."""
    pools: tuple[FleetPool, ...] = ()
    """Sorted by name."""
    l4_ids: dict[Name, Identifier] = Field(default_factory=dict)
    vip_ids: dict[Name, Identifier] = Field(default_factory=dict)
    """VIPs that are gone keep their id: it is never another VIP's."""
    guard: GuardState = GuardState()
    last_generation: int = 0
    """The highest number in pools that are gone: another pool of such a name begins above it."""
    l4_drains: dict[Name, L4Drain] = Field(default_factory=dict)
    """By L4 node: those that drain or are drained."""
    announce_anyway: dict[Name, tuple[Name, ...]] = Field(default_factory=dict)
    """L4 node → VIPs that nobody else announces (`fleet.announcers`)."""
    ticket_keys: TicketKeyChain | None = Field(default=None, repr=False)
    last_member_id: int = 0
    last_l4_id: int = 0

    def member(self, name: str) -> FleetMember | None:
        return next((member for member in self.members if member.name == name), None)

    def pool(self, name: str) -> FleetPool | None:
        return next((pool for pool in self.pools if pool.name == name), None)

    def with_member(self, member: FleetMember) -> "FleetState":
        """The same, with this member in the place of its namesake."""
        members = tuple(member if other.name == member.name else other for other in self.members)
        return self.model_copy(update={"members": members})


def next_identifier(last: int, taken: frozenset[int] | set[int], what: str) -> int:
    """The next free one after `last`, around the end if need be: the longest time before an id is used again."""
    for step in range(1, MAX_IDENTIFIER + 1):
        candidate = (last + step - 1) % MAX_IDENTIFIER + 1
        if candidate not in taken:
            return candidate
    raise FleetRefused("identifiers_exhausted", f"all {MAX_IDENTIFIER} ids of {what} are taken", "remove some first")
