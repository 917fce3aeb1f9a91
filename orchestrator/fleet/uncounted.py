"""Flows that nobody can count, and how long a drain waits for them.

A census counts TCP sockets, and a proxy its connections. UDP has neither: a flow is a habit of two hosts. Members that
run no redirector take no census, and hosts behind a passthrough VIP have no proxy of ours. L4 nodes go on sending such
flows where they began (the flow table), but whether one is still alive is for nobody to see. So they are given time: up
to the drain's deadline, or `drain.uncounted_s` if it has none.
"""

from orchestrator.config.configuration import Configuration
from orchestrator.contract.vip import Protocol, VipMode
from orchestrator.fleet.document import FleetMember, FleetPool, FleetState
from orchestrator.fleet.reports import ReportBoard


def uncounted_vips(
    configuration: Configuration, board: ReportBoard, pool: FleetPool, member: FleetMember
) -> tuple[str, ...]:
    """VIPs of the pool whose flows on this member nobody counts."""
    configured = configuration.pool(pool.name)
    has_census = configured is None or configured.redirectors or board.census(member.name, pool.name, fresh=True)
    return tuple(
        vip.name
        for vip in configuration.vips_of(pool.name)
        if vip.protocol is Protocol.UDP or (vip.mode is not VipMode.TERMINATE and not has_census)
    )


def all_uncounted_vips(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, member: FleetMember
) -> tuple[str, ...]:
    """The same for all pools of the member, sorted."""
    return tuple(
        sorted(
            name
            for pool in fleet.pools
            if is_of(configuration, pool, member)
            for name in uncounted_vips(configuration, board, pool, member)
        )
    )


def waits_for_uncounted(configuration: Configuration, member: FleetMember, wall: float) -> bool:
    """Whether flows that nobody counts still have time. `wall` is Unix time."""
    drain = member.drain
    if drain is None or drain.reset:
        return False
    return wall < (drain.started_at + configuration.uncounted_s if drain.deadline_at is None else drain.deadline_at)


def is_of(configuration: Configuration, pool: FleetPool, member: FleetMember) -> bool:
    """Whether the member is configured for the pool, or a live generation knows it."""
    configured = configuration.pool(pool.name)
    return member.id in pool.known_ids or (configured is not None and member.name in configured.weights)
