"""Changes of the guard's lists and limits: pure functions of the fleet's document.

Nothing that they do is surprising: what would block the fleet's own hosts, or a good part of the Internet, is refused
unless it is forced; what is taken off the lists must be on them.
"""

from collections.abc import Iterable
from ipaddress import ip_network

from orchestrator.config.configuration import Configuration
from orchestrator.contract.base import Address
from orchestrator.contract.guard import (
    MAX_LISTED,
    GuardLimits,
    GuardState,
    ListedPrefix,
    Network,
    RateLimit,
    Verdict,
    deciding_prefixes,
)
from orchestrator.contract.operator_guard import (
    GUARD_OWN_ADDRESS,
    GUARD_TOO_WIDE,
    LimitRequest,
    ListRequest,
    RemovalRequest,
)
from orchestrator.fleet.document import FleetRefused, FleetState

#: Shortest prefixes that are blocked without being forced: no network that one means to block is wider. An IPv4 /8 is
#: the largest that was ever given out, an IPv6 /16 a few thousand providers.
WIDEST_BLOCK = {4: 8, 6: 16}

#: How many of them a message names.
NAMED = 3


def put_on_list(fleet: FleetState, configuration: Configuration, request: ListRequest, now: float) -> FleetState:
    """Lists the prefixes. `now` is Unix time. Raises FleetRefused: guard_too_wide, guard_own_address, guard_full."""
    until = None if request.for_s is None else now + request.for_s
    entries = {entry.prefix: entry for entry in fleet.guard.entries}
    entries |= {
        prefix: ListedPrefix(prefix=prefix, verdict=request.verdict, until=until, reason=request.reason)
        for prefix in request.prefixes
    }
    if request.verdict is Verdict.BLOCK and not request.force:
        _refuse_too_wide(request.prefixes)
        _refuse_own(fleet, configuration, entries, set(request.prefixes))
    if len(entries) > MAX_LISTED:
        raise FleetRefused(
            "guard_full",
            f"{len(entries)} prefixes would be listed, and an L4 node's guard holds {MAX_LISTED}",
            "put neighbours together into shorter prefixes, or remove some first",
        )
    return _with_entries(fleet, entries.values())


def take_off_list(fleet: FleetState, request: RemovalRequest) -> FleetState:
    """Removes the prefixes from whatever list they are on. Raises FleetRefused: not_found."""
    if request.everything:
        return _with_entries(fleet, ())
    entries = {entry.prefix: entry for entry in fleet.guard.entries}
    unknown = [prefix for prefix in request.prefixes if prefix not in entries]
    if unknown:
        raise FleetRefused(
            "not_found",
            f"not listed, so nothing was removed: {_some(unknown)}",
            f"`edgectl guard show {unknown[0].network_address}` says which prefix holds it",
        )
    gone = set(request.prefixes)
    return _with_entries(fleet, (entry for entry in fleet.guard.entries if entry.prefix not in gone))


def set_limit(fleet: FleetState, configuration: Configuration, request: LimitRequest) -> FleetState:
    """Raises FleetRefused: not_found."""
    limits = fleet.guard.limits
    if request.vip is not None:
        names = [vip.name for vip in configuration.vips]
        if request.vip not in names and not (request.usual and request.vip in limits.vips):
            raise FleetRefused("not_found", f"there is no VIP {request.vip}", f"there are: {', '.join(names)}")
        vips = {name: limit for name, limit in limits.vips.items() if name != request.vip}
        own: dict[str, RateLimit | None] = {} if request.usual else {request.vip: request.limit}
        return _with_limits(fleet, limits.model_copy(update={"vips": dict(sorted({**vips, **own}.items()))}))
    return _with_limits(fleet, limits.model_copy(update={request.of.replace("-", "_"): request.limit}))


def reset_limits(fleet: FleetState) -> FleetState:
    """The defaults, for all VIPs."""
    return _with_limits(fleet, GuardLimits())


def without_expired(fleet: FleetState, now: float) -> FleetState:
    """The fleet without entries whose time has come. `now` is Unix time."""
    if not any(entry.until is not None and entry.until <= now for entry in fleet.guard.entries):
        return fleet
    return _with_entries(fleet, (e for e in fleet.guard.entries if e.until is None or e.until > now))


