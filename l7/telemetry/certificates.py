"""When certificates end, for the metrics. Read once per certificate: a thousand of them take a tenth of a second."""

from collections.abc import Iterable
from functools import lru_cache

from cryptography import x509

from orchestrator.contract.route import Certificate


def ends_by_host(certificates: Iterable[Certificate]) -> dict[str, int]:
    """Host → Unix time at which its certificate ends; of several, the one that ends first."""
    ends: dict[str, int] = {}
    for certificate in certificates:
        end = _end_of(certificate.chain_pem)
        for host in certificate.hosts:
            ends[host] = min(end, ends.get(host, end))
    return ends


@lru_cache(maxsize=4096)  # as many as a large fleet serves; metrics are asked for every few seconds
def _end_of(chain_pem: str) -> int:
    return int(x509.load_pem_x509_certificate(chain_pem.encode()).not_valid_after_utc.timestamp())
