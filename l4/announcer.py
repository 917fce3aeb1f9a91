"""Announces what an L4 node can forward, and nothing else: `lo` follows the conditions, and BIRD follows `lo`.

Theory of operation

1. A look reads back what announcing takes: whether the program is attached, the tables, the members' live bits. What
   the kernel tells of, or the agent, is looked at within milliseconds; the tables, of which nobody tells, on a beat.
2. From that follows what is announced (`decide`), and from that what is to be on `lo` (`HostPolicy`). Withdrawing waits
   for nothing, neither for a pause between restorations nor for BIRD, which sees by itself what leaves `lo`.
3. A program that somebody takes off is attached again, with a growing pause if that goes on. Where that fails, the VIPs
   are withheld. A foreign program is left where it is.
4. The addresses have a lifetime, which is renewed by these looks: should they end, the kernel withdraws the VIPs.
5. BIRD is asked on a beat of its own, because one that hangs must not keep anything else waiting. VIPs that it does not
   know of yet come to `lo` when it has been told; if it does not answer they are reported as withheld, and come to `lo`
   nevertheless: it may well go on announcing.
"""

import logging
import time
from collections import Counter
from typing import Literal

import trio

from l4 import vips as loopback
from l4.announcement import Decision, ForwardingConditions, decide
from l4.attachment import XdpMode, attached_program
from l4.balancer_feed import BalancerFeed
from l4.balancer_plan import BalancerPlan
from l4.balancer_program import BalancerProgram
from l4.bgp import session_name
from l4.bird import Bird, BirdError
from l4.host_keeper import HostKeeper
from l4.host_policy import HostPolicy, balancer_policy
from l4.kernel_events import Heard
from l4.pace import Pace
from l4.program_error import ProgramError
from l4.restorations import Concern, Restoration
from l4.watch import Occasion
from orchestrator.contract.node import Announcement

log = logging.getLogger(__name__)

_NOTHING = Decision({}, {}, {})


