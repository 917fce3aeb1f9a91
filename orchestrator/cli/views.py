"""`edgectl status` and `edgectl get`: what the orchestrator knows, as tables or as JSON."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.failure import CommandFailed, failed
from orchestrator.cli.invocation import Invocation, fleet_options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.cli.fleet_api import FleetApi
    from orchestrator.contract.base import Contract

#: What `get` knows. `table` and its plural mean the same.
KINDS = ("vips", "pools", "sites", "nodes", "hosts", "backends", "drains", "generations", "table")
ALIASES = {kind.removesuffix("s"): kind for kind in KINDS if kind != "table"} | {"tables": "table"}


class Kind(click.Choice[str]):
    """One of `KINDS`, in singular or plural."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(ALIASES.get(value, value), param, ctx)


@click.command(
    epilog="""\b
Examples:
  edgectl status
  watch -n1 edgectl status
  edgectl status --json | jq '.nodes[] | select(any(.agents[]; .connected | not)).name'
"""
)
@fleet_options
def status(invocation: Invocation) -> None:
    """The fleet at a glance: nodes and what they run, pools and open flows, VIPs, drains, and what is wrong."""
    from orchestrator.cli import drawings
    from orchestrator.cli.fleet_api import call_fleet

    view = call_fleet(invocation.credentials(), lambda api: api.status())
    invocation.terminal.result(view.model_dump(mode="json"), lambda: drawings.status(view))


@click.command(
    epilog="""\b
Examples:
  edgectl get nodes
  edgectl get pool edge
  edgectl get sites                         what each announces, and whether it spills to other sites' members
  edgectl get generations                   which old memberships are kept, and for whose flows
  edgectl get table --node l4-1             the forwarding table, as read back from its kernel
  edgectl get table --node l4-1 --digest    only its SHA-256: equal on all L4 nodes of a site
"""
)
@click.argument("kind", type=Kind(KINDS))
@click.argument("name", required=False)
@click.option("--node", metavar="NAME", help="With `table`: only this L4 node.")
@click.option("--pool", metavar="NAME", help="With `table`: only this pool.")
@click.option("--digest", is_flag=True, help="With `table`: print digests alone, one a line, by node and pool.")
@fleet_options
def get(invocation: Invocation, kind: str, name: str | None, node: str | None, pool: str | None, digest: bool) -> None:
    """List things of one KIND, or show the one called NAME."""
    if kind == "table":
        if name is not None:
            raise click.UsageError("a table has no name: choose with --node and --pool")
        _get_tables(invocation, node, pool, digest=digest)
        return
    if node or pool or digest:
        raise click.UsageError("--node, --pool and --digest go with `get table`")
    _get_list(invocation, kind, name)


def _get_list(invocation: Invocation, kind: str, name: str | None) -> None:
    from orchestrator.cli import drawings
    from orchestrator.cli.fleet_api import call_fleet
    from orchestrator.contract import operator

    async def fetch(api: "FleetApi") -> "Sequence[Contract]":
        match kind:
            case "vips":
                return await api.listed(operator.VIPS, operator.VIP_LIST)
            case "sites":
                return await api.listed(operator.SITES, operator.SITE_LIST)
            case "nodes":
                return await api.listed(operator.NODES, operator.NODE_LIST)
            case "hosts":
                return await api.listed(operator.HOSTS, operator.HOST_LIST)
            case "backends":
                return await api.listed(operator.BACKENDS, operator.BACKEND_LIST)
            case "drains":
                return await api.listed(operator.DRAINS, operator.DRAIN_LIST)
            case _:  # pools, and the generations that are listed with them
                return await api.listed(operator.POOLS, operator.POOL_LIST)

    everything = call_fleet(invocation.credentials(), fetch)
    views = everything
    if name is not None:
        # A drain is named by its node; generations by the pool that they are of.
        named = {str(getattr(view, "node" if kind == "drains" else "name")): view for view in everything}
        if name not in named:
            raise no_such(kind, name, list(named))
        views = [named[name]]
    draw: Callable[[Any], RenderableType] = getattr(drawings, kind)
    invocation.terminal.result(as_json(kind, views, single=name is not None), lambda: draw(views))


def as_json(kind: str, views: "Sequence[Any]", *, single: bool) -> dict[str, Any]:
    """`{"<kind>": [...]}`, or the one object that was asked for by name."""
    if kind == "generations":
        return {
            kind: [
                {"pool": pool.name} | generation.model_dump(mode="json")
                for pool in views
                for generation in pool.generations
            ]
        }
    if single:
        content: dict[str, Any] = views[0].model_dump(mode="json")
        return content
    return {kind: [view.model_dump(mode="json") for view in views]}


def no_such(kind: str, name: str, there: Sequence[str]) -> CommandFailed:
    what = "pool" if kind == "generations" else "drain of" if kind == "drains" else kind.removesuffix("s")
    return failed("not_found", f"no {what} {name!r}", hint=f"there is: {', '.join(there)}" if there else None)


def _get_tables(invocation: Invocation, node: str | None, pool: str | None, *, digest: bool) -> None:
    from rich.text import Text

    from orchestrator.cli import drawings
    from orchestrator.cli.fleet_api import call_fleet
    from orchestrator.contract import operator

    async def fetch(api: "FleetApi") -> tuple[operator.TableView, ...]:
        return await api.listed(operator.TABLES, operator.TABLE_LIST)

    everything = call_fleet(invocation.credentials(), fetch)
    tables = [view for view in everything if node in (None, view.node) and pool in (None, view.table.pool)]
    if not tables and (node or pool):
        there = ", ".join(f"{view.node}/{view.table.pool}" for view in everything)
        wanted = " and ".join(f"{what} {name!r}" for what, name in (("node", node), ("pool", pool)) if name)
        raise failed("not_found", f"no table of {wanted}", hint=f"there is: {there}" if there else "is an L4 node up?")
    tables.sort(key=lambda view: (view.node, view.table.pool))
    if digest:
        digests = [{"node": view.node, "pool": view.table.pool, "digest": view.table.digest} for view in tables]
        lines = "\n".join(view.table.digest for view in tables)
        invocation.terminal.result({"digests": digests}, lambda: Text(lines))
    else:
        content = {"tables": [view.model_dump(mode="json") for view in tables]}
        invocation.terminal.result(content, lambda: drawings.tables(tables))
