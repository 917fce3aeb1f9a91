"""What a lab is made of: its sizes, and the few settings that its configuration carries."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from orchestrator.contract.base import Contract, Name
from orchestrator.contract.pool import DEFAULT_TABLE_ROWS, MAX_OWNERS

DEFAULT_NAME = "edge"

#: Hosts of one kind. Each is a namespace with processes of its own; sixteen of everything is what a laptop still runs.
MAX_HOSTS_OF_KIND = 16

#: Sites with a router each. Two are what it takes to lose one.
MAX_SITES = 2


class LabSpec(Contract):
    """Sizes and settings of a lab. Kept in its directory, so that every later command finds what `up` was asked for."""

    name: Annotated[Name, Field(max_length=32)] = DEFAULT_NAME
    """Prefix of its namespaces and name of its directory."""
    sites: Annotated[int, Field(ge=1, le=MAX_SITES)] = 1
    """With more than one, clients, backends and orchestrator are behind a transit router between the sites' routers."""
    l4_nodes: Annotated[int, Field(ge=1, le=MAX_HOSTS_OF_KIND)] = 2
    """At each site."""
    proxies: Annotated[int, Field(ge=1, le=MAX_HOSTS_OF_KIND)] = 3
    """At each site."""
    backends: Annotated[int, Field(ge=1, le=MAX_HOSTS_OF_KIND)] = 3
    client_addresses: Annotated[int, Field(ge=1, le=64)] = 8
    """Source addresses of each family that clients may bind."""
    workers: Annotated[int, Field(ge=1, le=16)] = 1
    """Worker processes of each proxy."""
    rows: Annotated[int, Field(ge=101, le=655373)] = DEFAULT_TABLE_ROWS
    owners_per_row: Annotated[int, Field(ge=1, le=MAX_OWNERS)] = MAX_OWNERS
    """1 cuts the owner chains: no second chance."""
    min_active: Annotated[int, Field(ge=1)] | None = None
    """Capacity guard of the pool: fewer active members are refused. None: one may be missing, or all of one site."""
    drain_spread_s: Annotated[float, Field(gt=0, le=3600)] = 3.0
    """Over how long a draining proxy closes its idle connections."""

    @property
    def capacity_guard(self) -> int:
        """`min_active`, with its default worked out."""
        spared = 1 if self.sites == 1 else self.proxies
        return self.min_active or max(1, self.all_proxies - spared)

    @property
    def all_proxies(self) -> int:
        """Of all sites together."""
        return self.sites * self.proxies

    @model_validator(mode="after")
    def _guard_can_be_met(self) -> Self:
        if self.capacity_guard > self.all_proxies:
            raise ValueError(
                f"min_active is {self.min_active}, but the lab has {self.all_proxies} proxies: lower it or add proxies"
            )
        return self
