"""Renewal of an agent's certificate before it expires."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NoReturn

import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from orchestrator.contract.connection import Connection, OrchestratorRefused, OrchestratorUnreachable, verified_context
from orchestrator.contract.keys import signing_request
from orchestrator.contract.state_directory import StateDirectory
from orchestrator.contract.wire import NODE_CERTIFICATE, JoinResponse, RenewRequest

log = logging.getLogger(__name__)

#: Part of the lifetime that may be left when renewal starts: a third, as ACME clients do (certbot: 30 of 90 days).
RENEW_AT_REMAINING = 1 / 3
#: Seconds between looks at the certificate.
LOOK_EVERY_S = 3600.0
#: A certificate is smaller than this by far; bounds what a renewal reads.
MAX_ANSWER_BYTES = 65536


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether less than a third of the certificate's life is left."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (end - now) < (end - begin) * RENEW_AT_REMAINING


async def renew(state: StateDirectory) -> None:
    """Fetch a new certificate for the same key, and write it.

    The key stays, so that one rename replaces the whole pair. Raises OrchestratorUnreachable, OrchestratorRefused,
    OSError.
    """
    enrolment = state.enrolment()
    key = serialization.load_pem_private_key(state.key_file.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise OSError(f"{state.key_file}: not an EC key: join again with a new token")
    context = verified_context(str(state.ca_file), certificate=(str(state.certificate_file), str(state.key_file)))
    request = RenewRequest(csr_pem=signing_request(key, enrolment.identity))
    async with Connection(enrolment.endpoints, context, max_answer_bytes=MAX_ANSWER_BYTES) as connection:
        answer = await connection.request("POST", NODE_CERTIFICATE, body=request.model_dump_json())
        try:
            renewed = JoinResponse.model_validate_json(answer.body)
        except ValidationError as error:
            raise OrchestratorUnreachable(f"{connection.endpoint}: renewal answer not understood") from error
    state.save_certificate(renewed.certificate_pem)


async def renew_when_due(state: StateDirectory, renewed: Callable[[], None]) -> NoReturn:
    """Task: look now and then, renew when due, call `renewed` after it."""
    while True:
        certificate = state.certificate()
        if is_due(certificate, datetime.now(UTC)):
            try:
                await renew(state)
            except (OrchestratorUnreachable, OrchestratorRefused, OSError) as error:
                log.error(
                    "certificate not renewed, valid until %s: %s", certificate.not_valid_after_utc.isoformat(), error
                )
            else:
                log.info("certificate renewed")
                renewed()
        await trio.sleep(LOOK_EVERY_S)
