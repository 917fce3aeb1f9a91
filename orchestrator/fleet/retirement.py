"""Time passes: unneeded generations are retired, who is ready joins, drains without obstacles end, forced ones reset,
and who has lost or regained its health is given other rows.

Nothing is believed at first sight: a condition must hold without a break for a while, on an injected clock. Which
conditions hold since when is in memory only, so an orchestrator that starts begins to count anew.
"""

import logging
from collections.abc import Collection

from orchestrator.config.configuration import Configuration
from orchestrator.contract.pool import MemberState
from orchestrator.fleet.document import FleetPool, FleetRefused, FleetState
from orchestrator.fleet.drain import finish, reset_when_due
from orchestrator.fleet.health import judge
from orchestrator.fleet.holds import Holds
from orchestrator.fleet.membership import regenerate
from orchestrator.fleet.progress import all_joining_obstacles, drain_obstacles, retirable
from orchestrator.fleet.reports import ReportBoard

log = logging.getLogger(__name__)

#: Seconds for which a generation must not be needed. Longer than a redirector's time between two censuses, and than
#: a handshake that was under way when the balancers changed tables (one retransmitted SYN: RFC 6298 section 5.7, 3 s).
RETIRE_HOLD_S = 3.0
#: Seconds for which a drain must have no obstacle: packets that were on their way have arrived, and been counted.
DRAINED_HOLD_S = 1.0


def advance(
    fleet: FleetState,
    configuration: Configuration,
    board: ReportBoard,
    holds: Holds,
    *,
    wall: float,
    retire_hold_s: float = RETIRE_HOLD_S,
) -> FleetState:
    """The fleet a moment later. `wall` is Unix time; the board's clock measures the holds.

    Changes `holds`; calling it twice at one moment changes nothing more.
    """
    now = board.monotonic()
    unneeded = {pool.name: retirable(fleet, configuration, board, pool, wall) for pool in fleet.pools}
    leaving = [member for member in fleet.members if member.state is MemberState.DRAINING]
    gone = [member for member in leaving if not drain_obstacles(fleet, configuration, board, member, wall)]
    holds.update(
        {("unneeded", name, str(number)) for name, numbers in unneeded.items() for number in numbers}
        | {("gone", member.name) for member in gone},
        now,
    )
    for member in gone:
        if holds.held_for(("gone", member.name), now) >= DRAINED_HOLD_S:
            fleet = finish(fleet, member.name, wall)
    before = fleet
    fleet = judge(fleet, configuration, board, wall=wall)
    pools = tuple(_without_unneeded(pool, unneeded[pool.name], holds, now, retire_hold_s) for pool in fleet.pools)
    ids = {member.name: member.id for member in fleet.members}
    ready = {
        (pool, ids[name])
        for name, by_pool in all_joining_obstacles(fleet, configuration, board, fleet.members).items()
        for pool, obstacles in by_pool.items()
        if not obstacles
    }
    if pools != fleet.pools or ready or fleet is not before:
        # Gives rows to who is ready or healthy, and forgets members that no generation knows any more: all that has
        # changed by itself is one generation.
        fleet = regenerated(fleet.model_copy(update={"pools": pools}), configuration, ready)
    return reset_when_due(fleet, wall)


def regenerated(fleet: FleetState, configuration: Configuration, ready: Collection[tuple[str, int]] = ()) -> FleetState:
    """With new generations, as far as there is room for them. It is tried again when one has been retired."""
    if ready:
        try:
            return regenerate(fleet, configuration, ready=ready)
        except FleetRefused as refusal:
            # Too much for one moment, though not for each of them.
            log.warning("nobody joins at present: %s", refusal)
    try:
        return regenerate(fleet, configuration)
    except FleetRefused as refusal:
        log.warning("new flows are given as before at present, whoever lost its health or site: %s", refusal)
        return fleet


def _without_unneeded(
    pool: FleetPool, numbers: frozenset[int], holds: Holds, now: float, retire_hold_s: float
) -> FleetPool:
    def is_over(number: int) -> bool:
        return number in numbers and holds.held_for(("unneeded", pool.name, str(number)), now) >= retire_hold_s

    left = tuple(live for live in pool.generations if not is_over(live.generation.number))
    return pool if len(left) == len(pool.generations) else pool.model_copy(update={"generations": left})
