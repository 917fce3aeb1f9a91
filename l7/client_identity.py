"""Who a client is, by the certificate that it has proved to hold: for backends, and for the access log."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote

from cryptography import x509

from l7 import limits

#: The header that backends get, in Envoy's words (`x-forwarded-client-cert`), whatever else was sent under that name.
HEADER: Final = b"x-forwarded-client-cert"

#: A subject in the access log: as long as any sensible one, and far below what collectors cut off at.
MAX_LOGGED_SUBJECT: Final = 256


class ClientCertificateUnreadable(Exception):
    """It was verified, and its names cannot be read all the same."""


class ClientIdentity:
    """Names of a verified certificate. Immutable by convention."""

    __slots__ = ("header", "log_fields", "names", "sha256", "subject")

    def __init__(self, certificate: bytes) -> None:
        """`certificate`: DER, verified by the handshake.

        Raises:
            ClientCertificateUnreadable: its subject or its alternative names make no sense.
        """
        try:
            leaf = x509.load_der_x509_certificate(certificate)
            self.subject = leaf.subject.rfc4514_string()
            """RFC 4514, the most specific part first."""
            alternatives = tuple(_alternatives(leaf))
        except ValueError as error:
            raise ClientCertificateUnreadable(str(error)) from error
        self.sha256 = hashlib.sha256(certificate).hexdigest()
        self.names = frozenset(name for _, name in alternatives)
        """Subject alternative names: DNS names in lower case, URIs, e-mail addresses."""
        self.header = b"%b: %b\r\n" % (HEADER, self._value(alternatives).encode("ascii"))
        """The whole line, for backends."""
        self.log_fields = (
            f',"client_subject":{json.dumps(self.subject[:MAX_LOGGED_SUBJECT])},"client_sha256":"{self.sha256}"'
        )

    def __repr__(self) -> str:
        return f"<ClientIdentity {self.subject!r} {self.sha256[:16]}>"

    def _value(self, alternatives: Iterable[tuple[str, str]]) -> str:
        # Percent-encoded, so that no name can end its field, the header or the head: certificates hold any text.
        value = f'Hash={self.sha256};Subject="{quote(self.subject, safe=" !#$&()*+,-./:;<=>?@[]^_{|}~")[:2048]}"'
        for kind, name in alternatives:
            element = f";{kind}={quote(name, safe=':/@-._~+*?')}"
            if len(value) + len(element) > limits.MAX_CLIENT_CERTIFICATE_BYTES:
                break
            value += element
        return value


def _alternatives(leaf: x509.Certificate) -> Iterator[tuple[str, str]]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for name in names:
        if isinstance(name, x509.DNSName):
            yield "DNS", name.value.lower()
        elif isinstance(name, x509.UniformResourceIdentifier):
            yield "URI", name.value
        elif isinstance(name, x509.RFC822Name):
            yield "Email", name.value
