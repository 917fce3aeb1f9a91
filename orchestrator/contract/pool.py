"""Pools, their members, and the generations of their membership."""

from enum import StrEnum
from functools import cached_property
from typing import Annotated

from pydantic import Field

from orchestrator.contract.base import DEFAULT_SITE, Address, Contract, Identifier, Name

#: Rows of a forwarding table. Prime, as Maglev needs (Eisenbud et al., NSDI 2016, section 3.4: a table of more than
#: 100 rows per member keeps the imbalance below 1 %).
DEFAULT_TABLE_ROWS = 65537

#: Most rows of a table: ten times as many (the paper's "large" tables; 5 MB in the kernel).
MAX_TABLE_ROWS = 655373

#: Generations that may be live at once. Chains stay short, so this bounds memory and build time, not survival.
MAX_LIVE_GENERATIONS = 64

#: Owners in a chain: the row's present owner and up to three earlier ones.
MAX_OWNERS = 4

#: Weights are small integers: a member of weight 100 takes 100 turns to another's one.
MAX_WEIGHT = 100


#: Members of a pool.
MAX_MEMBERS = 4096


class Encapsulation(StrEnum):
    """How packets travel from the L4 nodes to a pool's members."""

    GUE = "gue"
    """Generic UDP encapsulation: carries the owner chain, so that redirectors can give second chances."""
    IPIP = "ipip"
    """IP in IP: for hosts that decapsulate in their own kernel."""
    L2 = "l2"
    """The frame as it is, to the member's MAC address: members are on the L4 nodes' own segment."""


class MemberState(StrEnum):
    """Where a member stands in the drain state machine. Only an active member is given new flows."""

    JOINING = "joining"
    """To be active as soon as its host is ready for the flows that it will be given."""
    ACTIVE = "active"
    DRAINING = "draining"
    DRAINED = "drained"


class Member(Contract):
    """A host that a pool forwards to."""

    id: Identifier
    """Stable, fleet-wide, and not reused while a live generation knows it. Travels in GUE owner lists."""
    name: Name
    """The node's name."""
    address: Address
    """Where encapsulated packets are sent: the host's own address on the underlay."""
    state: MemberState
    reachable: bool = True
    """False only when the host itself is gone: it then leaves the owner chains (unhealthy is not dead)."""


class GenerationMember(Contract):
    """A member that a generation gives rows to."""

    id: Identifier
    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)]


class Generation(Contract):
    """An immutable membership of a pool. Its forwarding table is a pure function of it, the fleet key and the size."""

    number: Annotated[int, Field(ge=1)]
    """Grows by one with every change of the pool; unique in the pool, whatever the site."""
    site: Name | None = DEFAULT_SITE
    """Whose L4 nodes give new flows by it, while it is the site's newest. Those of other sites know it for the flows
    that come to them later. None: of a site that is gone; nobody gives new flows by it any more."""
    members: tuple[GenerationMember, ...]
    """Sorted by id. Empty only if nothing may take new flows."""

    @cached_property
    def ids(self) -> frozenset[int]:
        """Of its members."""
        return frozenset(member.id for member in self.members)


class ProbeKind(StrEnum):
    """What a probe asks of a member."""

    TCP = "tcp"
    """That a connection is accepted."""
    HTTP = "http"
    """That a request is answered as expected."""
    HTTPS = "https"


#: A host name, of one label or several (RFC 1123 section 2.1), lower case.
ProbeHost = Annotated[
    str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$", max_length=253)
]


class Probe(Contract):
    """How L4 nodes look after a pool's members: along the way that clients' packets take, through the tunnel, to a VIP.

    Reachability is always asked for, by a TCP connection; `kind` says what else.
    """

    kind: ProbeKind = ProbeKind.TCP
    vip: Name | None = None
    """The VIP that is asked on each member. None: the pool's first TCP VIP of a single address and port."""
    host: ProbeHost | None = None
    """Of HTTP and HTTPS: the `Host` and the TLS server name."""
    path: Annotated[str, Field(pattern=r"^/[\x21-\x7e]*$", max_length=1024)] = "/"
    statuses: tuple[Annotated[int, Field(ge=100, le=599)], ...] = (200,)
    """Answers that count as healthy."""
    interval_ms: Annotated[int, Field(ge=100, le=60_000)] = 1000
    """Between requests; a fifth of it more or less, by chance, so that L4 nodes do not ask in step."""
    timeout_ms: Annotated[int, Field(ge=50, le=60_000)] = 1000
    reach_interval_ms: Annotated[int, Field(ge=50, le=60_000)] = 200
    """Between connections that ask for reachability alone."""
    reach_timeout_ms: Annotated[int, Field(ge=20, le=60_000)] = 200
    up_after: Annotated[int, Field(ge=1, le=10)] = 2
    down_after: Annotated[int, Field(ge=1, le=10)] = 3


class PoolForwarding(Contract):
    """All that a node needs to build a pool's forwarding table."""

    name: Name
    slot: Annotated[int, Field(ge=0, le=255)]
    """Index of the pool's table in the kernel's array of maps; stable."""
    redirectors: bool = True
    """Whether the members run the redirector. Without it, established flows need the flow table. GUE only."""
    encapsulation: Encapsulation = Encapsulation.GUE
    probe: Probe | None = None
    """None: nobody probes the members."""
    members: Annotated[tuple[Member, ...], Field(max_length=2 * MAX_MEMBERS)]
    """Everyone that a live generation knows, and everyone configured: they may hold flows too. Sorted by id."""
    generations: Annotated[tuple[Generation, ...], Field(min_length=1, max_length=MAX_LIVE_GENERATIONS)]
    """The live generations, newest first; for an L4 node those of its own site before all others, each site's newest
    first. Chains follow this order."""


class ForwardingSettings(Contract):
    """Fleet-wide inputs of the flow hash and the tables. All nodes hold the same."""

    hash_key: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """128-bit SipHash key, hex, so that an attacker cannot aim at a row."""
    rows: Annotated[int, Field(ge=101, le=MAX_TABLE_ROWS)] = DEFAULT_TABLE_ROWS
    owners_per_row: Annotated[int, Field(ge=1, le=MAX_OWNERS)] = MAX_OWNERS
    """1 switches second chances off: for measuring what they are worth, not for service."""
