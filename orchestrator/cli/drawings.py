"""Views of the operator API, drawn for a terminal."""

import time
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.contract.node import L4DrainPhase, NodeKind
from orchestrator.contract.operator import (
    AgentView,
    BackendView,
    DrainView,
    HostView,
    MemberView,
    NodeView,
    PoolView,
    SiteView,
    StatusView,
    TableView,
    VipView,
)
from orchestrator.contract.pool import MemberState
from orchestrator.contract.report import ProbeVerdict
from orchestrator.contract.vip import ANY_PORT, FlowHash, Protocol, VipMode

#: Hex digits of a digest that are drawn; `--digest` and `--json` give all.
SHORT_DIGEST = 16

GOOD, BAD, CARE, QUIET = "green", "bold red", "yellow", "dim"

STATE_STYLES = {
    MemberState.JOINING: CARE,
    MemberState.ACTIVE: GOOD,
    MemberState.DRAINING: CARE,
    MemberState.DRAINED: "cyan",
}


L4_PHASES = {
    L4DrainPhase.SOFT: "routers prefer others",
    L4DrainPhase.WITHDRAWN: "withdrawn",
    L4DrainPhase.QUIET: "quiet",
}


def table(title: str, *columns: str) -> Table:
    drawn = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    return drawn


def status(view: StatusView) -> RenderableType:
    """The fleet at a glance: first what is wrong."""
    parts: list[RenderableType] = []
    head = Text(f"revision {view.revision}", style="bold")
    if not view.configured:
        head.append("  not configured yet: `edgectl apply DIR`", style=CARE)
    elif not view.warnings:
        head.append("  all is well", style=GOOD)
    parts.append(head)
    parts.extend(Text(f"! {warning}", style=BAD) for warning in view.warnings)
    parts.append(nodes(view.nodes))
    parts.append(pools(view.pools))
    parts.append(vips(view.vips))
    if view.drains:
        parts.append(drains(view.drains))
    return Group(*parts)


def nodes(views: Sequence[NodeView]) -> RenderableType:
    has_sites = len({view.site for view in views} - {None}) > 1
    drawn = table("nodes", "name", *(["site"] if has_sites else []), "kind", "address", "state", "agents")
    for view in views:
        agents = Text("\n").join(map(agent, view.agents)) if view.agents else Text("none joined", style=CARE)
        site = [view.site or "gone"] if has_sites else []
        drawn.add_row(view.name, *site, view.kind.value, str(view.address), state(view.state), agents)
    return drawn


def sites(views: Sequence[SiteView]) -> RenderableType:
    drawn = table("sites", "site", "L4 nodes", "proxies", "vips announced by", "pool", "own members", "new flows go to")
    for view in views:
        vips = Text("\n").join(
            Text(f"{vip}: {', '.join(by)}") if by else Text(f"{vip}: nobody", style=BAD)
            for vip, by in view.vips.items()
        )
        own = "\n".join(f"{pool.active} of {pool.members} active" for pool in view.pools)
        go = Text("\n").join(
            Text("all sites" if pool.spills else "its own", style=CARE if pool.spills and pool.members else "")
            for pool in view.pools
        )
        drawn.add_row(
            f"{view.name}\nspills below {view.spill_below}",
            "\n".join(view.l4_nodes),
            "\n".join(view.proxies),
            vips,
            "\n".join(pool.pool for pool in view.pools),
            own,
            go,
        )
    return drawn


def agent(view: AgentView) -> Text:
    text = Text(view.role.value + " ")
    if not view.connected:
        silence = "never reported" if view.report_age_s is None else f"silent for {duration(view.report_age_s)}"
        text.append(silence, style=BAD)
    elif view.up_to_date:
        text.append("up to date", style=GOOD)
    else:
        text.append(f"on revision {view.applied_version}", style=CARE)
    if view.nack is not None:
        text.append(f"; refused {view.nack.version}: {view.nack.reason}", style=BAD)
    if view.leaving is not None:
        left = sum(view.leaving.open_flows.values())
        text.append(f"; incarnation {view.leaving.incarnation} leaves with {left} flows", style=CARE)
    if view.restart_problem is not None:
        text.append(f"; not restarted: {view.restart_problem}", style=BAD)
    return text


