"""The node client: keeps one agent on its newest good snapshot, with or without an orchestrator.

Theory of operation

1. Disk first. The last good snapshot is applied before any connection is tried: a reboot needs no orchestrator.
2. Then two tasks run for ever. One *watches*: it asks for a snapshot other than the last one seen (a long poll),
   applies it, and makes it the last good one. The other *reports*: every second, and at once after an attempt to
   apply, or when somebody rings the bell. Only the watch applies, so `Agent.apply` never runs twice at once.
3. A snapshot is written to disk after `apply` returned. If the node dies in between, it starts on the one before
   and is sent the new one again.
4. A snapshot equal in all but its version is acknowledged without an apply. Its version is written down, so that
   the next report and the next start agree.
5. A refused snapshot leaves the old one in service, and is reported with the reason until a newer one is applied.
   It is tried again after a while: what stood in its way (a port in use, a full disk) may be gone.
6. Versions only grow. An older one than the applied one is refused: it comes from a stale copy of the store. (An
   orchestrator that was restored from a backup notices that its agents are ahead, and raises its version past theirs.)
7. A third task takes what operators ask this agent, if it answers anything (`respondent`). The two before never wait
   for it.
8. Every failure of the network means: wait, longer each time up to a bound, take the next orchestrator, for ever.
9. An answer that may have waited in the network is not applied before it was asked whether there is a newer one, and
   a poll that was under way when the way broke is made anew (`way`).
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import trio
from pydantic import ValidationError

from orchestrator.contract.backoff import Backoff
from orchestrator.contract.connection import (
    ANSWER_S,
    Connection,
    OrchestratorRefused,
    OrchestratorUnreachable,
    verified_context,
)
from orchestrator.contract.node import AgentIdentity
from orchestrator.contract.renewal import renew_when_due
from orchestrator.contract.report import Nack, Report, Status
from orchestrator.contract.respondent import Respondent, answer_inquiries
from orchestrator.contract.snapshot import SNAPSHOT, Snapshot
from orchestrator.contract.state_directory import MAX_SNAPSHOT_BYTES, SnapshotUnreadable, StateDirectory
from orchestrator.contract.way import Way
from orchestrator.contract.wire import MAX_NACK_REASON, MAX_WAIT_S, NODE_REPORT, NODE_SNAPSHOT

log = logging.getLogger(__name__)

#: Seconds between reports. Drains and the console are live to a second.
REPORT_INTERVAL_S = 1.0
#: Seconds that one long poll lasts. Shorter than any middlebox's idle timeout for TCP (RFC 5382: 2 hours 4 minutes;
#: in practice minutes), and than the orchestrator's own bound.
WATCH_S = 20.0
#: Seconds for the answer to a report, or to a question whose answer is ready.
PROMPT_S = 3.0
#: Seconds until a refused snapshot is tried again.
RETRY_REFUSED_S = 15.0


class SnapshotRefused(Exception):
    """Raised by `Agent.apply`: the snapshot cannot be run. The text is the reason, for the operator; no secrets."""


class Bell:
    """Asks for a report at once: for what cannot wait for the next second."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        """The next report is made at once. Those who ring while one is made are heard by the one after it."""
        self._rung.set()

    def hush(self) -> None:
        """What rang so far is about to be reported."""
        self._rung = trio.Event()

    async def wait(self) -> None:
        """Until somebody rings."""
        await self._rung.wait()


class Agent(Protocol):
    """What a process of the fleet does with its snapshots."""

    async def apply(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the running state: build aside, check, swap in one step.

        Its role is already checked. Raises SnapshotRefused; the state before must then run on untouched. Any other
        exception is a bug of the agent: it is logged with its traceback and treated as a refusal, because a snapshot
        must never take a node down. Must not wait for the orchestrator.
        """

    async def status(self) -> Status:
        """The agent's state for the next report. May be asked while `apply` runs; must be quick.

        What it raises is logged, and the report is left out.
        """


async def run_agent(
    agent: Agent,
    *,
    state: StateDirectory,
    ready: Callable[[], None] | None = None,
    respondent: Respondent | None = None,
    bell: Bell | None = None,
    speaks: trio.Event | None = None,
) -> NoReturn:
    """Keep `agent` on its newest good snapshot until cancelled.

    `ready` is called once, as soon as a snapshot is in service (from disk, or the first from an orchestrator).
    `respondent` answers what operators ask this agent; without one, they are told that it answers nothing.
    Whoever rings the `bell` has a report made at once.
    Until `speaks` is set, nothing is reported or answered: another process of the same agent does so still.
    Raises NotJoined if `state` holds no identity, and OSError if its keys cannot be read.
    """
    enrolment = state.enrolment()
    course = _Course(agent, state, enrolment.identity, ready, bell=bell or Bell(), speaks=speaks)
    await course.start_from_disk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(course.watch, enrolment.endpoints)
        nursery.start_soon(course.report, enrolment.endpoints)
        nursery.start_soon(renew_when_due, state, course.renewed)
        if respondent is not None:
            nursery.start_soon(course.answer, respondent, enrolment.endpoints)
    raise AssertionError("the tasks above end by cancellation only")


