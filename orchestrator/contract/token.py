"""Join tokens: `ef1.<SHA-256 of the CA certificate, hex>.<secret>`.

The hash lets the node know the right CA before it trusts anybody; the secret is good for one join of one node and
role, for a short time. The orchestrator keeps only the secret's hash.
"""

import hashlib
import re
from dataclasses import dataclass, field

PREFIX = "ef1"
_SHAPE = re.compile(r"^ef1\.([0-9a-f]{64})\.([A-Za-z0-9_-]{32,64})$")


class TokenMalformed(Exception):
    """The text is not a join token. The message never repeats the text."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A parsed token."""

    ca_digest: str
    """SHA-256 of the CA certificate's DER, hex."""
    secret: str = field(repr=False)

    def __str__(self) -> str:
        return f"{PREFIX}.{self.ca_digest}.{self.secret}"

    @property
    def secret_digest(self) -> str:
        """What the orchestrator stores instead of the secret (256 random bits need no slow hash)."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


def parse_token(text: str) -> JoinToken:
    """Raises TokenMalformed."""
    found = _SHAPE.match(text.strip())
    if found is None:
        raise TokenMalformed(f"not a join token: it reads {PREFIX}.<64 hex digits>.<secret>, on one line")
    return JoinToken(found[1], found[2])
