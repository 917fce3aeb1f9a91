"""The balancer agent's task that keeps its members probed, and acts on what the probes say.

Probing begins when a snapshot is in service whose pools want it, and the way is open: the classifier is loaded (which
takes seconds, beside everything else) and on the interface. (That the host takes answers in from an address of its own
is the business of `l4.host_policy`.) While the way is not open nobody is asked, and nothing is said: packets that go
astray would tell of the wrong host.
"""

import functools
import logging
from typing import NoReturn

import trio

from l4.balancer import BalancerAgent
from l4.probes.program import ProbeProgram
from l4.probes.targets import targets
from l4.program_error import NotInService, ProgramError
from orchestrator.contract.client import SnapshotRefused
from orchestrator.contract.snapshot import BalancerSnapshot

log = logging.getLogger(__name__)

#: Seconds between looks at the way, and at the snapshot: as often as the agent looks after its announcements.
LOOK_S = 1.0


async def keep_probing(agent: BalancerAgent, interface: str) -> NoReturn:
    """Task: probes, sets live bits at once, and has changes reported at once."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.prober.run)
        nursery.start_soon(_keep_the_way_open, agent, interface)
        while True:
            await agent.prober.changed()
            agent.bell.ring()
            try:
                await agent.mark_unreachable(agent.prober.unreachable)
            except (ProgramError, OSError) as error:
                log.error("live bits could not be set by probes: %s", error)
            try:
                await agent.take_in_reached()
            except SnapshotRefused as error:
                log.error("members that are reached could not be put into chains: %s", error)


async def _keep_the_way_open(agent: BalancerAgent, interface: str) -> NoReturn:
    way = _Way(interface)
    trouble: str | None = None
    aimed_at: BalancerSnapshot | None = None
    while True:
        snapshot = agent.snapshot
        wanted = tuple(targets(snapshot)) if snapshot is not None and snapshot is not aimed_at else None
        try:
            if snapshot is not None and (wanted or way.is_wanted):
                await way.open(agent)
        except (ProgramError, NotInService) as error:
            if str(error) != trouble:
                log.error("members are not probed: %s", error)
            trouble = str(error)
            agent.prober.aim(())
            aimed_at = None
        else:
            if trouble is not None:
                log.info("members are probed again")
            trouble = None
            if wanted is not None:
                agent.prober.aim(wanted)
                way.is_wanted, aimed_at = bool(wanted), snapshot
        await trio.sleep(LOOK_S)


class _Way:
    """The classifier on the interface."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._program: ProbeProgram | None = None
        self.is_wanted = False
        """Whether somebody is probed."""

    async def open(self, agent: BalancerAgent) -> None:
        """Sees to it that marked packets find their members. Raises ProgramError, NotInService."""
        if self._program is None:
            pins, definitions = await agent.inspect(lambda program, _: (program.pins, program.definitions))
            self._program = await trio.to_thread.run_sync(functools.partial(ProbeProgram, pins, definitions))
            await trio.to_thread.run_sync(self._program.attach, self._interface)
            log.info("probes go out by a classifier on %s", self._interface)
        elif not await trio.to_thread.run_sync(ProbeProgram.is_attached, self._interface):
            log.warning("the classifier of probes was taken off %s, and is put back", self._interface)
            await trio.to_thread.run_sync(self._program.attach, self._interface)
        outcomes = await trio.to_thread.run_sync(self._program.outcomes)
        for name, packets in outcomes.items():
            agent.prober.counts[f"probe_packets_{name}"] = packets
