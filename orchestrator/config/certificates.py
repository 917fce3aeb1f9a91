"""Certificates and keys of hosts: do they belong together, and do they serve the host?"""

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from orchestrator.contract.route import KeyKind

#: Certificates in one chain file: leaf and intermediates (OpenSSL's default depth is 100; public chains have 3).
MAX_CHAIN = 10

#: CAs that one file may name: the public ones of an operating system are about 150.
MAX_AUTHORITIES = 200


class CertificateUnusable(Exception):
    """Says what is wrong; `in_key` tells whether it is about the key file."""

    def __init__(self, code: str, message: str, hint: str, *, in_key: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
        self.in_key = in_key


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A chain and its key, checked against each other."""

    chain_pem: str
    key_pem: str
    names: tuple[str, ...]
    kind: KeyKind


def check_pair(chain_pem: str, key_pem: str) -> KeyPair:
    """Raises CertificateUnusable."""
    try:
        chain = x509.load_pem_x509_certificates(chain_pem.encode())
        leaf = chain[0]
        names = _names(leaf)
    except (ValueError, IndexError) as error:
        raise CertificateUnusable(
            "certificate_unreadable",
            "this is not a PEM certificate",
            "begin with -----BEGIN CERTIFICATE-----, leaf first",
        ) from error
    if len(chain) > MAX_CHAIN:
        raise CertificateUnusable(
            "certificate_unreadable", f"{len(chain)} certificates, and a chain has {MAX_CHAIN} at most", "leaf first"
        )
    try:
        key = load_pem_private_key(key_pem.encode(), password=None)
    except TypeError as error:
        raise CertificateUnusable(
            "key_unreadable", "the key is encrypted", "store it without a passphrase, mode 0600", in_key=True
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateUnusable(
            "key_unreadable", "this is not a PEM private key", "begin with -----BEGIN PRIVATE KEY-----", in_key=True
        ) from error
    try:
        wanted = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateUnusable(
            "certificate_unreadable", "the certificate's public key is of an unknown kind", "use EC P-256 or RSA"
        ) from error
    if key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != wanted:
        raise CertificateUnusable(
            "key_mismatch",
            "the key does not belong to the certificate",
            "take the key that the certificate was requested with, or the leaf is not first in its file",
            in_key=True,
        )
    return KeyPair(chain_pem, key_pem, names, _kind(key))


def _kind(key: object) -> KeyKind:
    if isinstance(key, rsa.RSAPrivateKey):
        return KeyKind.RSA
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return KeyKind.ECDSA
    if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return KeyKind.EDDSA
    raise CertificateUnusable(
        "key_unreadable", "this key is of a kind that TLS does not sign with", "use EC P-256 or RSA", in_key=True
    )


def check_authorities(pem: str) -> str:
    """CAs, one after another; gives their text. Raises CertificateUnusable."""
    try:
        authorities = x509.load_pem_x509_certificates(pem.encode())
        wrong = [each for each in authorities if not _is_authority(each)]
    except ValueError as error:
        raise CertificateUnusable(
            "certificate_unreadable",
            "this is not a file of PEM certificates",
            "put the CAs' certificates into one file, one after another",
        ) from error
    if len(authorities) > MAX_AUTHORITIES:
        raise CertificateUnusable(
            "certificate_unreadable", f"{len(authorities)} CAs, and {MAX_AUTHORITIES} are the most", "name fewer"
        )
    if wrong:
        raise CertificateUnusable(
            "certificate_not_ca",
            f"{wrong[0].subject.rfc4514_string()} is not a CA's certificate",
            "name the CA that signs the certificates, not one that it has signed",
        )
    return pem


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def covers(names: tuple[str, ...], host: str) -> bool:
    """Whether a certificate with these DNS names serves `host` (RFC 6125 section 6.4: one label for a wildcard)."""
    if host in names:
        return True
    _, _, parent = host.partition(".")
    return not host.startswith("*.") and f"*.{parent}" in names


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()  # the common name alone serves nobody (RFC 9525 section 6.3)
    return tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))
