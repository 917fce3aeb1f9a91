"""A real orchestrator on loopback, and agents that join, acknowledge and report as told: a fleet for `edgectl`."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from orchestrator.contract import client
from orchestrator.contract.client import run_agent
from orchestrator.contract.connection import Connection, verified_context
from orchestrator.contract.join import join
from orchestrator.contract.node import ROLES_OF_KIND, AgentRole, Announcement, NodeKind
from orchestrator.contract.operator import TOKENS, TokenAnswer, TokenRequest
from orchestrator.contract.report import (
    BalancerStatus,
    PoolCensus,
    Status,
    TableStatus,
)
from orchestrator.contract.respondent import Respondent
from orchestrator.contract.snapshot import BalancerSnapshot, RedirectorSnapshot, Snapshot
from orchestrator.contract.state_directory import StateDirectory
from tests.orchestrator.fleets import PLATFORM, files, proxy_status, redirector_status

NODES = {
    "l4-1": NodeKind.L4,
    "l4-2": NodeKind.L4,
    "proxy-1": NodeKind.PROXY,
    "proxy-2": NodeKind.PROXY,
    "proxy-3": NodeKind.PROXY,
}
#: Seconds between two reports, so that tests wait for little.
REPORT_INTERVAL_S = 0.1

PROGRAM = Path(sys.executable).parent / "edge-orchestrator"


@dataclass
class ReportingAgent:
    """Applies everything, and reports what the fleet is told to."""

    node: str
    role: AgentRole
    fleet: "LiveFleet"
    snapshot: Snapshot | None = None

    async def apply(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    async def status(self) -> Status:
        flows = self.fleet.open_flows.get(self.node, 0)
        match self.role:
            case AgentRole.BALANCER:
                snapshot = self.snapshot if isinstance(self.snapshot, BalancerSnapshot) else None
                pools = snapshot.pools if snapshot else ()
                return BalancerStatus(
                    interface="eth0",
                    xdp_mode="native",
                    announced=tuple(vip.name for vip in snapshot.vips) if snapshot else (),
                    withheld={},
                    announcement=snapshot.announcement if snapshot else Announcement.NORMAL,
                    forwarded=self.fleet.forwarded.get(self.node, 0),
                    tables=tuple(table(pool.name, *(one.number for one in pool.generations)) for pool in pools),
                    counters={},
                )
            case AgentRole.REDIRECTOR:
                pools = self.snapshot.pools if isinstance(self.snapshot, RedirectorSnapshot) else ()
                return redirector_status(
                    *(
                        PoolCensus(pool=pool.name, newest_generation=pool.generations[0].number, flows=flows, needed={})
                        for pool in pools
                    ),
                    attached=self.node not in self.fleet.detached,
                )
            case AgentRole.PROXY:
                restarted = self.fleet.restarted.get(self.node, {})
                return proxy_status(flows).model_copy(update=restarted)


def table(pool: str, *generations: int) -> TableStatus:
    return TableStatus(
        pool=pool,
        generations=generations,
        rows=101,
        digest="ab" * 32,
        rows_of_member={1: 34, 2: 33, 3: 34},
        chain_lengths=(0, 101, 0, 0, 0),
        overflowed_rows=0,
    )


@dataclass
class LiveFleet:
    """The fleet, its operator's directory, and what its agents report."""

    directory: Path
    port: int
    open_flows: dict[str, int] = field(default_factory=dict)
    """Node → flows that its agents report from now on."""
    respondent: Callable[[str, AgentRole], Respondent | None] = lambda _node, _role: None
    """Who answers inquiries to an agent; asked once, when the agent starts."""
    forwarded: dict[str, int] = field(default_factory=dict)
    """L4 node → packets that it reports from now on to have forwarded."""
    detached: set[str] = field(default_factory=set)
    """Nodes whose redirectors report from now on that their program is not attached."""

    restarted: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Proxy → what it reports from now on of its incarnations."""

    @property
    def operator(self) -> Path:
        return self.directory / "operator"

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def configuration(self) -> Path:
        return self.directory / "configuration"


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def run_program(*arguments: object) -> str:
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


def write_configuration(directory: Path) -> None:
    bgp = "bgp: {asn: 64602, neighbors: [{address: 198.18.1.1, asn: 64600}]}"
    platform = PLATFORM.replace("198.18.1.12}", f"198.18.1.12, {bgp}}}")
    for name, text in files(platform).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@contextmanager
def orchestrator(directory: Path) -> Iterator[LiveFleet]:
    """A new fleet's orchestrator, as a process; nothing configured, nobody joined."""
    fleet = LiveFleet(directory, free_port())
    data = directory / "data"
    run_program("init", "--data", data, "--operator", fleet.operator, "--address", "127.0.0.1", "--port", fleet.port)
    write_configuration(fleet.configuration)
    log = directory / "orchestrator.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [PROGRAM, "run", "--data", data, "--listen", f"127.0.0.1:{fleet.port}"], stderr=stderr
        )
    try:
        _await_port(fleet.port, process, log)
        yield fleet
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def _await_port(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(400):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        threading.Event().wait(0.05)
    raise AssertionError(f"the orchestrator did not come up: {log.read_text()}")


@contextmanager
def agents(fleet: LiveFleet) -> Iterator[None]:
    """Every agent of the fleet joins by a token and reports, in a thread of its own; more often than in service."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "REPORT_INTERVAL_S", REPORT_INTERVAL_S)
        yield from _agents(fleet)


def _agents(fleet: LiveFleet) -> Iterator[None]:
    up = threading.Event()
    token: list[trio.lowlevel.TrioToken] = []
    scope = trio.CancelScope()
    failure: list[BaseException] = []

    async def run() -> None:
        token.append(trio.lowlevel.current_trio_token())
        with scope:
            async with trio.open_nursery() as nursery:
                for node, kind in NODES.items():
                    for role in ROLES_OF_KIND[kind]:
                        nursery.start_soon(_join_and_run, fleet, node, role)
                up.set()

    def thread() -> None:
        try:
            trio.run(run)
        except BaseException as error:
            failure.append(error)
        finally:
            up.set()

    runner = threading.Thread(target=thread)
    runner.start()
    up.wait()
    try:
        yield
    finally:
        with suppress(trio.RunFinishedError):  # they ended by themselves: `failure` says why
            trio.from_thread.run_sync(scope.cancel, trio_token=token[0])
        runner.join()
        if failure:
            raise failure[0]


async def _join_and_run(fleet: LiveFleet, node: str, role: AgentRole) -> None:
    state = StateDirectory(fleet.directory / f"{node}-{role}")
    token_file = fleet.directory / f"{node}-{role}.token"
    token_file.touch(0o600)
    token_file.write_text(await _issue_token(fleet, node, role))
    await join(state, orchestrator=fleet.endpoint, token_file=token_file, node=node, role=role)
    await run_agent(ReportingAgent(node, role, fleet), state=state, respondent=fleet.respondent(node, role))


async def _issue_token(fleet: LiveFleet, node: str, role: AgentRole) -> str:
    certificate = (str(fleet.operator / "operator.pem"), str(fleet.operator / "operator.key"))
    context = verified_context(str(fleet.operator / "ca.pem"), certificate=certificate)
    async with Connection((fleet.endpoint,), context, max_answer_bytes=65536) as connection:
        answer = await connection.request("POST", TOKENS, body=TokenRequest(node=node, role=role).model_dump_json())
    return TokenAnswer.model_validate_json(answer.body).token
