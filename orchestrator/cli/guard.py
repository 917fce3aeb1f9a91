"""`edgectl guard`: whom the L4 nodes drop, and how many new flows they let in."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from orchestrator.cli.failure import failed
from orchestrator.cli.invocation import Invocation, LazyGroup, NodeName, fleet_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from orchestrator.cli.fleet_api import FleetApi
    from orchestrator.contract.guard import Network, RateLimit
    from orchestrator.contract.operator_guard import GuardChanged

#: As in `orchestrator.contract.operator_guard`, which takes longer to import than `edgectl --help` may.
MAX_LISTED_S: Final = 366 * 86400

#: A burst, where none is given: what comes in two seconds, as browsers that wait for a page come together.
BURST_SECONDS: Final = 2

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

guard = LazyGroup(
    name="guard",
    help="Whom the L4 nodes drop, and how many new flows they let in. Takes effect within a second, on all of them.",
    epilog="""\b
Under attack:
  edgectl guard show                                  is anything dropped, where, and why
  edgectl guard block 198.51.100.0/24 --for 1h        drop all packets from there, and undo it by itself
  edgectl guard limit source 500                      new flows a second from any one /24 or /56
  edgectl guard limit vip 5000 --vip web-v4           new flows a second to this VIP
  edgectl guard allow 192.0.2.10                      never drop or limit our own monitoring
\b
Afterwards:
  edgectl guard remove 198.51.100.0/24
  edgectl guard reset                                 limits as they come; lists stay

\b
Limits touch only the first packet of a flow: open flows go on. A block ends open flows, too. The most specific prefix
decides, so `allow` cuts holes into `block`, and the other way round.
""",
    no_args_is_help=True,
    lazy={
        "show": ("orchestrator.cli.guard_show:show", "Lists, limits, and what each L4 node refused."),
        "block": ("orchestrator.cli.guard:block", "Drop all packets from these prefixes."),
        "allow": ("orchestrator.cli.guard:allow", "Never drop or limit packets from these prefixes."),
        "remove": ("orchestrator.cli.guard:remove", "Take prefixes off whichever list they are on."),
        "limit": ("orchestrator.cli.guard:limit", "Set how many new flows a second are let in."),
        "reset": ("orchestrator.cli.guard:reset", "Set all limits back to their defaults."),
    },
)


class Period(click.ParamType[float]):
    """ "90s", "30m", "1h", "7d". In seconds."""

    name = "period"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value))
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if not 0 < seconds <= MAX_LISTED_S:
            self.fail(f"{value!r} is no period up to a year, such as 90s, 30m, 1h or 7d", param, ctx)
        return seconds


prefixes_argument = click.argument("prefixes", nargs=-1, metavar="[PREFIX]...")
file_option = click.option(
    "--file",
    "file",
    type=click.File(encoding="utf-8"),
    help="Prefixes from this file, one a line, # begins a comment; - is stdin.",
)
for_option = click.option("--for", "for_s", type=Period(), help="Taken off again by itself after 90s, 30m, 1h, 7d ...")
reason_option = click.option("--reason", default="", metavar="TEXT", help="Shown beside it: for whoever looks next.")


@click.command(
    epilog="""\b
Examples:
  edgectl guard block 198.51.100.7                    one address
  edgectl guard block 198.51.100.0/24 2001:db8:66::/48 --for 1h --reason "flood, ticket 4711"
  edgectl guard block --file botnet.txt --for 1d      ten thousand prefixes cost packets no more than one
\b
Refused (exit code 3, nothing changed) if it would block hosts or routers of this fleet, or more than an IPv4 /8 or
IPv6 /16. --force does it all the same.
"""
)
@prefixes_argument
@file_option
@for_option
@reason_option
@click.option("--force", is_flag=True, help="Even the fleet's own hosts, even the whole Internet.")
@fleet_options
def block(
    invocation: Invocation, prefixes: tuple[str, ...], file: Any, for_s: float | None, reason: str, force: bool
) -> None:
    """Drop all packets to VIPs that come from these prefixes, those of open flows too."""
    _put_on_list(invocation, "block", _networks(prefixes, file), for_s, reason, force)


@click.command(
    epilog="""\b
Examples:
  edgectl guard allow 192.0.2.10 --reason "monitoring"
  edgectl guard block 198.51.0.0/16 && edgectl guard allow 198.51.100.7     all of them but one
"""
)
@prefixes_argument
@file_option
@for_option
@reason_option
@fleet_options
def allow(invocation: Invocation, prefixes: tuple[str, ...], file: Any, for_s: float | None, reason: str) -> None:
    """Never drop or limit packets from these prefixes, unless a more specific one is blocked."""
    _put_on_list(invocation, "allow", _networks(prefixes, file), for_s, reason, force=False)


@click.command(
    epilog="""\b
Examples:
  edgectl guard remove 198.51.100.0/24
  edgectl guard remove --file botnet.txt
  edgectl guard remove --all                          both lists are empty then; limits stay
\b
A prefix goes as it was listed: removing 198.51.100.7 from a blocked /24 is `edgectl guard allow 198.51.100.7`.
"""
)
@prefixes_argument
@file_option
@click.option("--all", "everything", is_flag=True, help="All that is listed.")
@fleet_options
def remove(invocation: Invocation, prefixes: tuple[str, ...], file: Any, everything: bool) -> None:
    """Take prefixes off whichever list they are on. If one is not listed, nothing is removed."""
    from orchestrator.contract.operator_guard import RemovalRequest

    if everything:
        if prefixes or file is not None:
            raise click.UsageError("--all goes without prefixes")
        request = RemovalRequest(everything=True)
    else:
        request = RemovalRequest(prefixes=_networks(prefixes, file))
    _change(invocation, lambda api: api.take_off_list(request))


@click.command(
    epilog="""\b
