"""The drain state machine: active → draining → drained → active. Pure functions.

    from \\ event   start      cancel     undrain    everything gone
    active         draining   refused    (held)     -
    draining       (change)   active     active     drained
    drained        (same)     refused    active     -

1. Starting is refused if it took a pool below its guard (`min_active`). Nothing overrides that, `force` neither.
2. Draining puts the member out of a new generation; its old flows still reach it, by second chance. Its proxy is sent
   a goodbye. Cancel and undrain put it into one more generation, as soon as its agents have withdrawn the goodbye:
   until then it joins (`FleetPool.joining`).
   Undrain of an active member whom damping keeps out (`fleet.health`) forgives its losses; of others it is refused.
3. It is drained when all balancers have applied a generation without it, its proxy counts no open flow, and its
   redirector's census, taken with that generation known, counts none (`progress`).
4. A deadline only makes the drain overdue: what is left is reported. With `force`, what is open then is reset.
   Flows that nobody can count (`uncounted`) end no drain and begin none: they have until the deadline, or
   `uncounted_s`, and the member is then drained whatever they do.
5. All of it is in the fleet's document, so that it goes on where it was when the orchestrator comes back.
"""

from collections.abc import Mapping

from orchestrator.config.configuration import Configuration
from orchestrator.contract.operator import CAPACITY_GUARD
from orchestrator.contract.pool import MemberState
from orchestrator.fleet.document import Drain, FleetMember, FleetRefused, FleetState
from orchestrator.fleet.health import forgiven
from orchestrator.fleet.membership import active_members, regenerate
from orchestrator.fleet.serving import serving


def start(
    fleet: FleetState,
    configuration: Configuration,
    name: str,
    *,
    now: float,
    deadline_s: float | None = None,
    force: bool = False,
    flows_open: int | None = None,
    waits_for: Mapping[str, str] | None = None,
) -> FleetState:
    """Begin to drain `name`, or change the deadline and force of a drain that runs. `now` is Unix time.

    Raises FleetRefused: not_found, not_a_member, capacity_guard, generations_full.
    """
    member = drainable(fleet, configuration, name)
    deadline_at = None if deadline_s is None else now + deadline_s
    if member.state is MemberState.DRAINED:
        return fleet
    if member.drain is not None:
        changed = member.drain.model_copy(
            update={"deadline_at": deadline_at or member.drain.deadline_at, "force": member.drain.force or force}
        )
        return fleet.with_member(member.model_copy(update={"drain": with_reset(changed, now)}))
    _guard(fleet, configuration, name)
    drain = Drain(started_at=now, deadline_at=deadline_at, force=force, flows_at_start=flows_open)
    draining = member.model_copy(update={"state": MemberState.DRAINING, "drain": with_reset(drain, now)})
    return regenerate(fleet.with_member(draining), configuration, waits_for)


def cancel(
    fleet: FleetState, configuration: Configuration, name: str, waits_for: Mapping[str, str] | None = None
) -> FleetState:
    """A draining member is active again. Raises FleetRefused: not_found, not_draining, generations_full."""
    member = drainable(fleet, configuration, name)
    if member.state is not MemberState.DRAINING:
        raise FleetRefused(
            "not_draining",
            f"{name} is {member.state}, so there is no drain to cancel",
            f"edgectl undrain {name}" if member.state is MemberState.DRAINED else "nothing is to be done",
        )
    return _activate(fleet, configuration, member, waits_for)


def undrain(
    fleet: FleetState, configuration: Configuration, name: str, waits_for: Mapping[str, str] | None = None
) -> FleetState:
    """A drained or draining member is active again; one that damping keeps out is forgiven its losses.

    Raises FleetRefused: not_found, not_drained, generations_full.
    """
    member = drainable(fleet, configuration, name)
    if member.state is MemberState.ACTIVE:
        health = forgiven(member.health)
        if health is not member.health:
            return fleet.with_member(member.model_copy(update={"health": health}))
        why = "active already" if health.healthy else "not drained, but not healthy"
        hint = "nothing is to be done" if health.healthy else "`edgectl get pools` shows what is wrong with it"
        raise FleetRefused("not_drained", f"{name} is {why}", hint)
    return _activate(fleet, configuration, member, waits_for)


def finish(fleet: FleetState, name: str, now: float) -> FleetState:
    """Everything is gone: drained. The caller has seen to it (`progress.obstacles`)."""
    member = fleet.member(name)
    if member is None or member.drain is None or member.state is not MemberState.DRAINING:
        return fleet
    drain = member.drain.model_copy(update={"drained_at": now})
    return fleet.with_member(member.model_copy(update={"state": MemberState.DRAINED, "drain": drain}))


def reset_when_due(fleet: FleetState, now: float) -> FleetState:
    """Forced drains whose moment has come."""
    for member in fleet.members:
        if member.state is MemberState.DRAINING and member.drain is not None:
            drain = with_reset(member.drain, now)
            if drain != member.drain:
                fleet = fleet.with_member(member.model_copy(update={"drain": drain}))
    return fleet


def with_reset(drain: Drain, now: float) -> Drain:
    """Whether `force` applies by now: at the deadline, or at once if there is none."""
    due = drain.force and (drain.deadline_at is None or drain.deadline_at <= now)
    return drain.model_copy(update={"reset": drain.reset or due})


def drainable(fleet: FleetState, configuration: Configuration, name: str) -> FleetMember:
    """The member of this name. Raises FleetRefused: not_found, not_a_member."""
    node = configuration.node(name)
    member = fleet.member(name)
    if node is None:
        raise FleetRefused("not_found", f"there is no node {name}", "edgectl get nodes shows them")
    in_a_pool = any(name in pool.weights for pool in configuration.pools)
    if member is None or not in_a_pool:
        raise FleetRefused("not_a_member", f"{name} is in no pool, so nothing has to drain", "stop it as it is")
    return member


def _guard(fleet: FleetState, configuration: Configuration, name: str) -> None:
    for pool in configuration.pools:
        if name not in pool.weights:
            continue
        active = active_members(fleet, pool)
        if len(active) < pool.min_active and name not in {member.name for member in active}:
            # Those who join are what the pool will have in a moment: another site's, say, for one that has none left.
            active = serving(fleet, pool)
        left = [member for member in active if member.name != name]
        if len(left) < len(active) and len(left) < pool.min_active:
            others = ", ".join(
                f"{member.name} {'unhealthy' if member.drain is None else member.state}"
                for member in fleet.members
                if member.drain is not None or (member.name in pool.weights and not member.health.healthy)
            )
            raise FleetRefused(
                CAPACITY_GUARD,
                f"pool {pool.name} has {len(active)} active members; without {name} it would have {len(left)}, "
                f"and its guard (min_active) is {pool.min_active}",
                f"bring a member back first ({others})" if others else "add members, or lower min_active",
                f"pools.{pool.name}.min_active",
            )


def _activate(
    fleet: FleetState, configuration: Configuration, member: FleetMember, waits_for: Mapping[str, str] | None
) -> FleetState:
    active = member.model_copy(update={"state": MemberState.ACTIVE, "drain": None})
    return regenerate(fleet.with_member(active), configuration, waits_for)
