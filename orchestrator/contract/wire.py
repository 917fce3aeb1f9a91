"""The HTTPS API between agents, operators and the orchestrator: paths and bodies.

Agents and operators are told apart by their client certificates. Only `CA` and `JOIN` are open to a client without
one.
"""

from typing import Annotated

from pydantic import Field

from orchestrator.contract.base import Contract, Name
from orchestrator.contract.node import AgentRole

CA = "/v1/ca"
"""GET → the CA certificate, PEM. To be believed only if its hash is the one in a join token."""
JOIN = "/v1/join"
"""POST JoinRequest → JoinResponse."""
NODE_SNAPSHOT = "/v1/node/snapshot"
"""GET ?after=VERSION&wait=SECONDS → 200 snapshot newer than VERSION, or 204 when the wait is over. Agents only.

204 also for an agent that has joined and is not in the configuration (yet, or any more): it runs on as it is."""
NODE_REPORT = "/v1/node/report"
"""POST Report → 204. Agents only."""
NODE_CERTIFICATE = "/v1/node/certificate"
"""POST RenewRequest → JoinResponse: a new certificate for the identity in the present one. Agents only."""
NODE_INQUIRY = "/v1/node/inquiry"
"""GET ?wait=SECONDS → 200 Inquiry for this agent, each given out once, or 204 when the wait is over. Agents only."""
NODE_INQUIRY_PIECE = "/v1/node/inquiry/{id}"
"""POST Piece → PieceTaken, when there is room for it. Agents only, and only that which was asked."""

#: Longest long-poll that the orchestrator grants, in seconds.
MAX_WAIT_S = 30.0

#: Longest reason of a NACK, in characters; what is beyond is cut off.
MAX_NACK_REASON = 2000


class JoinRequest(Contract):
    """A one-time token, redeemed for a certificate."""

    token: Annotated[str, Field(max_length=256, repr=False)]
    node: Name
    role: AgentRole
    csr_pem: Annotated[str, Field(max_length=8192)]
    """Signing request for a key that never leaves the node."""


class JoinResponse(Contract):
    """The agent's certificate and the CA that signed it."""

    certificate_pem: str
    ca_pem: str


class RenewRequest(Contract):
    """A new certificate, before the present one expires."""

    csr_pem: Annotated[str, Field(max_length=8192)]


class Problem(Contract):
    """Body of every error answer: what, where, and what to do."""

    code: str
    """Stable, for programs: `capacity_guard`, `not_found`, `token_used`, ..."""
    message: str
    path: str | None = None
    """The field or file position that it is about: `vips[1].mode`, `platform.yaml:12:9`."""
    hint: str | None = None
    """What to do next."""


class Problems(Contract):
    """All problems found, at least one."""

    problems: Annotated[tuple[Problem, ...], Field(min_length=1)]
