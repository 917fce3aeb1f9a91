"""The lab's own web PKI: a root that clients trust, and a leaf for the host that the VIPs serve."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.contract.keys import key_to_pem, key_usage, new_key

#: A lab is made anew whenever it is wanted; a key that leaks from one is worthless soon.
VALIDITY = timedelta(days=30)

#: Clocks differ, and a certificate from the future is refused.
BACKDATE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate and its private key, PEM."""

    certificate: str
    key: str


def issue(host: str, *, now: datetime | None = None) -> tuple[str, IssuedCertificate]:
    """A fresh root (PEM), and a leaf for `host` that it signed. ECDSA P-256, the cheapest that every client knows."""
    now = now or datetime.now(UTC)
    root_key = new_key()
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgefleet lab root")])
    root = (
        _builder(root_name, root_name, root_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(sign_certificates=True), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    leaf_key = new_key()
    leaf_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    leaf = (
        _builder(leaf_name, root_name, leaf_key.public_key(), now)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    return _pem(root), IssuedCertificate(certificate=_pem(leaf), key=key_to_pem(leaf_key).decode())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
