"""TLS towards servers: one context per backend, and the session that each server gave last.

A server must show a certificate for the configured name, signed by a configured CA; nothing else passes for it. A
stream that ends without a `close_notify` has been cut (RFC 9112 section 9.8): a response that would end there is not
taken for whole.
"""

import socket
import ssl

from l7.tls import HTTP2, CertificateInvalid, load_chain
from orchestrator.contract.route import Backend, BackendProtocol, BackendTls


def _context(backend: Backend, tls: BackendTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([HTTP2 if backend.protocol is BackendProtocol.H2 else "http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Python sets it, so that an end without `close_notify` looks like one with it.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=tls.ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise CertificateInvalid(f"CAs of backend {backend.name}: {error}") from error
    pair = tls.client_certificate
    if pair is not None:
        load_chain(context, pair.chain_pem, pair.key_pem, f"client certificate for backend {backend.name}")
    return context


class BackendContext:
    """What all servers of a backend share."""

    __slots__ = ("context", "protocol", "tls")

    def __init__(self, backend: Backend, tls: BackendTls) -> None:
        """Raises CertificateInvalid: a CA or the client certificate cannot be used."""
        self.tls = tls
        self.protocol = backend.protocol
        self.context = _context(backend, tls)

    def __repr__(self) -> str:
        return f"<BackendContext for {self.tls.server_name}>"


class ServerTls:
    """TLS towards one server of a backend."""

    __slots__ = ("_session", "shared")

    def __init__(self, shared: BackendContext) -> None:
        self.shared = shared
        self._session: ssl.SSLSession | None = None

    def __repr__(self) -> str:
        return f"<ServerTls {self.shared.tls.server_name}: {'a' if self._session else 'no'} session>"

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        """A client's TLS socket on the connected, non-blocking `sock`; its handshake is the caller's to drive. Raises
        OSError."""
        return self.shared.context.wrap_socket(
            sock,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
            server_hostname=self.shared.tls.server_name,
            session=self._session,
        )

    def remember(self, connection: ssl.SSLSocket) -> None:
        """Its session is to be resumed by the next connection. In TLS 1.3 it comes with or after the first response."""
        session = connection.session
        if session is not None and (session.has_ticket or session.id):
            self._session = session
