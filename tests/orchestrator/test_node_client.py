"""The node client: joins, applies, persists, acknowledges, refuses, and runs on without an orchestrator."""

import logging
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing

from orchestrator.contract import client, renewal, way
from orchestrator.contract.backoff import Backoff
from orchestrator.contract.client import SnapshotRefused, run_agent
from orchestrator.contract.join import JoinFailed, join
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.operator import DrainRequest
from orchestrator.contract.report import Report, Status
from orchestrator.contract.snapshot import SNAPSHOT, Snapshot
from orchestrator.contract.state_directory import NotJoined, SnapshotUnreadable, StateDirectory
from orchestrator.fleet.control import Control
from tests.orchestrator.fleets import PLATFORM, files, proxy_status
from tests.orchestrator.held_relay import between
from tests.orchestrator.live_orchestrator import LiveOrchestrator, create

PROXY = AgentIdentity(node="proxy-1", role=AgentRole.PROXY)


@dataclass
class Recorder:
    """The smallest agent: remembers what it was given, refuses what it is told to."""

    refuse: Callable[[Snapshot], str | None] = lambda _snapshot: None
    fail: bool = False
    applied: list[Snapshot] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def apply(self, snapshot: Snapshot) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await trio.lowlevel.checkpoint()
        self.at_once -= 1
        if self.fail:
            raise RuntimeError("a bug of the agent")
        if reason := self.refuse(snapshot):
            raise SnapshotRefused(reason)
        self.applied.append(snapshot)

    async def status(self) -> Status:
        return proxy_status()


@asynccontextmanager
async def agent_running(
    agent: Recorder, state: StateDirectory, ready: Callable[[], None] | None = None
) -> AsyncIterator[None]:
    async def run() -> None:
        await run_agent(agent, state=state, ready=ready)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Waits for what other tasks and threads bring about, and nobody announces."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


def reported(control: Control) -> Report | None:
    return control.board.last("proxy-1", AgentRole.PROXY)


async def until_acknowledged(control: Control, version: int) -> None:
    """Until the agent has reported that it runs this version."""
    await until(lambda: (report := reported(control)) is not None and report.applied_version == version)


@pytest.fixture
async def live(tmp_path: Path) -> LiveOrchestrator:
    return await create(tmp_path)