class Announcer:
    """Of a balancer agent, which lets one of these methods at a time touch the kernel."""

    def __init__(
        self, *, interface: str, xdp_mode: XdpMode, bird: Bird, feed: BalancerFeed, counts: Counter[str]
    ) -> None:
        """`counts` is where failures and restorations are counted."""
        self._interface = interface
        self._xdp_mode = xdp_mode
        self._bird = bird
        self._feed = feed
        self._counts = counts
        self._host = HostKeeper(counts)
        self._attaching = Pace(time.monotonic)
        self._attach_trouble: str | None = None
        self._bird_turn = trio.Lock()
        self._plan: BalancerPlan | None = None
        self._decision = _NOTHING
        self._decided_by: tuple[BalancerPlan, ForwardingConditions] | None = None
        self.attached: Literal["native", "generic", "detached"] = "detached"
        """The mode of our program when last looked at."""
        self.sessions: dict[str, bool] = {}
        """Whether the BGP session with each neighbour was established when last looked at."""
        self.announcement = Announcement.NORMAL
        """How VIPs are announced, by what BIRD runs with when last asked."""
        self._bird_trouble: str | None = None
        counts.update(bird_failures=0, programs_restored=0)

    def __repr__(self) -> str:
        return f"<Announcer {self._interface} {self.attached}, withheld {dict(self.withheld)}, {self._host}>"

    @property
    def restorations(self) -> tuple[Restoration, ...]:
        """What was put right lately: on the host, and of BIRD."""
        return (*self._host.restorations.recent(), *self._bird.restorations.recent())

    @property
    def withheld(self) -> dict[str, str]:
        """Why VIPs are not announced, by their names."""
        withheld = dict(self._decision.withheld)
        if self._plan is not None and self._bird_trouble is not None:
            return {vip.name: self._bird_trouble for vip in self._plan.snapshot.vips} | withheld
        return withheld

    @property
    def announced_despite(self) -> dict[str, str]:
        """What should keep VIPs from being announced that are announced nevertheless, by their names."""
        withheld = self.withheld
        return {name: reason for name, reason in self._decision.despite.items() if name not in withheld}

    async def announce(self, program: BalancerProgram, plan: BalancerPlan) -> None:
        """Goes over to a plan whose maps are filled. Raises VipError, DirectReturnError, ProgramError, OSError."""
        policy = await trio.to_thread.run_sync(self._look, program, plan, Occasion(Heard.anything(), is_beat=True))
        await trio.to_thread.run_sync(self._host.withdraw_all_but, policy.vips)
        # BIRD first: it must know a new VIP when its address appears.
        self._plan = plan
        await self.keep_bird()
        await trio.to_thread.run_sync(self._host.establish, policy)

    def withdraw_all_but(self, plan: BalancerPlan) -> None:
        """Of the VIPs on `lo`, those remain that are in the plan. Raises VipError, OSError."""
        self._host.withdraw_all_but({vip.network for vip in plan.snapshot.vips})

    def look(self, program: BalancerProgram, plan: BalancerPlan, occasion: Occasion) -> float:
        """In a thread: brings `lo` to what can be forwarded now.

        Returns the seconds after which to look again at the latest. Raises as `announce`.
        """
        policy = self._look(program, plan, occasion)
        again_s = self._host.keep(policy, heard=Heard.HOST in occasion.heard, is_beat=occasion.is_beat)
        if occasion.is_beat or Heard.INTERFACE in occasion.heard:
            self._feed.follow(program, plan)
        waits_to_attach = self.attached == "detached" and self._attach_trouble is None
        return min(again_s, self._attaching.wait_s) if waits_to_attach else again_s

    def look_after_nothing(self) -> None:
        """In a thread, without a snapshot: what an earlier agent left forwards on; if it is gone, so are the VIPs."""
        attached = attached_program(self._interface)
        if attached is not None and attached.name == BalancerProgram.FUNCTION:
            self._host.prolong()
        elif loopback.vips_on_loopback().ours:
            log.warning("VIPs withdrawn: no balancer runs on %s, and no snapshot is in service", self._interface)
            self._host.withdraw_all_but(())

    async def keep_bird(self) -> None:
        """BIRD runs, with the plan's configuration. A node that does not speak BGP needs no BIRD."""
        async with self._bird_turn:
            if self._plan is None:
                return
            plan, bgp = self._plan, self._plan.snapshot.bgp
            trouble = None
            established: dict[str, bool] = {}
            announcement: Announcement | None = None
            try:
                if bgp is not None or await self._bird.answers():
                    await self._bird.load(plan.bird_configuration)
                    established = await self._bird.sessions()
                    announcement = await self._bird.announcement()
            except BirdError as error:
                trouble = str(error)
                self._counts["bird_failures"] += 1
            if trouble != self._bird_trouble:
                log.log(logging.ERROR if trouble else logging.INFO, "BIRD: %s", trouble or "in order again")
            self._bird_trouble = trouble
            if bgp is None:
                self.announcement = plan.snapshot.announcement  # there is nothing that it could differ from
            elif announcement is not None:
                self.announcement = announcement
            self.sessions = {
                str(neighbor.address): established.get(session_name(number), False)
                for number, neighbor in enumerate(bgp.neighbors if bgp else (), start=1)
            }

    def _look(self, program: BalancerProgram, plan: BalancerPlan, occasion: Occasion) -> HostPolicy:
        if occasion.is_beat:
            self._feed.read_tables(program, plan)
        mode = self._feed.attached() or self._attach_again(program)
        self.attached = "detached" if mode is None else "generic" if mode is XdpMode.GENERIC else "native"
        conditions = ForwardingConditions(
            is_attached=mode is not None,
            interface=self._interface,
            owned_rows={status.pool: status.rows - status.chain_lengths[0] for status in self._feed.tables},
            pools_with_live_members=frozenset(
                pool.name
                for pool in plan.snapshot.pools
                if program.is_any_live(member.id for each in pool.generations for member in each.members)
            ),
        )
        if self._decided_by != (plan, conditions):
            self._tell(decide(plan.snapshot, conditions))
            self._decided_by = plan, conditions
        decision = self._decision
        return balancer_policy(plan.snapshot, self._interface, decision)

    def _attach_again(self, program: BalancerProgram) -> XdpMode | None:
        """None if it is not the time for that, or cannot be."""
        present = attached_program(self._interface)
        if present is not None:
            self._tell_attach_trouble(f"{self._interface} runs the XDP program {present.name!r}, which is not ours")
            return None
        if self._attaching.wait_s:
            return None
        self._attaching.attempted()
        try:
            program.attach(self._interface, self._xdp_mode)
        except ProgramError as error:
            self._tell_attach_trouble(str(error))
            return None
        self._attach_trouble = None
        self._counts["programs_restored"] += 1
        self._host.restorations.note(Concern.PROGRAM, f"somebody took it off {self._interface}")
        log.warning("somebody took the XDP program off %s; attached again", self._interface)
        return self._feed.attached()

    def _tell_attach_trouble(self, trouble: str) -> None:
        if trouble != self._attach_trouble:
            log.error("%s", trouble)
        self._attach_trouble = trouble

    def _tell(self, decision: Decision) -> None:
        for name in decision.withheld.keys() - self._decision.withheld.keys():
            log.warning("VIP %s withheld: %s", name, decision.withheld[name])
        for name in self._decision.withheld.keys() - decision.withheld.keys():
            log.info("VIP %s no longer withheld", name)
        for name in decision.despite.keys() - self._decision.despite.keys():
            log.warning("VIP %s announced, because nobody else does, although: %s", name, decision.despite[name])
        self._decision = decision
