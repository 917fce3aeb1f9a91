"""`edge-l4 vips plan`: what the agent would change on `lo` and around it, without touching anything."""

import json
import sys
from pathlib import Path

import click

from l4.announcement import ForwardingConditions, decide
from l4.direct_return import DirectReturnError, MssChange, SettingChange
from l4.forwarding import GenerationTables, build_table, describe
from l4.host_policy import (
    Change,
    HostPlan,
    HostPolicy,
    balancer_policy,
    carry_out,
    look_at_host,
    plan,
    redirector_policy,
)
from l4.interface import InterfaceError
from l4.vips import VipError
from orchestrator.contract.snapshot import BalancerSnapshot, RedirectorSnapshot
from orchestrator.contract.state_directory import SnapshotUnreadable, StateDirectory

#: Exit codes, as of diff(1).
NOTHING_TO_DO, SOMETHING_TO_DO, FAILED = 0, 1, 2


@click.group()
def vips() -> None:
    """What this host needs on lo and around it: VIPs, ARP and other settings, the MSS of its default routes."""


@vips.command("plan")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    required=True,
    help="Of the agent: its last good snapshot is read there.",
)
@click.option("--interface", required=True, metavar="NAME", help="The interface that traffic arrives on.")
@click.option("--json", "as_json", is_flag=True, help="For programs: {changes: [{part, words}], obstacles: [words]}.")
def show_plan(*, state: Path, interface: str, as_json: bool) -> None:
    """Say what an agent would change on this host by the snapshot on disk. Touches nothing.

    \b
    Exit code 0: nothing to do. 1: something. 2: it could not be found out.
    On an L4 node it is taken for granted that the balancer is attached and that members answer the probes: what else
    keeps a VIP from being announced, the agent's log says. Renewals of lifetimes are not changes.
    """
    try:
        snapshot = StateDirectory(state).load_snapshot()
        if not isinstance(snapshot, BalancerSnapshot | RedirectorSnapshot):
            raise click.UsageError(f"{state} holds no snapshot of a balancer or redirector")
        policy = policy_of(snapshot, interface)
        planned = plan(policy, look_at_host(policy), renews=False)
    except (SnapshotUnreadable, InterfaceError, DirectReturnError, OSError, ValueError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(FAILED)
    click.echo(_json(planned) if as_json else _text(planned))
    sys.exit(SOMETHING_TO_DO if planned.changes else NOTHING_TO_DO)


@vips.command("restore")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    required=True,
    help="Of the agent: its last good snapshot is read there.",
)
@click.option("--interface", required=True, metavar="NAME", help="The interface that traffic arrives on.")
def restore(*, state: Path, interface: str) -> None:
    """Do what `plan` tells: for a host whose agent cannot. VIPs of an L4 node are given their lifetime anew."""
    try:
        snapshot = StateDirectory(state).load_snapshot()
        if not isinstance(snapshot, BalancerSnapshot | RedirectorSnapshot):
            raise click.UsageError(f"{state} holds no snapshot of a balancer or redirector")
        policy = policy_of(snapshot, interface)
        planned = plan(policy, look_at_host(policy), renews=False)
        carry_out(planned.changes)
    except (SnapshotUnreadable, InterfaceError, DirectReturnError, VipError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    for change in planned.changes:
        click.echo(change.words)


def policy_of(snapshot: BalancerSnapshot | RedirectorSnapshot, interface: str) -> HostPolicy:
    """What an agent in service on this snapshot would want of the host. Raises ValueError for tables that cannot be."""
    if isinstance(snapshot, RedirectorSnapshot):
        return redirector_policy(snapshot, interface)
    tables = GenerationTables()
    built = [build_table(pool, snapshot.forwarding, tables) for pool in snapshot.pools]
    described = [describe(table, table.chains) for table in built]
    conditions = ForwardingConditions(
        is_attached=True,
        interface=interface,
        owned_rows={status.pool: status.rows - status.chain_lengths[0] for status in described},
        pools_with_live_members=frozenset(pool.name for pool in snapshot.pools),
    )
    return balancer_policy(snapshot, interface, decide(snapshot, conditions))


def _text(planned: HostPlan) -> str:
    changes = [f"would change  {change.words}" for change in planned.changes]
    return "\n".join(
        [*(changes or ["nothing to do"]), *(f"cannot change  {obstacle}" for obstacle in planned.obstacles)]
    )


def _json(planned: HostPlan) -> str:
    changes = [{"part": _part(change), "words": change.words} for change in planned.changes]
    return json.dumps({"changes": changes, "obstacles": planned.obstacles})


def _part(change: Change) -> str:
    if isinstance(change, SettingChange):
        return "setting"
    return "mss" if isinstance(change, MssChange) else "vip"