def own_addresses(fleet: FleetState, configuration: Configuration) -> dict[Address, str]:
    """The fleet's hosts and the routers that it speaks BGP with, in words."""
    found: dict[Address, str] = {member.address: f"the proxy {member.name}" for member in fleet.members}
    for node in configuration.nodes:
        for address in (node.address, node.address_v6):
            if address is not None:
                found[address] = f"the {node.kind} node {node.name}"
        for neighbor in node.bgp.neighbors if node.bgp else ():
            found[neighbor.address] = f"the router of {node.name}"
    for backend in configuration.backends:
        for server in backend.backend.servers:
            found.setdefault(server.address, f"the server {server.name} of {backend.backend.name}")
    return found


def describe(before: GuardState, after: GuardState) -> tuple[str, ...]:
    """What a change did, in words, a line each."""
    old, new = ({entry.prefix: entry for entry in state.entries} for state in (before, after))
    lines = []
    for verdict, word in ((Verdict.BLOCK, "blocked"), (Verdict.ALLOW, "allowed")):
        added = [prefix for prefix, entry in new.items() if entry.verdict is verdict and prefix not in old]
        moved = [p for p, entry in new.items() if entry.verdict is verdict and p in old and old[p] != entry]
        lines += [f"{word}: {_some(added)}"] if added else []
        lines += [f"{word}, listed before: {_some(moved)}"] if moved else []
    gone = [prefix for prefix in old if prefix not in new]
    lines += [f"no longer listed: {_some(gone)}"] if gone else []
    for name in ("source", "vip", "new_flows"):
        limit = getattr(after.limits, name)
        if limit != getattr(before.limits, name):
            lines.append(f"limit of {name.replace('_', ' ')}: {in_words(limit)}")
    for name in sorted({*before.limits.vips, *after.limits.vips}):
        if name not in after.limits.vips:
            lines.append(f"limit of VIP {name}: as of all")
        elif before.limits.vips.get(name, ...) != after.limits.vips[name]:
            lines.append(f"limit of VIP {name}: {in_words(after.limits.vips[name])}")
    return tuple(lines)


def in_words(limit: RateLimit | None) -> str:
    """A limit."""
    return "none" if limit is None else f"{limit.per_second} a second, bursts of {limit.burst}"


def _refuse_too_wide(prefixes: Iterable[Network]) -> None:
    wide = [prefix for prefix in prefixes if prefix.prefixlen < WIDEST_BLOCK[prefix.version]]
    if wide:
        raise FleetRefused(
            GUARD_TOO_WIDE,
            f"{_some(wide)} is a good part of the Internet: its clients would all be cut off, open flows included",
            "block what attacks, or give --force if this is meant",
            str(wide[0]),
        )


def _refuse_own(
    fleet: FleetState, configuration: Configuration, entries: dict[Network, ListedPrefix], new: set[Network]
) -> None:
    """Only what this very change blocks: what was blocked before, by force, stays no obstacle."""
    own = own_addresses(fleet, configuration)
    for address, prefix in deciding_prefixes(entries, own).items():
        if prefix in new:
            raise FleetRefused(
                GUARD_OWN_ADDRESS,
                f"{prefix} holds {address}, {own[address]}: probes and clients there would be cut off from the VIPs",
                f"block around it, or `edgectl guard allow {ip_network(address)}` first; --force if this is meant",
                str(prefix),
            )


def _with_entries(fleet: FleetState, entries: Iterable[ListedPrefix]) -> FleetState:
    ordered = sorted(entries, key=lambda entry: (entry.prefix.version, entry.prefix))
    return fleet.model_copy(update={"guard": fleet.guard.model_copy(update={"entries": tuple(ordered)})})


def _with_limits(fleet: FleetState, limits: GuardLimits) -> FleetState:
    return fleet.model_copy(update={"guard": fleet.guard.model_copy(update={"limits": limits})})


def _some(prefixes: list[Network]) -> str:
    named = ", ".join(map(str, prefixes[:NAMED]))
    return named if len(prefixes) <= NAMED else f"{named} and {len(prefixes) - NAMED} more"
