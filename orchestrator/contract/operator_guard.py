"""The operator API of the guard: paths, questions and answers, as in `orchestrator.contract.operator`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.contract.base import Contract, Name
from orchestrator.contract.guard import MAX_LISTED, MAX_REASON, GuardLimits, ListedPrefix, Network, RateLimit, Verdict

GUARD = "/v1/guard"
"""GET → GuardView."""
GUARD_LISTS = "/v1/guard/lists"
"""POST ListRequest → GuardChanged; 409 `guard_too_wide`, `guard_own_address` (both unless `force`), `guard_full`."""
GUARD_REMOVALS = "/v1/guard/removals"
"""POST RemovalRequest → GuardChanged; 404 if a prefix is not listed, and nothing is removed."""
GUARD_LIMITS = "/v1/guard/limits"
"""POST LimitRequest → GuardChanged; 404 if there is no such VIP."""
GUARD_RESET = "/v1/guard/limits/reset"
"""POST → GuardChanged: limits are the defaults again, for all VIPs. Lists stay."""

#: Codes of the refusals that `edgectl` turns into exit code 3.
GUARD_TOO_WIDE = "guard_too_wide"
GUARD_OWN_ADDRESS = "guard_own_address"

#: Longest time after which an entry goes by itself, in seconds.
MAX_LISTED_S = 366 * 86400.0

#: Octets of a request with as many prefixes as may be listed.
MAX_LIST_BODY_BYTES = 4 * 1024 * 1024

Prefixes = Annotated[tuple[Network, ...], Field(max_length=MAX_LISTED)]


class ListRequest(Contract):
    """Put prefixes on a list. Those that are listed already change list, end and reason."""

    verdict: Verdict
    prefixes: Annotated[Prefixes, Field(min_length=1)]
    for_s: Annotated[float, Field(gt=0, le=MAX_LISTED_S)] | None = None
    """Seconds after which they go by themselves; None: they stay."""
    reason: Annotated[str, Field(max_length=MAX_REASON)] = ""
    force: bool = False
    """Also what would block the fleet's own hosts and routers, or more of the Internet than one would mean to."""


class RemovalRequest(Contract):
    """Take prefixes off their list."""

    prefixes: Prefixes = ()
    everything: bool = False
    """All that is listed; `prefixes` is empty then."""


class LimitRequest(Contract):
    """Set one limit."""

    of: Literal["source", "vip", "new-flows"]
    vip: Name | None = None
    """With `of` "vip": of this VIP alone."""
    limit: RateLimit | None
    """None: no limit."""
    usual: bool = False
    """With `vip`: it has no limit of its own any more; `limit` is None then."""

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        if self.vip is not None and self.of != "vip":
            raise ValueError(f"a limit of {self.of} is not one of a VIP")
        if self.usual and (self.vip is None or self.limit is not None):
            raise ValueError("only a VIP's own limit can give way to the usual one")
        return self


class GuardChanged(Contract):
    """What was done."""

    version: int
    """The fleet revision by which it is in force."""
    changed: bool
    summary: tuple[str, ...]
    """In words, a line each."""


class GuardOfNode(Contract):
    """What an L4 node's guard has done."""

    node: Name
    report_age_s: float | None
    """None: it has not reported since the orchestrator started; what follows is empty then."""
    up_to_date: bool
    """Whether the node runs the present revision."""
    counters: dict[str, int]
    """Packets refused by reason, `syn_retransmissions`, `flows_not_remembered`; since the node's maps were made."""
    by_vip: dict[Name, dict[str, int]]
    """Packets refused, by VIP and reason; VIPs without any are left out."""


class GuardView(Contract):
    """The guard's settings, and what they did."""

    entries: tuple[ListedPrefix, ...]
    limits: GuardLimits
    defaults: GuardLimits
    nodes: tuple[GuardOfNode, ...]
