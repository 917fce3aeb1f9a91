"""Several certificates for one name: each client gets one that it understands."""

import socket
import ssl
from datetime import timedelta

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from l7.proxy import EditionRefused
from l7.supervisor import Supervisor
from l7.telemetry.certificates import ends_by_host
from orchestrator.contract.route import Certificate, KeyKind
from tests.l7.authorities import Authority, Issued
from tests.l7.live_proxy import HOST, Live, LiveBackend, make_snapshot, running_proxy, self_signed

CA = Authority()


def certificate(kind: KeyKind, *names: str, ends_in: timedelta = timedelta(days=1)) -> Certificate:
    issued: Issued = CA.issue(
        names[0],
        *map(x509.DNSName, names),
        for_clients=False,
        use_rsa=kind is KeyKind.RSA,
        ends_in=ends_in,
    )
    return Certificate(hosts=names, chain_pem=issued.chain_pem, key_pem=issued.key_pem, kind=kind)


def shown_to(live: Live, ciphers: str) -> KeyKind:
    """The kind of key in the certificate that a TLS 1.2 client with these ciphers is shown."""
    context = ssl.create_default_context(cadata=CA.pem)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    with (
        socket.create_connection(live.address, timeout=10) as sock,
        context.wrap_socket(sock, server_hostname=HOST) as connection,
    ):
        leaf = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
    return KeyKind.RSA if isinstance(leaf.public_key(), rsa.RSAPublicKey) else KeyKind.ECDSA


@pytest.mark.parametrize("order", [(KeyKind.ECDSA, KeyKind.RSA), (KeyKind.RSA, KeyKind.ECDSA)])
async def test_each_client_gets_the_kind_that_it_understands(order: tuple[KeyKind, KeyKind]) -> None:
    async with running_proxy(LiveBackend(), certificate=self_signed(HOST)) as live:
        await live.change(certificates=tuple(certificate(kind, HOST) for kind in order))
        for ciphers, kind in (("aECDSA", KeyKind.ECDSA), ("aRSA", KeyKind.RSA), ("aECDSA:aRSA", KeyKind.ECDSA)):
            assert await trio.to_thread.run_sync(shown_to, live, ciphers) is kind


async def test_a_connection_is_good_for_hosts_of_all_its_certificates_alone() -> None:
    async with running_proxy(LiveBackend(), certificate=self_signed(HOST)) as live:
        both = (certificate(KeyKind.ECDSA, HOST, "a.example.com"), certificate(KeyKind.RSA, HOST, "b.example.com"))
        await live.change(certificates=both)
        cover = live.proxy.tls.certificates.find(HOST)
        assert cover is not None
        assert cover.cover is not None
        assert [cover.cover.covers(name) for name in (b"www.example.com", b"a.example.com", b"b.example.com")] == [
            True,
            False,
            False,
        ]


async def test_two_of_one_kind_are_refused() -> None:
    async with running_proxy(LiveBackend(), certificate=self_signed(HOST)) as live:
        with pytest.raises(EditionRefused, match=r"www\.example\.com: two with a key of the same kind"):
            await live.change(certificates=(certificate(KeyKind.RSA, HOST), certificate(KeyKind.RSA, HOST)))


def test_the_earliest_end_is_told() -> None:
    late, early = certificate(KeyKind.RSA, HOST), certificate(KeyKind.ECDSA, HOST, ends_in=timedelta(hours=1))
    assert ends_by_host((late, early)) == ends_by_host((early, late)) == ends_by_host((early,))
    assert ends_by_host((late,))[HOST] - ends_by_host((early,))[HOST] == pytest.approx(23 * 3600, abs=60)


def test_metrics_tell_when_certificates_end() -> None:
    supervisor = Supervisor(workers=1)
    one = certificate(KeyKind.ECDSA, HOST, "*.shop.example")
    supervisor.snapshot = make_snapshot([LiveBackend(port=1)], ("127.0.0.1", 443), one)
    end = ends_by_host((one,))[HOST]
    lines = supervisor.metrics().splitlines()
    for host in (HOST, "*.shop.example"):
        assert f'edge_l7_certificate_not_after_seconds{{host="{host}"}} {end}' in lines