@dataclass(slots=True)
class _Course:
    """One agent's way from snapshot to snapshot."""

    agent: Agent
    state: StateDirectory
    identity: AgentIdentity
    ready: Callable[[], None] | None
    applied: Snapshot | None = None
    nack: Nack | None = None
    refused: Snapshot | None = None
    seen_version: int = 0
    bell: Bell = field(default_factory=Bell)
    speaks: trio.Event | None = None
    way: Way = field(default_factory=Way)
    mood: dict[str, str] = field(default_factory=dict)
    """Task → kind of its last failure, "" while all is well."""
    certificate_epoch: int = 0

    async def start_from_disk(self) -> None:
        try:
            snapshot = self.state.load_snapshot()
        except SnapshotUnreadable as error:
            log.error("snapshot on disk ignored: %s; waiting for one from the orchestrator", error)
            return
        if snapshot is None:
            log.info("no snapshot on disk; waiting for one from the orchestrator")
            return
        reason = await self._reason_to_refuse(snapshot)
        if reason is not None:
            log.error("snapshot %d from disk refused: %s", snapshot.version, reason)
            self.nack = Nack(version=snapshot.version, reason=reason)
            return
        log.info("snapshot %d from disk in service", snapshot.version)
        self._in_service(snapshot)
        self.seen_version = snapshot.version

    async def watch(self, endpoints: tuple[str, ...]) -> NoReturn:
        """Task: fetch, apply, persist."""
        backoff = Backoff()
        while True:
            epoch = self.certificate_epoch
            async with self._connection(endpoints) as connection:
                while epoch == self.certificate_epoch:
                    snapshot: Snapshot | None = None
                    try:
                        with self.way.poll() as poll:
                            snapshot = await self._fetch_newest(connection)
                    except (OrchestratorUnreachable, OrchestratorRefused) as error:
                        self._note("watch", error)
                        await self.way.opened(backoff.next_wait_s())
                        continue
                    if poll.cancelled_caught:
                        break  # whatever comes yet on this connection has waited
                    self._note("watch", None)
                    backoff.reset()
                    if snapshot is None:
                        snapshot = self.refused
                    if snapshot is not None:
                        await self._take(snapshot)

    async def report(self, endpoints: tuple[str, ...]) -> NoReturn:
        """Task: tell the orchestrator, every second and at once after an attempt to apply."""
        await self._may_speak()
        backoff = Backoff(first_s=REPORT_INTERVAL_S)
        while True:
            epoch = self.certificate_epoch
            async with self._connection(endpoints) as connection:
                while epoch == self.certificate_epoch:
                    self.bell.hush()
                    status = await self._status()
                    if status is None:
                        await trio.sleep(backoff.next_wait_s())
                        continue
                    report = Report(
                        applied_version=self.applied.version if self.applied else None, nack=self.nack, status=status
                    )
                    try:
                        with self.way.report():
                            body = report.model_dump_json()
                            await connection.request("POST", NODE_REPORT, body=body, answer_s=PROMPT_S)
                    except (OrchestratorUnreachable, OrchestratorRefused) as error:
                        self._note("report", error)
                        await trio.sleep(backoff.next_wait_s())
                        continue
                    self._note("report", None)
                    backoff.reset()
                    with trio.move_on_after(REPORT_INTERVAL_S):
                        await self.bell.wait()

    async def answer(self, respondent: Respondent, endpoints: tuple[str, ...]) -> NoReturn:
        """Task: answer what operators ask this agent."""
        await self._may_speak()
        while True:
            epoch = self.certificate_epoch

            def is_current(epoch: int = epoch) -> bool:
                return epoch == self.certificate_epoch

            async with self._connection(endpoints) as connection:
                await answer_inquiries(respondent, connection, is_current)

    def renewed(self) -> None:
        """The certificate on disk is a new one: all tasks connect anew with it."""
        self.certificate_epoch += 1

    def _connection(self, endpoints: tuple[str, ...]) -> Connection:
        context = verified_context(
            str(self.state.ca_file), certificate=(str(self.state.certificate_file), str(self.state.key_file))
        )
        return Connection(endpoints, context, max_answer_bytes=MAX_SNAPSHOT_BYTES)

    async def _may_speak(self) -> None:
        if self.speaks is not None:
            await self.speaks.wait()

    async def _status(self) -> Status | None:
        """The agent's state; None if it cannot tell, which must not take the node down either."""
        try:
            return await self.agent.status()
        except Exception:
            log.exception("no report: the agent cannot tell its status")
            return None

    async def _fetch_newest(self, connection: Connection) -> Snapshot | None:
        """The next snapshot, or None after a quiet wait. Raises OrchestratorUnreachable, OrchestratorRefused."""
        asked_at = trio.current_time()
        wait_s = min(WATCH_S if self.refused is None else RETRY_REFUSED_S, MAX_WAIT_S)
        snapshot = await self._fetch(connection, self.seen_version, wait_s=wait_s, answer_s=ANSWER_S)
        if snapshot is None or not self.way.is_doubtful(asked_at):
            return snapshot
        try:
            newer = await self._fetch(connection, snapshot.version, wait_s=0, answer_s=PROMPT_S)
        except (OrchestratorUnreachable, OrchestratorRefused) as error:
            log.info("snapshot %d may be old, and nobody says so: %s", snapshot.version, error)
            return snapshot
        if newer is not None:
            log.info("snapshot %d had waited in the network: %d is newer", snapshot.version, newer.version)
        return newer or snapshot

    async def _fetch(self, connection: Connection, after: int, *, wait_s: float, answer_s: float) -> Snapshot | None:
        """A snapshot other than this one, or None if there is none in time.

        Raises OrchestratorUnreachable, OrchestratorRefused.
        """
        query = {"after": str(after), "wait": str(wait_s)}
        answer = await connection.request("GET", NODE_SNAPSHOT, query=query, wait_s=wait_s, answer_s=answer_s)
        if answer.status == 204:
            return None
        try:
            return SNAPSHOT.validate_json(answer.body)
        except ValidationError as error:
            # A newer orchestrator may send what this version cannot read: run on, and keep asking.
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise OrchestratorUnreachable(
                f"{connection.endpoint}: snapshot not understood: {where}: {first['msg']}"
            ) from error

    async def _take(self, snapshot: Snapshot) -> None:
        self.seen_version = max(self.seen_version, snapshot.version)
        if self.applied is not None and snapshot.version < self.applied.version:
            reason = f"older than version {self.applied.version}, which runs: the orchestrator's store is a stale copy"
        elif self.applied is not None and snapshot.digest == self.applied.digest:
            reason = None
        else:
            began = time.monotonic()
            reason = await self._reason_to_refuse(snapshot)
            if reason is None:
                log.info("snapshot %d applied in %.0f ms", snapshot.version, (time.monotonic() - began) * 1000)
        if reason is None:
            try:
                await trio.to_thread.run_sync(self.state.save_snapshot, snapshot)  # a flush may take a while
            except OSError as error:
                # It runs all the same; a restart would start from the one before, and be sent this one again.
                log.error("snapshot %d runs, but was not written to disk: %s", snapshot.version, error)
            self._in_service(snapshot)
            self.nack = self.refused = None
        else:
            log.error("snapshot %d refused: %s", snapshot.version, reason)
            self.nack = Nack(version=snapshot.version, reason=reason[:MAX_NACK_REASON])
            self.refused = snapshot
        self.bell.ring()

    def _in_service(self, snapshot: Snapshot) -> None:
        first, self.applied = self.applied is None, snapshot
        if first and self.ready is not None:
            self.ready()

    async def _reason_to_refuse(self, snapshot: Snapshot) -> str | None:
        """Apply it; None if that went well."""
        if snapshot.role is not self.identity.role or snapshot.node != self.identity.node:
            return f"it is for {snapshot.node}/{snapshot.role}, and this agent is {self.identity}"
        try:
            await self.agent.apply(snapshot)
        except SnapshotRefused as refusal:
            return str(refusal) or "refused without a reason"
        except Exception as error:
            log.exception("apply of snapshot %d failed in a way that the agent did not foresee", snapshot.version)
            return f"unforeseen {type(error).__name__}: {error}"
        return None

    def _note(self, task: str, error: Exception | None) -> None:
        """One line when the connection is lost, one when it is back; not one for each attempt between."""
        mood = "" if error is None else type(error).__name__
        if self.mood.get(task) == mood:
            return
        self.mood[task] = mood
        if error is None:
            log.info("%s: orchestrator answers", task)
        else:
            log.warning("%s: running on without the orchestrator: %s", task, error)
