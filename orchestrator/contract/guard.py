"""The guard of L4 nodes: which sources are blocked or exempt, and how many new flows are too many."""

from collections.abc import Collection, Iterable
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import Field

from orchestrator.contract.base import Address, Contract, Name

Network = IPv4Network | IPv6Network

#: Prefixes on the lists, both together: the kernel's maps are made for so many of each family.
MAX_LISTED = 65536

#: Characters of a note on why a prefix is listed.
MAX_REASON = 200

#: New flows a second that a limit can ask for: a server's network adapter brings no more of the smallest packets.
MAX_PER_SECOND = 100_000_000


class Verdict(StrEnum):
    """What becomes of a source's packets."""

    BLOCK = "block"
    """They are dropped, those of open flows too."""
    ALLOW = "allow"
    """They are neither dropped nor limited."""


class ListedPrefix(Contract):
    """An entry of the lists. The most specific prefix that holds a source decides."""

    prefix: Network
    verdict: Verdict
    until: float | None = None
    """Unix time at which the entry goes; None: it stays."""
    reason: Annotated[str, Field(max_length=MAX_REASON)] = ""


class RateLimit(Contract):
    """New flows at an even rate, and a burst after a pause."""

    per_second: Annotated[int, Field(ge=1, le=MAX_PER_SECOND)]
    burst: Annotated[int, Field(ge=1, le=MAX_PER_SECOND)]


class GuardLimits(Contract):
    """Of each L4 node. None: no limit.

    The defaults are far above what a healthy edge sees, and below what hurts: a busy /24 of a carrier's address
    translation opens some hundred flows a second; a proxy of this fleet accepts some ten thousand on each core.
    """

    source: RateLimit | None = RateLimit(per_second=10_000, burst=20_000)
    """SYNs from one source prefix: /24, /56."""
    vip: RateLimit | None = RateLimit(per_second=50_000, burst=100_000)
    """SYNs to one VIP, where `vips` says nothing else."""
    new_flows: RateLimit | None = RateLimit(per_second=200_000, burst=400_000)
    """SYNs to all VIPs of the node; and, counted apart, other flows that its flow table is to remember."""
    vips: dict[Name, RateLimit | None] = Field(default_factory=dict)
    """VIPs with a limit of their own in the place of `vip`."""


class GuardLists(Contract):
    """As agents are sent them: without what only people need."""

    block: tuple[Network, ...] = ()
    allow: tuple[Network, ...] = ()


class Guard(Contract):
    """What an L4 node's guard is to do."""

    lists: GuardLists = GuardLists()
    limits: GuardLimits = GuardLimits()


class GuardState(Contract):
    """The guard as the fleet's document keeps it."""

    entries: Annotated[tuple[ListedPrefix, ...], Field(max_length=MAX_LISTED)] = ()
    """Sorted by family, address and length; each prefix once."""
    limits: GuardLimits = GuardLimits()


def deciding_prefixes(listed: Collection[Network], sources: Iterable[Address]) -> dict[Address, Network]:
    """The most specific listed prefix that holds each source, without those that none holds.

    `listed` should find a prefix at once: a set, or a dictionary.
    """
    lengths = {
        version: sorted({network.prefixlen for network in listed if network.version == version}, reverse=True)
        for version in (4, 6)
    }
    found: dict[Address, Network] = {}
    for source in sources:
        for length in lengths[source.version]:
            network = ip_network((source, length), strict=False)
            if network in listed:
                found[source] = network
                break
    return found
