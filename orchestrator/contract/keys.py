"""Private keys, signing requests for them, and what a certified key may be used for."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from orchestrator.contract.node import AgentIdentity


def new_key() -> ec.EllipticCurvePrivateKey:
    """An EC key on P-256: the curve that every TLS stack has, small and fast to sign with."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8, not encrypted: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signing_request(key: ec.EllipticCurvePrivateKey, identity: AgentIdentity) -> str:
    """A PKCS#10 request (RFC 2986), PEM. The CA takes only the public key from it, and the names from the token."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(identity))])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    """A CA's key signs certificates and nothing else; any other signs handshakes only (RFC 5280 section 4.2.1.3)."""
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