def pools(views: Sequence[PoolView]) -> RenderableType:
    drawn = table("pools", "pool", "member", "id", "state", "health", "weight", "open flows", "sockets")
    for view in views:
        guard = Text(f"{view.name}\n{view.active} active, {view.min_active} must stay\n{encapsulation(view)}")
        if view.panics:
            guard.append("\npanics: health is ignored", style=BAD)
        for index, member in enumerate(view.members):
            drawn.add_row(
                guard if index == 0 else "",
                member.name if member.reachable else Text(f"{member.name} unreachable", style=BAD),
                str(member.id),
                state(member.state),
                health(member),
                "gone" if member.weight is None else str(member.weight),
                count(member.open_flows),
                count(member.sockets),
            )
        if len(view.generations) > 1:
            drawn.add_row("", Text(f"{len(view.generations)} generations live: `edgectl get generations`", style=QUIET))
    return drawn


def health(view: MemberView) -> Text:
    """What most L4 nodes see, and until when it is given no new flows, or fewer."""
    if not view.healthy:
        seen = [probe for probe in view.seen_by.values() if probe.verdict is not ProbeVerdict.HEALTHY]
        if view.held_for_s is not None:
            return Text(f"held, {duration(view.held_for_s)} more", style=CARE)
        return Text(f"{seen[0].verdict}: {seen[0].detail}" if seen else "not healthy", style=BAD)
    if view.share < 100:
        return Text(f"starts slowly, {view.share} %", style=CARE)
    return Text("healthy", style=GOOD) if view.seen_by else Text("not probed", style=QUIET)


def encapsulation(view: PoolView) -> str:
    """How packets travel to its members, and who remembers flows."""
    return f"{view.encapsulation.value}, {'second chances' if view.redirectors else 'no redirectors'}"


def generations(views: Sequence[PoolView]) -> RenderableType:
    has_sites = len({generation.site for view in views for generation in view.generations}) > 1
    site = ["site"] if has_sites else []
    drawn = table("generations, newest first", "pool", "number", *site, "members (weight)", "needed by (flows)")
    for view in views:
        names = {member.id: member.name for member in view.members}
        in_force: dict[str | None, int] = {}
        for generation in view.generations:
            in_force.setdefault(generation.site, generation.number)
        for generation in view.generations:
            gone = generation.site is None
            members = ", ".join(f"{names.get(one.id, one.id)} ({one.weight})" for one in generation.members)
            needed = ", ".join(f"{name} ({flows})" for name, flows in generation.needed_by.items())
            is_newest = not gone and in_force[generation.site] == generation.number
            otherwise = Text("all new flows" if is_newest else "nobody: retires soon", style=QUIET)
            where = [generation.site or Text("gone", style=QUIET)] if has_sites else []
            drawn.add_row(view.name, str(generation.number), *where, members or "nobody", needed or otherwise)
    return drawn


def vips(views: Sequence[VipView]) -> RenderableType:
    drawn = table("vips", "name", "address", "mode", "pool", "announced by", "withheld by")
    for view in views:
        withheld = "\n".join(f"{node}: {reason}" for node, reason in view.withheld_by.items())
        announced = Text(", ".join(view.announced_by)) if view.announced_by else Text("nobody", style=BAD)
        if view.sites:
            announced.append(f"\nat {', '.join(view.sites)} only", style=QUIET)
        for node, reason in view.announced_despite_by.items():
            announced.append(f"\n{node} as the last one, although: {reason}", style=BAD)
        drawn.add_row(view.name, where(view), mode(view), view.pool, announced, Text(withheld, style=CARE))
    return drawn


def where(view: VipView) -> str:
    """`203.0.113.10:443`, `[2001:db8:203::/64]:8000-8999 udp`, `203.0.113.0/28:any`."""
    block = str(view.address) if view.prefix_length is None else f"{view.address}/{view.prefix_length}"
    ports = str(view.port) if view.last_port is None else f"{view.port}-{view.last_port}"
    if (view.port, view.last_port) == ANY_PORT:
        ports = "any"
    protocol = "" if view.protocol is Protocol.TCP else f" {view.protocol.value}"
    return (f"[{block}]" if view.address.version == 6 else block) + f":{ports}{protocol}"