async def test_an_agent_applies_persists_and_acknowledges(live: LiveOrchestrator) -> None:
    agent, ready = Recorder(), trio.Event()
    async with live.running() as control:
        state = await live.joined(control, "proxy-1", AgentRole.PROXY)
        async with agent_running(agent, state, ready.set):
            await control.apply(files())
            with trio.fail_after(5):
                await ready.wait()
            await until_acknowledged(control, 1)
            await control.start_drain("proxy-1", DrainRequest())
            await until_acknowledged(control, 2)
    assert [snapshot.version for snapshot in agent.applied] == [1, 2]
    assert agent.most_at_once == 1
    assert state.load_snapshot() == agent.applied[-1]
    for file in (state.snapshot_file, state.key_file, state.identity_file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700


async def test_an_agent_starts_from_disk_with_the_orchestrator_gone_and_catches_up(live: LiveOrchestrator) -> None:
    async with live.running() as control:
        state = await live.joined(control, "proxy-1", AgentRole.PROXY)
        await control.apply(files())
        first = Recorder()
        async with agent_running(first, state):
            await until(lambda: state.snapshot_file.exists())
    second, ready = Recorder(), trio.Event()
    async with agent_running(second, state, ready.set):
        with trio.fail_after(5):
            await ready.wait()
        assert second.applied == first.applied
        async with live.running() as control:
            await control.start_drain("proxy-1", DrainRequest())
            await until(lambda: len(second.applied) == 2)
            await until_acknowledged(control, 2)


async def test_a_snapshot_equal_but_for_its_version_is_acknowledged_without_an_apply(live: LiveOrchestrator) -> None:
    agent = Recorder()
    async with live.running() as control:
        state = await live.joined(control, "proxy-1", AgentRole.PROXY)
        await control.apply(files())
        async with agent_running(agent, state):
            await until(lambda: len(agent.applied) == 1)
            await control.start_drain("proxy-2", DrainRequest())
            await until_acknowledged(control, 2)
            assert len(agent.applied) == 1
    restored = state.load_snapshot()
    assert restored is not None
    assert restored.version == 2


@pytest.mark.parametrize("fail", [False, True], ids=["refused", "bug"])
async def test_a_refused_snapshot_leaves_the_old_one_and_is_reported(live: LiveOrchestrator, fail: bool) -> None:
    agent = Recorder(refuse=lambda snapshot: "port 443 is taken" if snapshot.version == 2 and not fail else None)
    async with live.running() as control:
        state = await live.joined(control, "proxy-1", AgentRole.PROXY)
        await control.apply(files())
        async with agent_running(agent, state):
            await until(lambda: len(agent.applied) == 1)
            agent.fail = fail
            await control.start_drain("proxy-1", DrainRequest())
            await until(lambda: (report := reported(control)) is not None and report.nack is not None)
            report = reported(control)
            assert report is not None
            assert report.nack is not None
            assert (report.applied_version, report.nack.version) == (1, 2)
            assert ("port 443 is taken" if not fail else "a bug of the agent") in report.nack.reason
            on_disk = state.load_snapshot()
            assert on_disk is not None
            assert on_disk.version == 1
            agent.fail = False
            await control.cancel_drain("proxy-1")
            await until_acknowledged(control, 3)
            assert (last := reported(control)) is not None
            assert last.nack is None


async def test_an_older_snapshot_is_refused_until_the_restored_orchestrator_has_passed_it(
    live: LiveOrchestrator,
) -> None:
    agent = Recorder()
    async with live.running() as control:
        state = await live.joined(control, "proxy-1", AgentRole.PROXY)
        await control.apply(files())
        async with agent_running(agent, state):
            await until(lambda: len(agent.applied) == 1)
    ahead = agent.applied[0].model_copy(update={"version": 40})
    state.save_snapshot(ahead)
    again = Recorder()
    async with live.running() as control, agent_running(again, state):
        await until_acknowledged(control, 41)
        assert control.present.fleet.revision == 41
    assert [snapshot.version for snapshot in again.applied] == [40]


async def test_a_corrupt_snapshot_is_said_and_ignored(live: LiveOrchestrator, caplog: pytest.LogCaptureFixture) -> None:
    async with live.running() as control:
        state = await live.joined(control, "proxy-1", AgentRole.PROXY)
        state.snapshot_file.write_text('{"role": "proxy", "version": 1')
        with pytest.raises(SnapshotUnreadable, match=r"snapshot\.json"):
            state.load_snapshot()
        await control.apply(files())
        agent = Recorder()
        with caplog.at_level(logging.ERROR):
            async with agent_running(agent, state):
                await until(lambda: len(agent.applied) == 1)
    assert "snapshot on disk ignored" in caplog.text


async def test_a_snapshot_for_another_agent_is_not_applied(live: LiveOrchestrator) -> None:
    async with live.running() as control:
        await control.apply(files())
        state = await live.joined(control, "proxy-1", AgentRole.PROXY)
        other = await live.joined(control, "proxy-2", AgentRole.REDIRECTOR)
        snapshot = await control.next_snapshot(other.identity(), 0, 1)
    assert snapshot is not None
    state.save_snapshot(SNAPSHOT.validate_json(snapshot))
    agent = Recorder()
    async with agent_running(agent, state):
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert agent.applied == []


async def test_the_client_finds_the_second_orchestrator_when_the_first_is_dead(live: LiveOrchestrator) -> None:
    async with live.running() as control:
        state = await live.joined(control, "proxy-1", AgentRole.PROXY)
        enrolment = state.enrolment()
        state.identity_file.write_text(
            enrolment.model_copy(update={"endpoints": ("https://127.0.0.1:1", *enrolment.endpoints)}).model_dump_json()
        )
        await control.apply(files())
        agent = Recorder()
        async with agent_running(agent, state):
            await until(lambda: len(agent.applied) == 1)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that reports tell of the way is known sooner."""
    monkeypatch.setattr(client, "REPORT_INTERVAL_S", 0.1)
    monkeypatch.setattr(client, "PROMPT_S", 1.0)
    monkeypatch.setattr(way, "LATE_S", 0.2)


@pytest.mark.parametrize("held_s", [0.6, 2.5], ids=["reports are late", "reports fail"])
async def test_what_waited_in_the_network_is_not_applied_if_there_is_something_newer(
    live: LiveOrchestrator, hasty: None, held_s: float
) -> None:
    """A snapshot that says of others what was true before the way broke would take their flows away."""
    agent = Recorder()
    async with live.running() as control:
        state = await live.joined(control, "proxy-1", AgentRole.PROXY)
        await control.apply(files())
        async with between(state) as relay, agent_running(agent, state):
            await until_acknowledged(control, 1)
            relay.hold()
            await control.start_drain("proxy-1", DrainRequest())
            await trio.sleep(held_s)
            await control.undrain("proxy-1")
            newest = control.present.fleet.revision
            assert newest > 2
            relay.release()
            await until_acknowledged(control, newest)
    assert 2 not in [snapshot.version for snapshot in agent.applied]


async def test_a_poll_that_hangs_is_made_anew_as_soon_as_reports_are_answered_again(
    live: LiveOrchestrator, hasty: None
) -> None:
    """TCP would send its answer again after a minute or two."""
    agent = Recorder()
    async with live.running() as control:
        state = await live.joined(control, "proxy-1", AgentRole.PROXY)
        await control.apply(files())
        async with between(state) as relay, agent_running(agent, state):
            await until_acknowledged(control, 1)
            relay.hold()
            await control.start_drain("proxy-1", DrainRequest())
            await trio.sleep(2.5)
            relay.release(old_ones=False)
            await until_acknowledged(control, 2)


async def test_no_secret_is_logged(live: LiveOrchestrator, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with live.running() as control:
            token, _ = await control.issue_token(PROXY, 60)
            token_file = live.scratch / "token"
            token_file.write_text(str(token))
            state = StateDirectory(live.scratch / "agent")
            await join(state, orchestrator=live.url, token_file=token_file, node="proxy-1", role=AgentRole.PROXY)
            await control.apply(files())
            agent = Recorder()
            async with agent_running(agent, state):
                await until(lambda: len(agent.applied) == 1)
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("orchestrator"))
    assert "joined" in ours
    assert token.secret not in caplog.text
    assert "PRIVATE KEY" not in caplog.text
    assert "BEGIN CERTIFICATE" not in ours


async def test_joining_twice_does_nothing_and_as_another_is_refused(live: LiveOrchestrator) -> None:
    async with live.running() as control:
        state = await live.joined(control, "proxy-1", AgentRole.PROXY)
    key = state.key_file.read_bytes()
    gone = live.scratch / "no-such-token"
    again = await join(state, orchestrator=live.url, token_file=gone, node="proxy-1", role=AgentRole.PROXY)
    assert again == PROXY
    assert state.key_file.read_bytes() == key
    with pytest.raises(JoinFailed, match="belongs to proxy-1/proxy"):
        await join(state, orchestrator=live.url, token_file=gone, node="proxy-2", role=AgentRole.PROXY)


async def test_a_token_of_another_fleet_sends_nothing_to_this_one(live: LiveOrchestrator, tmp_path: Path) -> None:
    """The CA is not the one that the token pins: the secret must not leave the node."""
    other = await create(tmp_path / "other")
    async with other.running() as control:
        foreign, _ = await control.issue_token(PROXY, 60)
    token_file = tmp_path / "token"
    token_file.write_text(str(foreign))
    state = StateDirectory(tmp_path / "agent")
    async with live.running():
        with pytest.raises(JoinFailed, match="not the one that the token names") as failure:
            await join(state, orchestrator=live.url, token_file=token_file, node="proxy-1", role=AgentRole.PROXY)
    assert foreign.secret not in str(failure.value)
    assert not state.is_joined()


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "write the join token there"), ("", "not a join token"), ("ef1.abc.def", "not a join token")],
)
async def test_a_token_file_that_is_none(tmp_path: Path, text: str | None, words: str) -> None:
    token_file = tmp_path / "token"
    if text is not None:
        token_file.write_text(text)
    with pytest.raises(JoinFailed, match=words):
        await join(
            StateDirectory(tmp_path / "agent"),
            orchestrator="https://127.0.0.1:1",
            token_file=token_file,
            node="proxy-1",
            role=AgentRole.PROXY,
        )


async def test_a_refusal_by_the_orchestrator_reaches_the_operator_in_words(live: LiveOrchestrator) -> None:
    async with live.running() as control:
        token, _ = await control.issue_token(PROXY, -5)
        token_file = live.scratch / "token"
        token_file.write_text(str(token))
        with pytest.raises(JoinFailed, match=r"expired .* \[token_expired\] \(make a new one"):
            await join(
                StateDirectory(live.scratch / "agent"),
                orchestrator=live.url,
                token_file=token_file,
                node="proxy-1",
                role=AgentRole.PROXY,
            )


async def test_a_certificate_is_renewed_with_the_same_key(live: LiveOrchestrator) -> None:
    async with live.running() as control:
        await control.apply(files(PLATFORM))
        state = await live.joined(control, "proxy-1", AgentRole.PROXY)
        before, key = state.certificate(), state.key_file.read_bytes()
        await renewal.renew(state)
        after = state.certificate()
        assert after.serial_number != before.serial_number
        assert state.key_file.read_bytes() == key
        async with live.agent_client(state) as agent:
            assert (await agent.get("/v1/node/snapshot")).status_code == 200
    now = datetime.now(UTC)
    assert not renewal.is_due(after, now)
    assert renewal.is_due(after, now + timedelta(days=61))


def test_not_joined_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotJoined, match="--orchestrator, --token-file and --node"):
        StateDirectory(tmp_path).identity()


def test_waits_grow_to_a_bound_and_never_keep_step() -> None:
    backoff = Backoff(first_s=0.25, longest_s=5)
    waits = [backoff.next_wait_s() for _ in range(100)]
    assert all(0.125 <= wait <= 5 for wait in waits)
    assert min(waits[10:]) >= 2.5
    assert len(set(waits)) > 90
    backoff.reset()
    assert backoff.next_wait_s() <= 0.25
