"""Client certificates by host: who shows none, or a wrong one, gets nowhere, whichever name a connection began with."""

import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from l7.client_identity import ClientIdentity
from l7.proxy import EditionRefused
from orchestrator.contract.route import ClientCertificatePolicy
from tests.l7.authorities import Authority, Issued
from tests.l7.live_proxy import HOST, Live, LiveBackend, get, read_response, running_proxy, self_signed, trusting
from tests.l7.test_tls_termination import handshake

OPEN, GUARDED, ALIKE = HOST, "pay.example.com", "books.example.com"
#: One certificate for all, so that the cover of the certificate refuses nothing.
CERTIFICATE = self_signed(OPEN, GUARDED, ALIKE, "*.teams.example.com")
CA = Authority()
ALICE = CA.issue("alice", x509.DNSName("Alice.example"), x509.UniformResourceIdentifier("spiffe://example/alice"))
POLICY = ClientCertificatePolicy(ca_pem=CA.pem)


@asynccontextmanager
async def guarded_proxy(
    policy: ClientCertificatePolicy = POLICY, *, access_log: Path | None = None
) -> AsyncIterator[tuple[Live, LiveBackend]]:
    backend = LiveBackend()
    async with running_proxy(backend, certificate=CERTIFICATE, access_log=access_log) as live:
        (host,) = live.snapshot.hosts
        guarded = {"client_certificate": policy}
        await live.change(
            hosts=(
                host,
                host.model_copy(update={"name": GUARDED, **guarded}),
                host.model_copy(update={"name": ALIKE, **guarded}),
                host.model_copy(update={"name": "*.teams.example.com", **guarded}),
                host.model_copy(update={"name": "open.teams.example.com"}),
            )
        )
        yield live, backend


def client(certificate: Issued | None = None) -> ssl.SSLContext:
    context = trusting(CERTIFICATE)
    return context if certificate is None else certificate.show(context)


async def ask(live: Live, context: ssl.SSLContext, name: str, *, host: str | None = None) -> int:
    """Status of the answer; 0 if the connection came to nothing."""
    try:
        stream = await handshake(live, context, name)
        await stream.send_all(get(host=host or name))
        head, _ = await read_response(stream)
        await stream.aclose()
    except (trio.BrokenResourceError, AssertionError):
        return 0
    return int(head.split()[1])


async def failures(live: Live) -> dict[str, int]:
    found = {key: value for key, value in live.proxy.totals().items() if key.startswith("tls_handshakes_failed")}
    return {key.split('"')[1]: value for key, value in found.items()}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_host_that_requires_certificates_serves_nobody_without(version: ssl.TLSVersion) -> None:
    without, with_one = client(), client(ALICE)
    without.maximum_version = with_one.maximum_version = version
    async with guarded_proxy() as (live, backend):
        assert await ask(live, without, GUARDED) == 0
        assert await ask(live, without, "a.teams.example.com") == 0
        assert backend.requests == []
        assert await failures(live) == {"client_certificate_missing": 2}
        assert await ask(live, with_one, GUARDED) == 200
        assert await ask(live, without, OPEN) == 200


async def test_the_exact_host_decides_and_not_the_wildcard() -> None:
    async with guarded_proxy() as (live, _):
        assert await ask(live, client(), "open.teams.example.com") == 200
        assert await ask(live, client(ALICE), "open.teams.example.com", host="a.teams.example.com") == 421


async def test_a_connection_for_one_host_is_good_for_hosts_of_the_same_policy_alone() -> None:
    async with guarded_proxy() as (live, backend):
        assert await ask(live, client(), OPEN, host=GUARDED) == 421
        assert await ask(live, client(ALICE), OPEN, host=GUARDED) == 421
        assert await ask(live, client(ALICE), GUARDED, host=OPEN) == 421
        assert backend.requests == []
        assert await ask(live, client(ALICE), GUARDED, host=ALIKE) == 200


async def test_a_plain_connection_never_reaches_a_guarded_host() -> None:
    async with running_proxy(LiveBackend()) as live:
        (host,) = live.snapshot.hosts
        await live.change(hosts=(host.model_copy(update={"client_certificate": POLICY}),))
        assert (await live.get()).startswith(b"HTTP/1.1 421 ")