def mode(view: VipView) -> str:
    """The mode, and what is unusual about it."""
    notes = {
        "tls": view.tls and view.mode is VipMode.TERMINATE,
        "quic": view.quic,
        f"{view.trusted_hops} trusted hop{'s' if view.trusted_hops > 1 else ''}": view.trusted_hops > 0,
        "PROXY protocol": bool(view.accept_proxy_protocol),
        "by source": view.flow_hash is FlowHash.SOURCE,
    }
    return ", ".join((view.mode.value, *(note for note, applies in notes.items() if applies)))


def hosts(views: Sequence[HostView]) -> RenderableType:
    drawn = table("hosts", "name", "owner", "certificate", "routes", "configured in")
    for view in views:
        routes = "\n".join(f"{route.kind.value} {route.path} → {route.backend}" for route in view.routes)
        drawn.add_row(view.name, view.owner, certificate(view.certificate_expires_at), routes, view.source)
    return drawn


def certificate(expires_at: float | None) -> Text:
    if expires_at is None:
        return Text("none", style=QUIET)
    left_s = expires_at - time.time()
    if left_s <= 0:
        return Text(f"expired {duration(-left_s)} ago", style=BAD)
    return Text(f"{duration(left_s)} left", style=GOOD if left_s > 7 * 86400 else CARE)


def backends(views: Sequence[BackendView]) -> RenderableType:
    drawn = table("backends", "name", "owner", "server", "address", "healthy on", "unhealthy on", "configured in")
    for view in views:
        for index, server in enumerate(view.servers):
            unhealthy = "\n".join(f"{proxy}: {detail}" for proxy, detail in server.unhealthy_on.items())
            drawn.add_row(
                *((view.name, view.owner) if index == 0 else ("", "")),
                server.name,
                f"{server.address}:{server.port}",
                Text(", ".join(server.healthy_on), style=GOOD) if server.healthy_on else Text("none", style=BAD),
                Text(unhealthy, style=BAD),
                view.source if index == 0 else "",
            )
    return drawn


def drains(views: Sequence[DrainView]) -> RenderableType:
    drawn = table("drains", "node", "state", "since", "open flows, packets", "at start", "not drained, since")
    for view in views:
        since = duration(time.time() - view.started_at) if view.started_at is not None else ""
        overdue = Text("overdue\n", style=BAD) if view.overdue else Text()
        waits = overdue.append("\n".join(view.blocked_by), style="not bold default")
        if view.kind is NodeKind.L4:
            phase = state(view.state).append(f"\n{L4_PHASES[view.phase]}" if view.phase else "", style=QUIET)
            rate = "?" if view.packets_per_s is None else f"{view.packets_per_s:.0f}/s"
            drawn.add_row(view.node, phase, since, rate, "", waits)
        else:
            drawn.add_row(view.node, state(view.state), since, flows(view), count(view.flows_at_start), waits)
    return drawn


def flows(view: DrainView) -> str:
    """How many flows are open, and of which protocols."""
    protocols = ", ".join(f"{name} {number}" for name, number in sorted(view.by_protocol.items()) if number)
    return count(view.flows_open) + (f" ({protocols})" if protocols else "")


def tables(views: Iterable[TableView]) -> RenderableType:
    drawn = table(
        "forwarding tables, as read back from the kernel",
        *(
            "node",
            "pool",
            "generations",
            "rows",
            "rows by first owner (id)",
            "owners in a row: how often",
            "digest, begin of",
        ),
    )
    for view in views:
        status = view.table
        owners = ", ".join(f"{member}: {rows}" for member, rows in sorted(status.rows_of_member.items()))
        chains = ", ".join(f"{length}: {rows}" for length, rows in enumerate(status.chain_lengths) if rows)
        overflow = f"\n{status.overflowed_rows} rows overflow" if status.overflowed_rows else ""
        live = ", ".join(map(str, status.generations))
        drawn.add_row(
            view.node, status.pool, live, str(status.rows), owners, chains + overflow, status.digest[:SHORT_DIGEST]
        )
    return drawn


def state(value: MemberState | None) -> Text:
    return Text("") if value is None else Text(value.value, style=STATE_STYLES[value])


def count(number: int | None) -> str:
    return "?" if number is None else str(number)


def duration(seconds: float) -> str:
    """Two significant units at most: "3 d", "2 h 5 min", "41 s"."""
    whole = max(0, int(seconds))
    if whole >= 86400:
        return f"{whole // 86400} d"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
