"""`edgectl guard show`."""

import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

import click

from orchestrator.cli.failure import failed
from orchestrator.cli.invocation import Invocation, fleet_options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.contract.guard import RateLimit
    from orchestrator.contract.operator_guard import GuardOfNode, GuardView

#: Entries that are drawn unless all are asked for: a screen.
DRAWN_ENTRIES: Final = 20

#: What the counters mean, in words.
MEANING: Final = {
    "blocked": "blocked by list",
    "syn_source_limit": "over source limit",
    "syn_vip_limit": "over VIP limit",
    "new_flow_limit": "over node limit",
    "syn_retransmissions": "let in on asking again",
    "flows_not_remembered": "not remembered",
}


@click.command(
    epilog="""\b
Examples:
  edgectl guard show
  edgectl guard show 198.51.100.7                     is this client blocked, and by which entry
  edgectl guard show --all                            every entry of the lists
  edgectl guard show --json | jq '.nodes[].by_vip'

\b
Counters are packets since the node's maps were made (mostly: since it was booted). Watch them grow:
  watch -n1 edgectl guard show
"""
)
@click.argument("source", required=False, metavar="[ADDRESS]")
@click.option("--all", "everything", is_flag=True, help=f"Draw all entries, not the first {DRAWN_ENTRIES}.")
@fleet_options
def show(invocation: Invocation, source: str | None, everything: bool) -> None:
    """Lists and limits of the guard, and what each L4 node refused, by VIP and reason."""
    from orchestrator.cli.fleet_api import call_fleet

    if source is not None:
        try:
            ip_address(source)
        except ValueError as error:
            raise failed("bad_address", str(error), hint="one address, without a prefix length") from error
    view = call_fleet(invocation.credentials(), lambda api: api.guard())
    if source is not None:
        content = _of_source(view, source)
        invocation.terminal.result(content, lambda: _drawn_source(content))
        return
    invocation.terminal.result(view.model_dump(mode="json"), lambda: _drawn(view, everything=everything))


def _of_source(view: "GuardView", source: str) -> dict[str, Any]:
    from orchestrator.contract.guard import deciding_prefixes

    address = ip_address(source)
    entries = {entry.prefix: entry for entry in view.entries}
    prefix = deciding_prefixes(entries, [address]).get(address)
    entry = entries[prefix].model_dump(mode="json") if prefix is not None else None
    return {"source": str(address), "verdict": entry["verdict"] if entry else "limited", "entry": entry}


def _drawn_source(content: dict[str, Any]) -> "RenderableType":
    from rich.text import Text

    entry = content["entry"]
    if entry is None:
        return Text(f"{content['source']} is not listed: its packets pass, its new flows within the limits")
    words = {"block": "is blocked: its packets are dropped", "allow": "is allowed: never dropped or limited"}
    line = f"{content['source']} {words[entry['verdict']]}, by {entry['prefix']}"
    return Text(line + _remark(entry["until"], entry["reason"]))


def _drawn(view: "GuardView", *, everything: bool) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_limits(view), Text()]
    parts += [_lists(view, everything=everything), Text()]
    parts += [_refused(view)]
    return Group(*parts)


def _limits(view: "GuardView") -> "RenderableType":
    from orchestrator.cli.drawings import table

    drawn = table("new flows a second that each L4 node lets in", "of", "a second", "burst", "")
    rows: list[tuple[str, RateLimit | None, RateLimit | None]] = [
        ("one source (/24, /56)", view.limits.source, view.defaults.source),
        ("one VIP", view.limits.vip, view.defaults.vip),
        *((f"VIP {name}", limit, view.limits.vip) for name, limit in view.limits.vips.items()),
        ("the node", view.limits.new_flows, view.defaults.new_flows),
    ]
    for what, limit, usual in rows:
        remark = "" if limit == usual else f"usually {usual.per_second:,}" if usual else "usually no limit"
        rate = ("no limit", "") if limit is None else (f"{limit.per_second:,}", f"{limit.burst:,}")
        drawn.add_row(what, *rate, remark)
    return drawn


def _lists(view: "GuardView", *, everything: bool) -> "RenderableType":
    from rich.text import Text

    if not view.entries:
        return Text("nobody is listed")
    blocked = sum(entry.verdict == "block" for entry in view.entries)
    lines = [f"listed: {blocked} blocked, {len(view.entries) - blocked} allowed"]
    shown = view.entries if everything else view.entries[:DRAWN_ENTRIES]
    lines += [f"  {entry.verdict:5}  {entry.prefix}{_remark(entry.until, entry.reason)}" for entry in shown]
    if len(shown) < len(view.entries):
        lines.append(f"  and {len(view.entries) - len(shown)} more: edgectl guard show --all")
    return Text("\n".join(lines))


def _remark(until: float | None, reason: str) -> str:
    from orchestrator.cli.drawings import duration

    left = "" if until is None else f", for {duration(max(0.0, until - time.time()))} more"
    return left + (f" ({reason})" if reason else "")


def _refused(view: "GuardView") -> "RenderableType":
    from orchestrator.cli.drawings import table

    drawn = table("packets refused since each node's maps were made", "L4 node", "VIP", *MEANING.values())
    for node in view.nodes:
        if node.report_age_s is None:
            drawn.add_row(node.node, "has not reported")
            continue
        drawn.add_row(_name(node), "all", *(f"{node.counters.get(name, 0):,}" for name in MEANING))
        for vip, refused in node.by_vip.items():
            drawn.add_row("", vip, *(f"{refused[name]:,}" if name in refused else "" for name in MEANING))
    return drawn


def _name(node: "GuardOfNode") -> str:
    from orchestrator.cli.drawings import duration

    if node.report_age_s is not None and node.report_age_s > 5:
        return f"{node.node} (silent for {duration(node.report_age_s)})"
    return node.node if node.up_to_date else f"{node.node} (not up to date)"
