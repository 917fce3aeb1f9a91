"""A real orchestrator on loopback: real store, real TLS, real HTTP. No process of its own, so that it is quick."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import trio

from orchestrator.api.server import open_socket, serve_api
from orchestrator.contract.connection import verified_context
from orchestrator.contract.join import join
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.state_directory import StateDirectory
from orchestrator.data_directory import DataDirectory, initialise
from orchestrator.fleet.authority import utc_now
from orchestrator.fleet.control import Control
from orchestrator.fleet.ledger import open_ledger
from orchestrator.fleet.reports import ReportBoard


@dataclass
class LiveOrchestrator:
    """While `running`, it answers at `url`; `port` stays the same from one run to the next."""

    data: DataDirectory
    operator: Path
    scratch: Path
    port: int = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Control]:
        store = self.data.open_store()
        control = Control(store, await open_ledger(store), self.data.authority(), ReportBoard(trio.current_time))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(control.run)
                self.port = await nursery.start(self._serve, control)
                yield control
                nursery.cancel_scope.cancel()
        finally:
            store.close()

    async def _serve(self, control: Control, task_status: trio.TaskStatus[int]) -> None:
        async with trio.open_nursery() as nursery:

            async def listen(task_status: trio.TaskStatus[list[str]]) -> None:
                await serve_api(
                    control,
                    [open_socket(f"127.0.0.1:{self.port}")],
                    ca_file=self.data.ca_file,
                    certificate_file=self.data.certificate_file,
                    key_file=self.data.key_file,
                    task_status=task_status,
                )

            urls = await nursery.start(listen)
            task_status.started(urlsplit(urls[0]).port or 0)

    def client(self, certificate: tuple[Path, Path] | None = None) -> httpx2.AsyncClient:
        """HTTPS that trusts the fleet's CA."""
        pair = (str(certificate[0]), str(certificate[1])) if certificate else None
        return self._client(verified_context(str(self.data.ca_file), certificate=pair))

    def _client(self, context: ssl.SSLContext) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.url, verify=context, trust_env=False)

    def operator_client(self) -> httpx2.AsyncClient:
        return self.client((self.operator / "operator.pem", self.operator / "operator.key"))

    def agent_client(self, state: StateDirectory) -> httpx2.AsyncClient:
        return self.client((state.certificate_file, state.key_file))

    async def joined(self, control: Control, node: str, role: AgentRole) -> StateDirectory:
        """The state directory of an agent that has joined."""
        token, _ = await control.issue_token(AgentIdentity(node=node, role=role), 60)
        token_file = self.scratch / f"{node}-{role}.token"
        await trio.Path(token_file).write_text(f"{token}\n")
        state = StateDirectory(self.scratch / f"{node}-{role}")
        await join(state, orchestrator=self.url, token_file=token_file, node=node, role=role)
        return state


async def create(directory: Path) -> LiveOrchestrator:
    live = LiveOrchestrator(DataDirectory(directory / "data"), directory / "operator", directory)
    await initialise(live.data, live.operator, [ip_address("127.0.0.1")], [], 7443, utc_now())
    return live