async def test_a_session_of_an_open_host_opens_no_guarded_one() -> None:
    context = client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # its session is there after the handshake
    async with guarded_proxy() as (live, backend):
        first = await trio.to_thread.run_sync(blocking_handshake, live, context, OPEN, None)
        again = await trio.to_thread.run_sync(blocking_handshake, live, context, OPEN, first.session)
        assert again.session_reused, "without resumption this test shows nothing"
        with pytest.raises(OSError, match=r"(?i)certificate|handshake"):
            await trio.to_thread.run_sync(blocking_handshake, live, context, GUARDED, first.session)
        assert backend.requests == []
        first.close()
        again.close()


def blocking_handshake(live: Live, context: ssl.SSLContext, name: str, session: ssl.SSLSession | None) -> ssl.SSLSocket:
    sock = socket.create_connection(live.address, timeout=10)
    connection = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False, session=session)
    try:
        connection.do_handshake()
    except OSError:
        connection.close()
        raise
    return connection


async def test_a_session_with_a_certificate_is_not_resumed() -> None:
    """It could be expired by then, or its CA gone, and nobody would look."""
    context = client(ALICE)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with guarded_proxy() as (live, _):
        first = await trio.to_thread.run_sync(blocking_handshake, live, context, GUARDED, None)
        again = await trio.to_thread.run_sync(blocking_handshake, live, context, GUARDED, first.session)
        assert not again.session_reused
        first.close()
        again.close()


WRONG = {
    "expired": CA.issue("late", ends_in=timedelta(hours=-1)),
    "not_yet_valid": CA.issue("early", starts_in=timedelta(hours=1)),
    "untrusted": Authority("Another CA").issue("stranger"),
    "wrong_purpose": CA.issue("a server", for_clients=False),
}


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("reason", WRONG)
async def test_a_wrong_certificate_is_refused_and_counted_by_reason(reason: str, required: bool) -> None:
    policy = POLICY.model_copy(update={"required": required})
    async with guarded_proxy(policy) as (live, backend):
        assert await ask(live, client(WRONG[reason]), GUARDED) == 0
        assert await failures(live) == {f"client_certificate_{reason}": 1}
        assert backend.requests == []


async def test_the_client_is_told_why() -> None:
    async with guarded_proxy() as (live, _):
        stream = await handshake(live, client(WRONG["expired"]), GUARDED)  # TLS 1.3: the client is done first
        with pytest.raises(trio.BrokenResourceError) as caught, trio.fail_after(5):
            await stream.receive_some(1)
        assert "CERTIFICATE_EXPIRED" in str(caught.value.__cause__)


async def test_a_certificate_may_be_optional() -> None:
    async with guarded_proxy(POLICY.model_copy(update={"required": False})) as (live, backend):
        assert await ask(live, client(), GUARDED) == 200
        assert b"x-forwarded-client-cert" not in backend.requests[-1].head
        assert await ask(live, client(ALICE), GUARDED) == 200
        assert b"x-forwarded-client-cert: Hash=" in backend.requests[-1].head


async def test_only_named_clients_are_let_in_if_names_are_given() -> None:
    policy = POLICY.model_copy(update={"allowed": ("spiffe://example/alice",)})
    async with guarded_proxy(policy) as (live, backend):
        assert await ask(live, client(ALICE), GUARDED) == 200
        bob = CA.issue("alice", x509.UniformResourceIdentifier("spiffe://example/bob"))
        assert await ask(live, client(bob), GUARDED) == 403
        assert len(backend.requests) == 1
        assert live.proxy.totals()['response_flags{flag="UAEX"}'] == 1


