"""Session tickets: good on every worker and proxy, over a rotation, and no longer than their keys."""

import gc
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from l7.tls_tickets import Tickets, random_keys
from orchestrator.contract.ticket import TicketKey, TicketKeys
from tests.l7.live_proxy import HOST, Live, LiveBackend, get, running_proxy, self_signed, trusting

OTHER = "shop.example.com"
CERTIFICATE = self_signed(HOST)
OTHERS = self_signed(OTHER)

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def key() -> TicketKey:
    return random_keys().issuing


@asynccontextmanager
async def proxy(keys: TicketKeys | None) -> AsyncIterator[Live]:
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live:
        await live.change(ticket_keys=keys, certificates=(CERTIFICATE, OTHERS))
        yield live


class Client:
    """Comes back with the session that it was given last."""

    def __init__(self, version: ssl.TLSVersion) -> None:
        self._context = trusting(CERTIFICATE)
        self._context.load_verify_locations(cadata=OTHERS.chain_pem)
        self._context.minimum_version = self._context.maximum_version = version
        self.session: ssl.SSLSession | None = None

    async def visit(self, live: Live, name: str = HOST) -> bool:
        """One request; whether the session was resumed. Keeps the new one."""
        return await trio.to_thread.run_sync(partial(self._visit, live, name))

    def _visit(self, live: Live, name: str) -> bool:
        with (
            socket.create_connection(live.address, timeout=10) as sock,
            self._context.wrap_socket(sock, server_hostname=name, session=self.session) as connection,
        ):
            connection.sendall(get(host=name))
            connection.recv(1000)  # TLS 1.3: the tickets come before it
            self.session = connection.session
            return bool(connection.session_reused)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_session_is_resumed_on_another_proxy_that_has_the_keys(version: ssl.TLSVersion) -> None:
    keys, client = random_keys(), Client(version)
    async with proxy(keys) as one, proxy(keys) as two, proxy(random_keys()) as stranger:
        assert not await client.visit(one)
        assert await client.visit(two)
        assert await client.visit(one)
        assert two.proxy.totals()['tls_handshakes{kind="resumed"}'] == 1
        assert not await client.visit(stranger)
        assert stranger.proxy.totals()["tls_tickets_unknown"] == 1


async def test_each_resumption_in_tls13_brings_the_next_ticket() -> None:
    """Clients use a ticket once (RFC 8446 appendix C.4): without another, each second visit would be a full one."""
    client = Client(ssl.TLSVersion.TLSv1_3)
    async with proxy(random_keys()) as live:
        assert not await client.visit(live)
        seen = [client.session]
        for _ in range(3):
            assert await client.visit(live)
            assert client.session not in seen
            seen.append(client.session)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_session_outlives_one_rotation_and_is_sealed_anew(version: ssl.TLSVersion) -> None:
    old, new, newest = key(), key(), key()
    client = Client(version)
    async with proxy(TicketKeys(issuing=old, accepting=(new,))) as one:
        assert not await client.visit(one)
        before = client.session
        await one.change(ticket_keys=TicketKeys(issuing=new, accepting=(newest, old)))
        assert await client.visit(one)
        # What it holds now is under the new key: the old one may go.
        await one.change(ticket_keys=TicketKeys(issuing=newest, accepting=(new,)))
        assert await client.visit(one)
        client.session = before
        assert not await client.visit(one)


async def test_a_proxy_takes_tickets_of_one_that_has_rotated_earlier() -> None:
    old, new = key(), key()
    client = Client(ssl.TLSVersion.TLSv1_3)
    rotated = TicketKeys(issuing=new, accepting=(key(), old))
    async with proxy(rotated) as early, proxy(TicketKeys(issuing=old, accepting=(new,))) as late:
        assert not await client.visit(early)
        assert await client.visit(late)


async def test_a_renewed_certificate_ends_no_session() -> None:
    client = Client(ssl.TLSVersion.TLSv1_3)
    async with proxy(random_keys()) as live:
        assert not await client.visit(live)
        await live.change(certificates=(self_signed(HOST),))
        assert await client.visit(live)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_session_of_one_host_is_not_good_for_another(version: ssl.TLSVersion) -> None:
    client = Client(version)
    async with proxy(random_keys()) as live:
        assert not await client.visit(live)
        client._context.check_hostname = False
        assert not await client.visit(live, OTHER)


async def test_without_keys_of_the_fleet_a_worker_has_its_own() -> None:
    client = Client(ssl.TLSVersion.TLSv1_3)
    async with proxy(None) as one, proxy(None) as two:
        assert not await client.visit(one)
        assert await client.visit(one)
        assert not await client.visit(two)


async def test_keys_that_are_gone_leave_handshakes_intact() -> None:
    """Contexts outlive tables and keys: nothing that OpenSSL calls may be collected under it."""
    client = Client(ssl.TLSVersion.TLSv1_3)
    async with proxy(random_keys()) as live:
        for _ in range(5):
            await live.change(ticket_keys=random_keys(), certificates=(CERTIFICATE, self_signed(OTHER)))
            gc.collect()
            assert not await client.visit(live)
            assert await client.visit(live)


def test_keys_show_their_names_and_no_more() -> None:
    keys = random_keys()
    tickets = Tickets(keys)
    for text in (repr(tickets), repr(keys), str(keys), repr(tickets._issuing)):
        assert keys.issuing.secret[:8] not in text


def test_a_key_that_is_no_longer_used_is_wiped() -> None:
    tickets = Tickets()
    before = tickets._issuing
    assert any(before._secret.raw)
    tickets.use(random_keys())
    assert not any(before._secret.raw)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_s_client_resumes_as_well(version: str, tmp_path: Path) -> None:
    keys = random_keys()

    async def visit(live: Live, *options: str) -> str:
        command = ["openssl", "s_client", "-connect", f"{live.address[0]}:{live.address[1]}", "-servername", HOST]
        with trio.fail_after(20):
            done = await trio.run_process(
                [*command, version, "-ign_eof", *options],
                stdin=get(close=True),
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        return done.stdout.decode()

    session = str(tmp_path / "session")
    async with proxy(keys) as one, proxy(keys) as two:
        assert "\nNew, TLS" in await visit(one, "-sess_out", session)
        assert "\nReused, TLS" in await visit(two, "-sess_in", session)
