"""TLS termination: which certificates and which rules for which name, and sockets that decrypt on the real descriptor.

TLS 1.2 and 1.3 only, with forward secrecy and AEAD (RFC 9325). A ClientHello whose server name no certificate serves
is refused with `unrecognized_name` (RFC 6066 section 3); so is one without a name: the edge carries many owners'
hosts, and none of them owns "no name".

A context is what a handshake follows: certificates, and which certificate the client must show. Each host has one;
hosts with the same certificates and the same rules share it. It is chosen before the handshake begins
(`l7.tls_greeting`).
"""

import hashlib
import os
import ssl
from collections.abc import Iterable, Mapping
from typing import Final

from l7 import openssl
from l7.client_identity import ClientCertificateUnreadable, ClientIdentity
from l7.protocol.client_hello import ClientHello
from l7.routing.hosts import HostCover
from l7.tls_tickets import Tickets
from orchestrator.contract.route import Certificate, ClientCertificatePolicy, Host

#: RFC 9325 section 4.2, without the CBC and RSA key exchange suites. TLS 1.3 suites are OpenSSL's defaults.
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: As ALPN names it (RFC 9113 section 3.1).
HTTP2 = "h2"
#: What is offered, best first (RFC 7301).
ALPN = [HTTP2, "http/1.1"]

#: What OpenSSL finds wrong with the other side's certificate (X509_V_ERR_*, x509_vfy.h), as it is counted.
_VERDICTS: Final[Mapping[int, str]] = {
    2: "untrusted",  # UNABLE_TO_GET_ISSUER_CERT
    7: "untrusted",  # CERT_SIGNATURE_FAILURE
    9: "not_yet_valid",
    10: "expired",
    18: "untrusted",  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: "untrusted",  # SELF_SIGNED_CERT_IN_CHAIN
    20: "untrusted",  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: "untrusted",  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    22: "untrusted",  # CERT_CHAIN_TOO_LONG
    24: "untrusted",  # INVALID_CA
    26: "wrong_purpose",
    62: "wrong_name",  # HOSTNAME_MISMATCH
    64: "wrong_name",  # IP_ADDRESS_MISMATCH
}


class CertificateInvalid(Exception):
    """A certificate cannot be served, or a CA not be used; says whose, and why."""


class ServerContext(ssl.SSLContext):
    """A context, the hosts that its certificates are for, and what it asks of clients."""

    cover: HostCover | None = None
    policy: ClientCertificatePolicy | None = None
    tickets: Tickets | None = None
    """Kept, because OpenSSL calls it back."""


#: What a context is made of: certificates for one name, and what clients must show.
Recipe = tuple[tuple[Certificate, ...], ClientCertificatePolicy | None]


def _server_context() -> ServerContext:
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)
    context.set_alpn_protocols(ALPN)
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _load(recipe: Recipe, tickets: Tickets) -> ServerContext:
    certificates, policy = recipe
    context = _server_context()
    kinds = [certificate.kind for certificate in certificates]
    if len(set(kinds)) < len(kinds):
        # OpenSSL would keep the last one, and say nothing.
        names = ", ".join(sorted({name for certificate in certificates for name in certificate.hosts}))
        raise CertificateInvalid(f"certificates of {names}: two with a key of the same kind")
    for certificate in certificates:
        load_chain(
            context, certificate.chain_pem, certificate.key_pem, f"certificate of {', '.join(certificate.hosts)}"
        )
    # The client has seen one of them, and it is not known which.
    context.cover = HostCover(set.intersection(*(set(certificate.hosts) for certificate in certificates)))
    if policy is not None:
        _ask_for_certificates(context, policy, certificates[0])
    openssl.forget_sessions(context)
    openssl.bind_sessions(context, _session_context(recipe))
    context.tickets = tickets
    tickets.seal(context)
    return context


def _session_context(recipe: Recipe) -> bytes:
    """Sessions are good for the same hosts under the same policy; a renewed certificate does not end them."""
    certificates, policy = recipe
    hosts = sorted({name for certificate in certificates for name in certificate.hosts})
    return hashlib.sha256(repr((hosts, policy.digest if policy else None)).encode()).digest()


