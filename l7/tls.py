"""TLS termination: which certificate for which name, and sockets that decrypt on the real descriptor.

TLS 1.2 and 1.3 only, with forward secrecy and AEAD (RFC 9325). A ClientHello whose server name no certificate serves
is refused with `unrecognized_name` (RFC 6066 section 3); so is one without a name: the edge carries many owners'
hosts, and none of them owns "no name".

The base context lives as long as the process, because session tickets are sealed with its keys: a new
snapshot then costs no client a full handshake. The certificates hang off it in one attribute, swapped in one step.
"""

import os
import socket
import ssl
from collections.abc import Iterable, Mapping

from l7.routing.hosts import HostCover
from orchestrator.contract.route import Certificate

#: RFC 9325 section 4.2, without the CBC and RSA key exchange suites. TLS 1.3 suites are OpenSSL's defaults.
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
ALPN = ["http/1.1"]


class CertificateInvalid(Exception):
    """A certificate cannot be served; says whose, and why."""


class ServerContext(ssl.SSLContext):
    """A context, and the hosts that its certificate is for."""

    cover: HostCover | None = None


def _server_context() -> ServerContext:
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)
    context.set_alpn_protocols(ALPN)
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _load(certificate: Certificate) -> ServerContext:
    context = _server_context()
    # OpenSSL, through the standard library, reads files only. An anonymous file in memory has no name that anyone
    # else could open, and is gone with its descriptor.
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(f"{certificate.chain_pem}\n{certificate.key_pem}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except (ssl.SSLError, OSError) as error:
        raise CertificateInvalid(f"certificate of {', '.join(certificate.hosts)}: {error}") from error
    finally:
        os.close(descriptor)
    context.cover = HostCover(certificate.hosts)
    return context


class CertificateTable:
    """Immutable: server name → context. Exact names win over wildcards."""

    def __init__(self, certificates: Iterable[Certificate] = (), previous: "CertificateTable | None" = None) -> None:
        """Load every certificate, taking unchanged ones over from `previous`.

        Raises:
            CertificateInvalid: a chain or key does not parse, or they do not belong together.
        """
        known: Mapping[Certificate, ServerContext] = previous.contexts if previous else {}
        self.contexts: dict[Certificate, ServerContext] = {
            certificate: known.get(certificate) or _load(certificate) for certificate in certificates
        }
        self._exact: dict[str, ServerContext] = {}
        self._wildcard: dict[str, ServerContext] = {}
        for certificate, context in self.contexts.items():
            for name in certificate.hosts:
                if name.startswith("*."):
                    self._wildcard[name[2:]] = context
                else:
                    self._exact[name] = context

    def __repr__(self) -> str:
        return f"<CertificateTable: {len(self._exact)} names, {len(self._wildcard)} wildcards>"

    def find(self, name: str) -> ServerContext | None:
        """The context for a server name as the client sent it; a wildcard stands for exactly one label."""
        name = name.lower()
        return self._exact.get(name) or self._wildcard.get(name.partition(".")[2])


class TlsTerminator:
    """Makes TLS server sockets. One per worker, for its whole life."""

    def __init__(self) -> None:
        self.certificates = CertificateTable()
        """What new handshakes use. Established connections keep what they have."""
        self.refused_names = 0
        """Handshakes refused because no certificate serves the name, or none was sent."""
        self._context = _server_context()
        self._context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str | None, _base: ssl.SSLContext) -> int | None:
        context = self.certificates.find(name) if name else None
        if context is None:
            self.refused_names += 1
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        # The certificate, and nothing else, comes from the chosen context: `verify_mode` would not be carried over.
        connection.context = context
        return None

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """Take a connected non-blocking socket over. The handshake is the caller's to drive."""
        return self._context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )


def cover_of(connection: ssl.SSLSocket) -> HostCover | None:
    """The hosts of the certificate that a finished handshake has shown."""
    context = connection.context
    return context.cover if isinstance(context, ServerContext) else None
