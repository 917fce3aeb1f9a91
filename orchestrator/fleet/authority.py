"""The built-in certificate authority: agents, operators and the orchestrator know each other by it.

Identities are URIs in the subject alternative name, as in SPIFFE: `edgefleet://node/<node>/<role>`,
`edgefleet://operator/<name>`. Names in signing requests are never believed; the caller says whom the key belongs to.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.contract.durable import write_private
from orchestrator.contract.keys import key_to_pem, key_usage, new_key
from orchestrator.contract.node import AgentIdentity, AgentRole

#: Lifetimes. Agents renew by themselves when a third is left; the others are made anew by `edge-orchestrator init`.
CA_LIFETIME = timedelta(days=3650)
SERVER_LIFETIME = timedelta(days=825)
OPERATOR_LIFETIME = timedelta(days=365)
AGENT_LIFETIME = timedelta(days=90)
#: Certificates begin a little in the past: the fleet's clocks are not all the same.
CLOCK_SKEW = timedelta(minutes=5)

_NODE_URI = re.compile(r"^edgefleet://node/([a-z0-9-]{1,63})/([a-z]+)$")
_OPERATOR_URI = re.compile(r"^edgefleet://operator/([a-z0-9-]{1,63})$")


class RequestUnusable(Exception):
    """A signing request that the CA does not sign; the message says why."""


class IdentityUnknown(Exception):
    """A certificate that names nobody of this fleet, or is not valid now; the message says why."""


@dataclass(frozen=True, slots=True)
class OperatorIdentity:
    """A person or a program that operates the fleet."""

    name: str

    def __str__(self) -> str:
        return f"operator {self.name}"


Identity = AgentIdentity | OperatorIdentity


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA's certificate and key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def digest(self) -> str:
        """SHA-256 of the certificate's DER, hex: what join tokens pin."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def certify_agent(self, csr_pem: str, identity: AgentIdentity, now: datetime) -> str:
        """A certificate for the request's key. Raises RequestUnusable."""
        try:
            request = x509.load_pem_x509_csr(csr_pem.encode())
            key = request.public_key()
            signed = request.is_signature_valid
        except (ValueError, TypeError) as error:
            raise RequestUnusable("not a PEM signing request (PKCS#10)") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise RequestUnusable("the key must be EC on P-256")
        if not signed:
            raise RequestUnusable("the request is not signed by its own key")
        uri = f"edgefleet://node/{identity.node}/{identity.role}"
        return self._issue(str(identity), key, [x509.UniformResourceIdentifier(uri)], AGENT_LIFETIME, now, client=True)

    def certify_operator(self, key: ec.EllipticCurvePublicKey, name: str, now: datetime) -> str:
        uri = x509.UniformResourceIdentifier(f"edgefleet://operator/{name}")
        return self._issue(f"operator/{name}", key, [uri], OPERATOR_LIFETIME, now, client=True)

    def certify_server(
        self,
        key: ec.EllipticCurvePublicKey,
        addresses: Sequence[IPv4Address | IPv6Address],
        names: Sequence[str],
        now: datetime,
    ) -> str:
        alternatives: list[x509.GeneralName] = [x509.IPAddress(address) for address in addresses]
        alternatives += [x509.DNSName(name) for name in names]
        return self._issue("edge-orchestrator", key, alternatives, SERVER_LIFETIME, now, client=False)

    def identify(self, pem: str, now: datetime) -> Identity:
        """Whom a client certificate names. Raises IdentityUnknown.

        TLS has verified it when the connection began; connections last, so signature and validity are looked at again.
        """
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode())
            certificate.verify_directly_issued_by(self.certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
            raise IdentityUnknown("the client certificate is not one of this fleet's") from error
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise IdentityUnknown(f"the client certificate is valid until {certificate.not_valid_after_utc:%Y-%m-%d}")
        for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
            if found := _OPERATOR_URI.match(uri):
                return OperatorIdentity(found[1])
            if (found := _NODE_URI.match(uri)) and found[2] in tuple(AgentRole):
                return AgentIdentity(node=found[1], role=AgentRole(found[2]))
        raise IdentityUnknown("the client certificate names neither an agent nor an operator")

    def _issue(
        self,
        common_name: str,
        key: ec.EllipticCurvePublicKey,
        alternatives: Sequence[x509.GeneralName],
        lifetime: timedelta,
        now: datetime,
        *,
        client: bool,
    ) -> str:
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        end = min(now + lifetime, self.certificate.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_named(common_name))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM).decode()


def create_authority(now: datetime) -> Authority:
    """A new CA: its own key, its own name."""
    key = new_key()
    name = _named("edgefleet CA")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def save_authority(authority: Authority, certificate_file: Path, key_file: Path) -> None:
    """Raises OSError."""
    write_private(key_file, key_to_pem(authority.key))
    write_private(certificate_file, authority.pem.encode())


def load_authority(certificate_file: Path, key_file: Path) -> Authority:
    """Raises OSError, or ValueError if the files are not a CA's."""
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    key = load_pem_private_key(key_file.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError(f"{key_file} is not the key of {certificate_file}")
    return Authority(certificate, key)


def utc_now() -> datetime:
    return datetime.now(UTC)


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
