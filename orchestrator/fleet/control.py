"""The verbs of the fleet: what agents and operators can ask for, whatever carries their request.

Also the one loop that moves the fleet on by itself (`run`): drains that end, generations that retire.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

import trio

from orchestrator.config.compile import load_configuration
from orchestrator.config.configuration import Configuration
from orchestrator.config.difference import describe_change
from orchestrator.contract.checkup import Checkup
from orchestrator.contract.inquiry import Question, role_asked
from orchestrator.contract.node import AgentIdentity
from orchestrator.contract.operator import Applied, DrainRequest, DrainView
from orchestrator.contract.operator_guard import GuardChanged
from orchestrator.contract.report import BalancerStatus, ProbeVerdict, Report
from orchestrator.contract.token import JoinToken
from orchestrator.contract.wire import JoinRequest, JoinResponse
from orchestrator.fleet import announcers, drain, guard, l4_drain, ticket_keys
from orchestrator.fleet.authority import Authority
from orchestrator.fleet.document import FleetRefused, FleetState
from orchestrator.fleet.health_view import in_words
from orchestrator.fleet.holds import Holds
from orchestrator.fleet.inquiries import InquiryBoard
from orchestrator.fleet.l4_drain_view import l4_drain_view
from orchestrator.fleet.ledger import Ledger, Present
from orchestrator.fleet.membership import configure
from orchestrator.fleet.progress import waits_for
from orchestrator.fleet.reports import ReportBoard
from orchestrator.fleet.retirement import RETIRE_HOLD_S, advance, regenerated
from orchestrator.fleet.snapshots import Compilation, known_agents
from orchestrator.fleet.tokens import issue_token, redeem_token
from orchestrator.fleet.views import drain_view
from orchestrator.state.store import LeaseLost, Store, StoreUnusable

log = logging.getLogger(__name__)

#: Seconds between two looks at what moves by itself. Reports come every second.
TICK_S = 0.5
#: Seconds from news that cannot wait (a member that L4 nodes see otherwise than before) to the look at them: so that
#: what several nodes see of one event is one change.
STIR_S = 0.05


@dataclass(slots=True)
class Control:
    """One orchestrator's grip on the fleet. `wall` gives Unix time; the board holds the monotonic clock."""

    store: Store
    ledger: Ledger
    authority: Authority
    board: ReportBoard
    wall: Callable[[], float] = time.time
    retire_hold_s: float = RETIRE_HOLD_S
    holds: Holds = field(default_factory=Holds)
    l4_drain_holds: Holds = field(default_factory=Holds)
    announcer_holds: Holds = field(default_factory=Holds)
    inquiries: InquiryBoard = field(default_factory=InquiryBoard)
    _stirred: trio.Event = field(default_factory=trio.Event, init=False)
    """Set by what cannot wait for the next tick."""
    _compilation: Compilation | None = field(default=None, init=False)
    """Of the revision that was last asked for."""

    def __repr__(self) -> str:
        return f"Control({self.ledger}, {self.board})"

    @property
    def present(self) -> Present:
        return self.ledger.present

    # --- operators

    async def apply(self, files: Mapping[str, str]) -> Applied:
        """Put a configuration directory in force. Raises ConfigurationRefused, FleetRefused."""
        configuration = await trio.to_thread.run_sync(load_configuration, files)
        digest = configuration.digest
        summary: tuple[str, ...] = ()
        changed = False

        def decide(present: Present) -> tuple[FleetState, Configuration]:
            nonlocal summary, changed
            changed = present.fleet.configuration != digest
            summary = describe_change(present.configuration, configuration)
            if not changed:
                return present.fleet, present.configuration
            fleet = configure(
                present.fleet, present.configuration, configuration, self.wall(), self._waits_for(present)
            )
            return ticket_keys.rotated(fleet, configuration, wall=self.wall()), configuration

        after = await self.ledger.change(decide)
        if changed:
            log.info("configuration %s in force as revision %d", digest[:12], after.fleet.revision)
        return Applied(version=after.fleet.revision, changed=changed, summary=summary)

    async def start_drain(self, name: str, request: DrainRequest) -> DrainView:
        """Raises FleetRefused."""
        if l4_drain.l4_node(self.present.configuration, name) is not None:
            return (await self.start_l4_drains((name,), request))[0]
        flows = self.board.flows_open(name)
        return await self._change_member(
            name,
            "drain started",
            lambda present: drain.start(
                present.fleet,
                present.configuration,
                name,
                now=self.wall(),
                deadline_s=request.deadline_s,
                force=request.force,
                flows_open=flows,
                waits_for=self._waits_for(present),
            ),
        )

    async def cancel_drain(self, name: str) -> DrainView:
        """Raises FleetRefused."""
        if l4_drain.l4_node(self.present.configuration, name) is not None:
            return (await self.cancel_l4_drains((name,)))[0]
        return await self._change_member(
            name,
            "drain cancelled",
            lambda present: drain.cancel(present.fleet, present.configuration, name, self._waits_for(present)),
        )

    async def undrain(self, name: str) -> DrainView:
        """Raises FleetRefused."""
        if l4_drain.l4_node(self.present.configuration, name) is not None:
            return (await self.undrain_l4((name,)))[0]
        return await self._change_member(
            name,
            "undrained",
            lambda present: drain.undrain(present.fleet, present.configuration, name, self._waits_for(present)),
        )

    async def start_l4_drains(self, names: Sequence[str], request: DrainRequest) -> tuple[DrainView, ...]:
        """Of L4 nodes, all or none. Raises FleetRefused."""
        if request.force:
            raise FleetRefused(
                "not_supported", "no flow ends with an L4 node, so that there is nothing to reset", "leave --force out"
            )
        return await self._change_l4_nodes(
            names,
            "drain started",
            lambda present: l4_drain.start(
                present.fleet,
                present.configuration,
                self.board,
                names,
                now=self.wall(),
                deadline_s=request.deadline_s,
                go_dark=request.go_dark,
            ),
        )

    async def cancel_l4_drains(self, names: Sequence[str]) -> tuple[DrainView, ...]:
        """Raises FleetRefused."""
        return await self._change_l4_nodes(
            names, "drain cancelled", lambda present: l4_drain.cancel(present.fleet, names)
        )

    async def undrain_l4(self, names: Sequence[str]) -> tuple[DrainView, ...]:
        """Raises FleetRefused."""
        return await self._change_l4_nodes(names, "undrained", lambda present: l4_drain.undrain(present.fleet, names))

    def l4_nodes_of_site(self, site: str) -> tuple[str, ...]:
        """Raises FleetRefused: not_found."""
        return l4_drain.l4_nodes_of_site(self.present.configuration, site)

    def drain_of(self, name: str) -> DrainView:
        """Raises FleetRefused: not_found, not_a_member."""
        if l4_drain.l4_node(self.present.configuration, name) is not None:
            return l4_drain_view(self.present, self.board, self.wall(), name)
        member = self.present.fleet.member(name)
        if member is None or self.present.configuration.node(name) is not None:
            member = drain.drainable(self.present.fleet, self.present.configuration, name)
        return drain_view(self.present, self.board, self.wall(), member)

    async def change_guard(self, change: Callable[[Present], FleetState]) -> GuardChanged:
        """Puts a change of `orchestrator.fleet.guard` in force. Raises FleetRefused."""
        summary: tuple[str, ...] = ()

        def decide(present: Present) -> tuple[FleetState, Configuration]:
            nonlocal summary
            after = change(present)
            summary = guard.describe(present.fleet.guard, after.guard)
            return after, present.configuration

        present = await self.ledger.change(decide)
        for line in summary:
            log.info("guard: %s, revision %d", line, present.fleet.revision)
        return GuardChanged(version=present.fleet.revision, changed=bool(summary), summary=summary)

    async def issue_token(self, identity: AgentIdentity, ttl_s: float) -> tuple[JoinToken, float]:
        """A join token, and when it expires. Raises TokenRefused."""
        now = self.wall()
        token = await issue_token(self.store, self.authority.digest, identity, ttl_s, now)
        log.info("join token for %s, good for %.0f s", identity, ttl_s)
        return token, now + ttl_s

    def ask(self, asked_by: str, node: str, question: Question) -> str:
        """Asks the agent on `node` that such a question is for; the inquiry's id.

        Raises FleetRefused: not_found, agent_silent, too_many_inquiries.
        """
        agent = AgentIdentity(node=node, role=role_asked(question))
        if agent not in known_agents(self.present.fleet, self.present.configuration):
            raise FleetRefused("not_found", f"no node {node!r} with a {agent.role}", "`edgectl get nodes` lists them")
        # A checkup is for agents that are held up as well: whether they take it is found out by asking.
        if not isinstance(question, Checkup) and self.board.fresh(agent.node, agent.role) is None:
            raise FleetRefused(
                "agent_silent",
                f"{self.board.silence_in_words(agent.node, agent.role)}: it cannot be asked",
                f"start {agent.program} on {node}, or look at its log",
            )
        return self.inquiries.ask(asked_by, agent, question)

    # --- agents

    async def join(self, request: JoinRequest, token: JoinToken) -> JoinResponse:
        """Raises TokenRefused, RequestUnusable; the latter does not cost the token."""
        identity = AgentIdentity(node=request.node, role=request.role)
        certificate = self.authority.certify_agent(request.csr_pem, identity, self._now())
        await redeem_token(self.store, token, identity, self.wall())
        log.info("%s joined", identity)
        return JoinResponse(certificate_pem=certificate, ca_pem=self.authority.pem)

    def renew(self, identity: AgentIdentity, csr_pem: str) -> JoinResponse:
        """Raises RequestUnusable; FleetRefused if the fleet does not know the agent (any more)."""
        if identity not in known_agents(self.present.fleet, self.present.configuration):
            raise FleetRefused("not_found", f"{identity} is not in the configuration", "add the node, or join anew")
        certificate = self.authority.certify_agent(csr_pem, identity, self._now())
        log.info("certificate of %s renewed", identity)
        return JoinResponse(certificate_pem=certificate, ca_pem=self.authority.pem)

    async def next_snapshot(self, identity: AgentIdentity, after: int, wait_s: float) -> bytes | None:
        """The agent's snapshot, JSON, as soon as it is newer than `after`; None when the wait is over.

        Raises FleetRefused.
        """
        await self.ledger.pass_version(after)
        with trio.move_on_after(wait_s):
            while True:
                present = await self.ledger.beyond(after)
                snapshot = self._compilation_of(present).text(identity)
                if snapshot is not None:
                    return snapshot
                after = present.fleet.revision
        return None

    def take_report(self, identity: AgentIdentity, report: Report) -> None:
        """Raises FleetRefused if it is another role's status."""
        if report.status.role is not identity.role:
            raise FleetRefused("wrong_role", f"{identity} sent the status of a {report.status.role}", "fix the agent")
        if identity not in known_agents(self.present.fleet, self.present.configuration):
            return  # joined, and not configured yet: there is nothing to compare it with
        if (report.applied_version or 0) > self.present.fleet.revision:
            return  # of a history that a restored backup does not know; its next watch lifts the revision past it
        before = self.board.last(identity.node, identity.role)
        if report.nack is not None and (before is None or before.nack != report.nack):
            log.warning("%s refused revision %d: %s", identity, report.nack.version, report.nack.reason)
        if self.board.fresh(identity.node, identity.role) is None:
            log.info("%s reports, runs revision %s", identity, report.applied_version)
        self.board.take(identity, report)
        if _verdicts(report) != (_verdicts(before) if before is not None else {}):
            self._stirred.set()

    # --- by itself

    async def run(self) -> NoReturn:
        """Task: moves the fleet on, and follows the store."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.ledger.follow)
            while True:
                try:
                    await self.tick()
                except (FleetRefused, LeaseLost, StoreUnusable) as error:
                    log.error("the fleet does not move on: %s", error)
                with trio.move_on_after(TICK_S):
                    await self._stirred.wait()
                self._stirred = trio.Event()
                await trio.sleep(STIR_S)

    async def tick(self) -> None:
        """One look at what moves by itself."""
        before = self.present
        known = known_agents(before.fleet, before.configuration)
        self.board.keep_only(known)
        self.inquiries.keep_only(known)

        def decide(present: Present) -> tuple[FleetState, Configuration]:
            fleet = advance(
                guard.without_expired(present.fleet, self.wall()),
                present.configuration,
                self.board,
                self.holds,
                wall=self.wall(),
                retire_hold_s=self.retire_hold_s,
            )
            configuration = present.configuration
            fleet = l4_drain.advance(fleet, configuration, self.board, self.l4_drain_holds, wall=self.wall())
            fleet = ticket_keys.rotated(fleet, configuration, wall=self.wall())
            return announcers.advance(fleet, configuration, self.board, self.announcer_holds), configuration

        _log_moves(before.fleet, (await self.ledger.change(decide)).fleet)

    async def _change_member(self, name: str, event: str, change: Callable[[Present], FleetState]) -> DrainView:
        before = self.present.fleet.revision
        present = await self.ledger.change(lambda present: (change(present), present.configuration))
        if present.fleet.revision != before:
            log.info("%s: %s, revision %d", name, event, present.fleet.revision)
        return self.drain_of(name)

    async def _change_l4_nodes(
        self, names: Sequence[str], event: str, change: Callable[[Present], FleetState]
    ) -> tuple[DrainView, ...]:
        before = self.present.fleet.revision

        def decide(present: Present) -> tuple[FleetState, Configuration]:
            # A site whose last L4 node drains is given no new flows by other sites any more.
            return regenerated(change(present), present.configuration), present.configuration

        present = await self.ledger.change(decide)
        if present.fleet.revision != before:
            log.info("%s: %s, revision %d", ", ".join(names), event, present.fleet.revision)
        return tuple(map(self.drain_of, names))

    def _compilation_of(self, present: Present) -> Compilation:
        if self._compilation is None or self._compilation.fleet is not present.fleet:
            self._compilation = Compilation(present.fleet, present.configuration)
        return self._compilation

    def _waits_for(self, present: Present) -> dict[str, str]:
        return waits_for(present.fleet, present.configuration, self.board)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC)


def _verdicts(report: Report) -> dict[int, ProbeVerdict]:
    """What an L4 node sees of members."""
    status = report.status
    return {n: one.verdict for n, one in status.probes.items()} if isinstance(status, BalancerStatus) else {}


def _log_moves(before: FleetState, after: FleetState) -> None:
    if before.revision == after.revision:
        return
    for name, drained in after.l4_drains.items():
        was = before.l4_drains.get(name)
        if was is not None and was.phase is not drained.phase:
            log.info("%s: %s → %s, revision %d", name, was.phase, drained.phase, after.revision)
    for name in sorted(before.announce_anyway.keys() | after.announce_anyway.keys()):
        vips = after.announce_anyway.get(name, ())
        if vips != before.announce_anyway.get(name, ()):
            alone = f"alone announces {', '.join(vips)}" if vips else "is not alone any more"
            log.info("%s: %s, revision %d", name, alone, after.revision)
    for line in guard.describe(before.guard, after.guard) if before.guard is not after.guard else ():
        log.info("guard, by time: %s, revision %d", line, after.revision)
    if before.ticket_keys != after.ticket_keys:
        log.info("session tickets: another key issues them, revision %d", after.revision)
    for member in after.members:
        old = before.member(member.name)
        if old is not None and old.state is not member.state:
            log.info("%s: %s → %s, revision %d", member.name, old.state, member.state, after.revision)
        if old is not None and (old.health, old.reachable) != (member.health, member.reachable):
            log.info("%s: %s, revision %d", member.name, in_words(member), after.revision)
    for pool in after.pools:
        old_pool = before.pool(pool.name)
        numbers = {live.generation.number for live in pool.generations}
        retired = {live.generation.number for live in old_pool.generations} - numbers if old_pool else set()
        if retired:
            log.info(
                "pool %s: generations %s retired, %d live, revision %d",
                pool.name,
                ", ".join(map(str, sorted(retired))),
                len(numbers),
                after.revision,
            )