def load_chain(context: ssl.SSLContext, chain_pem: str, key_pem: str, what: str) -> None:
    """Have a context show a certificate. Raises CertificateInvalid, which says `what` is wrong."""
    # OpenSSL, through the standard library, reads files only. An anonymous file in memory has no name that anyone
    # else could open, and is gone with its descriptor.
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(f"{chain_pem}\n{key_pem}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except (ssl.SSLError, OSError) as error:
        raise CertificateInvalid(f"{what}: {error}") from error
    finally:
        os.close(descriptor)


def _ask_for_certificates(context: ServerContext, policy: ClientCertificatePolicy, certificate: Certificate) -> None:
    try:
        context.load_verify_locations(cadata=policy.ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise CertificateInvalid(f"CAs of clients of {', '.join(certificate.hosts)}: {error}") from error
    context.policy = policy
    context.verify_mode = ssl.CERT_REQUIRED if policy.required else ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # No session outlives the handshake that showed the certificate: OpenSSL does not look at a resumed one again, be it
    # expired by now or its CA no longer trusted. Such clients keep their connections, so that costs them little.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


class CertificateTable:
    """Immutable: server name → context. Exact names win over wildcards."""

    def __init__(
        self,
        certificates: Iterable[Certificate] = (),
        hosts: Iterable[Host] = (),
        *,
        previous: "CertificateTable | None" = None,
        tickets: Tickets | None = None,
    ) -> None:
        """Make every context, taking unchanged ones over from `previous`. `tickets`: what seals sessions; the same for
        `previous`.

        Raises:
            CertificateInvalid: a chain, key or CA does not parse, or chain and key do not belong together.
        """
        self.tickets: Tickets = tickets or (previous.tickets if previous else Tickets())
        known: Mapping[Recipe, ServerContext] = previous.contexts if previous else {}
        self.contexts: dict[Recipe, ServerContext] = {}
        self._names: dict[str, ServerContext] = {}
        by_name: dict[str, tuple[Certificate, ...]] = {}
        for certificate in certificates:
            for name in certificate.hosts:
                by_name[name] = (*by_name.get(name, ()), certificate)
        policies = {host.name: host.client_certificate for host in hosts}
        for name in {**by_name, **policies}:
            serving = by_name.get(name) or by_name.get(_wildcard_of(name))
            if serving is not None:
                recipe = serving, policies.get(name, policies.get(_wildcard_of(name)))
                if recipe not in self.contexts:
                    self.contexts[recipe] = known.get(recipe) or _load(recipe, self.tickets)
                self._names[name] = self.contexts[recipe]

    def __repr__(self) -> str:
        return f"<CertificateTable: {len(self._names)} names, {len(self.contexts)} contexts>"

    def find(self, name: str) -> ServerContext | None:
        """The context for a server name as the client sent it; a wildcard stands for exactly one label."""
        name = name.lower()
        return self._names.get(name) or self._names.get(_wildcard_of(name))


def _wildcard_of(name: str) -> str:
    return "*." + name.partition(".")[2]


class TlsTerminator:
    """Chooses contexts for handshakes. One per worker, for its whole life."""

    def __init__(self) -> None:
        self.tickets = Tickets()
        self.certificates = CertificateTable(tickets=self.tickets)
        """What new handshakes use. Established connections keep what they have."""
        self.refused_names = 0
        """Handshakes refused because no certificate serves the name, or none was sent."""

    def choose(self, hello: ClientHello) -> ServerContext | None:
        """Who answers it; None (and counted): nobody here has that name."""
        context = self.certificates.find(hello.server_name) if hello.server_name else None
        if context is None:
            self.refused_names += 1
        return context


class TlsFacts:
    """What a finished handshake has settled."""

    __slots__ = ("client_allowed", "client_policy", "cover", "identity", "protocol", "resumed", "version")

    def __init__(self, connection: ssl.SSLSocket) -> None:
        """Raises ClientCertificateUnreadable: the client's certificate was verified, and makes no sense."""
        context = connection.context
        assert isinstance(context, ServerContext)  # noqa: S101 - every server connection's is
        policy = context.policy
        self.version = connection.version()
        self.protocol = connection.selected_alpn_protocol()
        """As ALPN names it; None if the client offered nothing that is spoken here."""
        self.resumed = bool(connection.session_reused)
        self.cover = context.cover
        """The hosts of the certificate that was shown."""
        self.identity: ClientIdentity | None = None
        self.client_policy: str | None = None
        self.client_allowed = True
        if policy is not None:
            self.client_policy = policy.digest
            certificate = connection.getpeercert(binary_form=True)
            if certificate is not None:
                self.identity = ClientIdentity(certificate)
                self.client_allowed = not policy.allowed or not self.identity.names.isdisjoint(policy.allowed)


def verdict(error: ssl.SSLCertVerificationError) -> str:
    """`expired`, `untrusted`, `wrong_name`, ...: why the other side's certificate was not accepted."""
    return _VERDICTS.get(error.verify_code, "invalid")


def handshake_reason(error: OSError | ClientCertificateUnreadable, fallback: str) -> str:
    """A name for why a handshake failed, if it was the client's certificate; else `fallback`."""
    if isinstance(error, ClientCertificateUnreadable):
        return "client_certificate_unreadable"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"client_certificate_{verdict(error)}"
    if isinstance(error, ssl.SSLError) and error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "client_certificate_missing"
    return fallback
