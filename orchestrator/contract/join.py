"""Joining the fleet: a one-time token becomes a certificate of one's own.

The orchestrator's certificate is made by a CA that the node does not know yet. So the CA certificate is fetched over
a connection that is believed in nothing, compared with the hash in the token, and only then trusted: the token and
the signing request travel over a second connection that is verified by that CA.
"""

import logging
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pydantic import ValidationError

from orchestrator.contract.backoff import Backoff
from orchestrator.contract.connection import (
    Connection,
    OrchestratorRefused,
    OrchestratorUnreachable,
    unverified_context,
    verified_context,
)
from orchestrator.contract.keys import key_to_pem, new_key, signing_request
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.state_directory import Enrolment, StateDirectory
from orchestrator.contract.token import JoinToken, TokenMalformed, parse_token
from orchestrator.contract.wire import CA, JOIN, JoinRequest, JoinResponse

log = logging.getLogger(__name__)

#: Seconds for which an orchestrator that does not answer is tried again: what boots at once starts in any order.
PATIENCE_S = 30.0
#: Largest token file, CA certificate and join answer.
MAX_TOKEN_FILE_BYTES = 4096
MAX_ANSWER_BYTES = 65536


class JoinFailed(Exception):
    """The node did not join; the message says why and what to do, and holds no secret."""


async def join(
    state: StateDirectory, *, orchestrator: str, token_file: Path, node: str, role: AgentRole
) -> AgentIdentity:
    """Redeem the token in `token_file` at `orchestrator` ("https://ADDRESS:PORT"), and fill `state`.

    Does nothing if `state` has joined as this node and role already. Raises JoinFailed.
    """
    try:
        wanted = AgentIdentity(node=node, role=role)
    except ValidationError as error:
        raise JoinFailed(
            f"{node!r} is not a node's name: lower case letters, digits and hyphens, at most 63"
        ) from error
    if state.is_joined():
        present = state.identity()
        if present != wanted:
            raise JoinFailed(
                f"{state.path} belongs to {present}, not to {wanted}: give each agent a directory of its own"
            )
        return present
    if not orchestrator.startswith("https://"):
        raise JoinFailed(f"{orchestrator!r} is not an orchestrator's address: https://ADDRESS:PORT")
    token = _read_token(token_file)
    key = new_key()
    try:
        ca_pem, answer = await _redeem_patiently(orchestrator.rstrip("/"), token, wanted, signing_request(key, wanted))
    except OrchestratorRefused as error:
        raise JoinFailed(f"{orchestrator} refused {wanted}: {error}") from error
    except OrchestratorUnreachable as error:
        raise JoinFailed(f"no orchestrator for {PATIENCE_S:.0f} s: {error}") from error
    enrolment = Enrolment(identity=wanted, endpoints=(orchestrator.rstrip("/"),))
    try:
        state.save_enrolment(enrolment, ca_pem=ca_pem, certificate_pem=answer.certificate_pem, key_pem=key_to_pem(key))
    except OSError as error:
        raise JoinFailed(f"{state.path}: {error}; the token is spent, the next attempt needs a new one") from error
    log.info("joined as %s at %s", wanted, orchestrator)
    return wanted


def _read_token(token_file: Path) -> JoinToken:
    try:
        with token_file.open("rb") as file:
            text = file.read(MAX_TOKEN_FILE_BYTES)
        return parse_token(text.decode("ascii", errors="replace"))
    except OSError as error:
        raise JoinFailed(f"{token_file}: {error.strerror}: write the join token there") from error
    except TokenMalformed as error:
        raise JoinFailed(f"{token_file}: {error}") from error


async def _redeem_patiently(
    endpoint: str, token: JoinToken, identity: AgentIdentity, csr_pem: str
) -> tuple[str, JoinResponse]:
    backoff = Backoff()
    deadline = trio.current_time() + PATIENCE_S
    while True:
        try:
            ca_pem = await _fetch_ca(endpoint, token)
            return ca_pem, await _redeem(endpoint, ca_pem, token, identity, csr_pem)
        except OrchestratorUnreachable as error:
            wait_s = backoff.next_wait_s()
            if trio.current_time() + wait_s > deadline:
                raise
            log.warning("joining: %s; trying again", error)
            await trio.sleep(wait_s)


async def _fetch_ca(endpoint: str, token: JoinToken) -> str:
    async with Connection((endpoint,), unverified_context(), max_answer_bytes=MAX_ANSWER_BYTES) as connection:
        answer = await connection.request("GET", CA)
    try:
        certificate = x509.load_pem_x509_certificate(answer.body)
    except ValueError as error:
        raise JoinFailed(f"{endpoint}{CA} is not a certificate: is this an orchestrator?") from error
    if certificate.fingerprint(hashes.SHA256()).hex() != token.ca_digest:
        raise JoinFailed(
            f"the CA of {endpoint} is not the one that the token names: the token is of another fleet, or somebody "
            "stands in between. Nothing was sent; check the address, or make a new token"
        )
    return answer.body.decode("ascii")


async def _redeem(endpoint: str, ca_pem: str, token: JoinToken, identity: AgentIdentity, csr_pem: str) -> JoinResponse:
    request = JoinRequest(token=str(token), node=identity.node, role=identity.role, csr_pem=csr_pem)
    context = verified_context(ca_pem=ca_pem)
    async with Connection((endpoint,), context, max_answer_bytes=MAX_ANSWER_BYTES) as connection:
        answer = await connection.request("POST", JOIN, body=request.model_dump_json())
    try:
        return JoinResponse.model_validate_json(answer.body)
    except ValidationError as error:
        raise JoinFailed(f"{endpoint}{JOIN}: answer not understood: is the orchestrator of another version?") from error