async def test_backends_and_the_log_are_told_who_it_is_and_clients_cannot_say_it(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    async with guarded_proxy(access_log=log) as (live, backend):
        for context, name in ((client(ALICE), GUARDED), (client(), OPEN)):
            stream = await handshake(live, context, name)
            forged = b"\r\nX-Forwarded-Client-Cert: Hash=00\r\nClient-Cert: :AA==:\r\nClient-Cert-Chain: :AA==:\r\n"
            await stream.send_all(get(host=name).replace(b"\r\n", forged, 1))
            assert (await read_response(stream))[0].startswith(b"HTTP/1.1 200 ")
            await stream.aclose()
        await live.proxy.log_writer.flush()
    with_one, without = (request.head.lower() for request in backend.requests)
    assert b"client-cert" not in without
    assert with_one.count(b"client-cert") == 1
    expected = f'hash={ALICE.sha256};subject="cn=alice";dns=alice.example;uri=spiffe://example/alice'
    assert f"\r\nx-forwarded-client-cert: {expected}\r\n".encode() in with_one
    logged, anonymous = (json.loads(line) for line in log.read_text().splitlines())
    assert (logged["client_subject"], logged["client_sha256"]) == ("CN=alice", ALICE.sha256)
    assert "client_subject" not in anonymous


@pytest.mark.parametrize("text", ['a"; Hash=1', "a\r\nX-Admin: yes", "a\\", "ü", "a%22", "x" * 60])
def test_no_name_in_a_certificate_ends_its_field(text: str) -> None:
    certificate = CA.issue(text, x509.UniformResourceIdentifier("spiffe://a/;Hash=1,\r\nX-Admin: yes"))
    line = ClientIdentity(certificate.certificate.public_bytes(Encoding.DER)).header
    assert line.endswith(b"\r\n")
    value = line[:-2].decode("ascii")
    assert value.isprintable()
    assert value.count('"') == 2
    assert value.count("Hash=") - value.partition('Subject="')[2].partition('"')[0].count("Hash=") == 1


async def test_a_policy_that_changes_ends_no_connection_but_its_use() -> None:
    async with guarded_proxy() as (live, _):
        stream = await handshake(live, client(), OPEN)
        await stream.send_all(get())
        assert (await read_response(stream))[0].startswith(b"HTTP/1.1 200 ")
        hosts = tuple(host.model_copy(update={"client_certificate": POLICY}) for host in live.snapshot.hosts)
        await live.change(hosts=hosts)
        await stream.send_all(get())
        assert (await read_response(stream))[0].startswith(b"HTTP/1.1 421 ")
        assert await ask(live, client(), OPEN) == 0
        assert await ask(live, client(ALICE), OPEN) == 200


async def test_text_that_is_no_ca_is_refused_by_its_host() -> None:
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live:
        (host,) = live.snapshot.hosts
        nonsense = ClientCertificatePolicy(ca_pem="nonsense")
        with pytest.raises(EditionRefused, match=r"CAs of clients of www\.example\.com"):
            await live.change(hosts=(host.model_copy(update={"client_certificate": nonsense}),))
        assert await ask(live, client(), OPEN) == 200


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
async def test_curl_is_served_with_its_certificate_and_not_without(protocol: str, tmp_path: Path) -> None:
    trusted, shown, key = tmp_path / "ca.pem", tmp_path / "alice.pem", tmp_path / "alice.key"
    trusted.write_text(CERTIFICATE.chain_pem)
    shown.write_text(ALICE.chain_pem)
    key.write_text(ALICE.key_pem)

    async def curl(live: Live, *options: str, host: str = GUARDED) -> str:
        address, port = live.address
        where = ["--resolve", f"{GUARDED}:{port}:{address}", "--cacert", str(trusted), "-H", f"Host: {host}"]
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code} %{http_version}", protocol, *where, *options]
        with trio.fail_after(20):
            done = await trio.run_process([*command, f"https://{GUARDED}:{port}/"], capture_stdout=True, check=False)
        return done.stdout.decode()

    version = "2" if protocol == "--http2" else "1.1"
    as_alice = ("--cert", str(shown), "--key", str(key))
    async with guarded_proxy() as (live, backend):
        assert (await curl(live)).startswith("000 ")
        assert await curl(live, *as_alice) == f"200 {version}"
        forged = ("-H", "X-Forwarded-Client-Cert: Hash=00")
        assert await curl(live, *as_alice, *forged, host=ALIKE) == f"200 {version}"
        assert await curl(live, *as_alice, host=OPEN) == f"421 {version}"
        assert len(backend.requests) == 2
        for request in backend.requests:
            assert request.head.lower().count(b"x-forwarded-client-cert:") == 1
            assert ALICE.sha256.encode() in request.head