Examples:
  edgectl guard limit source 500                      new flows a second from any one /24 (IPv4) or /56 (IPv6)
  edgectl guard limit vip 20000                       to any one VIP
  edgectl guard limit vip 5000 --vip web-v4           to this VIP, whatever the others have
  edgectl guard limit vip usual --vip web-v4          as the others again
  edgectl guard limit new-flows 100000 --burst 150000     to an L4 node, all VIPs together
  edgectl guard limit source none                     no limit

\b
Limits are those of each L4 node: with two nodes, twice as many may come in. `new-flows` also bounds the flows that a
node's flow table begins to remember in a second (UDP, pools without redirectors); these are forwarded all the same.
A client refused by `vip` or `new-flows` asks again after a second, and then mostly gets in: as many more as the limit
are kept for those who do, which floods with made-up sources do not.
"""
)
@click.argument("of", type=click.Choice(["source", "vip", "new-flows"]))
@click.argument("per_second", metavar="PER_SECOND|none|usual")
@click.option("--burst", type=click.IntRange(1), help=f"At once, after a pause. Else {BURST_SECONDS} seconds' worth.")
@click.option("--vip", type=NodeName(), metavar="NAME", help="With `vip`: of this VIP alone.")
@fleet_options
def limit(invocation: Invocation, of: str, per_second: str, burst: int | None, vip: str | None) -> None:
    """Set how many new flows a second each L4 node lets in. Open flows are never limited."""
    from orchestrator.contract.operator_guard import LimitRequest

    usual = per_second == "usual"
    if vip is not None and of != "vip":
        raise click.UsageError("--vip goes with `limit vip`")
    if usual and vip is None:
        raise click.UsageError("`usual` goes with --vip; `edgectl guard reset` sets the defaults of all")
    rate = None if usual else _rate(per_second, burst)
    request = LimitRequest.model_validate({"of": of, "vip": vip, "limit": rate, "usual": usual})
    _change(invocation, lambda api: api.set_guard_limit(request))


@click.command()
@fleet_options
def reset(invocation: Invocation) -> None:
    """Set all limits back to their defaults, those of single VIPs too. The lists stay (`remove --all` empties them)."""
    _change(invocation, lambda api: api.reset_guard_limits())


def _rate(per_second: str, burst: int | None) -> "RateLimit | None":
    from pydantic import ValidationError

    from orchestrator.contract.guard import RateLimit

    if per_second == "none":
        if burst is not None:
            raise click.UsageError("no limit has no burst")
        return None
    if not per_second.isdecimal() or int(per_second) == 0:
        raise click.BadParameter(f"{per_second!r} is no number of new flows a second, from 1 on", param_hint="limit")
    rate = int(per_second)
    try:
        return RateLimit(per_second=rate, burst=burst or BURST_SECONDS * rate)
    except ValidationError as error:
        raise click.BadParameter(f"{per_second}: {error.errors()[0]['msg']}", param_hint="limit") from error


def _networks(prefixes: "Sequence[str]", file: Any) -> "tuple[Network, ...]":
    """From the command line and a file. Raises CommandFailed with the file's line."""
    from ipaddress import ip_network

    written = [(prefix, "") for prefix in prefixes]
    if file is not None:
        name = Path(getattr(file, "name", "-")).name
        for number, line in enumerate(file, start=1):
            if text := line.partition("#")[0].strip():
                written.append((text, f"{name}:{number}"))
    found = []
    for text, place in written:
        try:
            found.append(ip_network(text))
        except ValueError as error:
            raise failed("bad_prefix", str(error), path=place or None, hint=_correction(text)) from error
    if not found:
        raise click.UsageError("no prefix was given: name some, or --file")
    return tuple(dict.fromkeys(found))


def _correction(text: str) -> str:
    from ipaddress import ip_network

    try:
        return f"{ip_network(text, strict=False)}, if that is meant"
    except ValueError:
        return "write prefixes like 198.51.100.0/24, 2001:db8::/32, or an address"


def _put_on_list(
    invocation: Invocation,
    verdict: str,
    prefixes: "tuple[Network, ...]",
    for_s: float | None,
    reason: str,
    force: bool,
) -> None:
    from pydantic import ValidationError

    from orchestrator.contract.guard import Verdict
    from orchestrator.contract.operator_guard import ListRequest

    try:
        request = ListRequest(verdict=Verdict(verdict), prefixes=prefixes, for_s=for_s, reason=reason, force=force)
    except ValidationError as error:
        first = error.errors()[0]
        raise failed("bad_list", f"{first['loc'][0]}: {first['msg']}", hint="see --help") from error
    _change(invocation, lambda api: api.put_on_list(request))


def _change(invocation: Invocation, change: "Callable[[FleetApi], Awaitable[GuardChanged]]") -> None:
    from rich.text import Text

    from orchestrator.cli.fleet_api import call_fleet

    done = call_fleet(invocation.credentials(), change)
    words = "\n".join(done.summary) if done.changed else "nothing changed: it was so already"
    invocation.terminal.result(done.model_dump(mode="json"), lambda: Text(words))
