"""Join tokens: made for one agent, good once, for a while; only their hash is kept."""

import secrets

from pydantic import ValidationError

from orchestrator.contract.base import Contract
from orchestrator.contract.node import AgentIdentity
from orchestrator.contract.token import JoinToken
from orchestrator.state.store import ABSENT, Conflict, Store

#: Bytes of a secret: beyond guessing, whatever the rate.
SECRET_BYTES = 32
#: Seconds for which a spent or expired token is remembered, so that its refusal can say which of the two it is.
REMEMBERED_S = 7 * 86400.0
#: Tokens that may be known at once, spent ones included: a fleet of a thousand agents that joins twice a week.
MAX_TOKENS = 4096

_PREFIX = "token/"


class TokenRefused(Exception):
    """`code` is one of token_unknown, token_expired, token_used, token_of_another_agent, too_many_tokens."""

    def __init__(
        self, code: str, message: str, hint: str = "make a new one: edge-orchestrator token NODE ROLE"
    ) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class _Record(Contract):
    identity: AgentIdentity
    expires_at: float
    used_at: float | None = None


async def issue_token(store: Store, ca_digest: str, identity: AgentIdentity, ttl_s: float, now: float) -> JoinToken:
    """A new token for one agent. `now` is Unix time. Raises TokenRefused(too_many_tokens)."""
    await _forget_old(store, now)
    token = JoinToken(ca_digest, secrets.token_urlsafe(SECRET_BYTES))
    record = _Record(identity=identity, expires_at=now + ttl_s)
    await store.put_if_version(_PREFIX + token.secret_digest, record.model_dump_json().encode(), ABSENT)
    return token


async def redeem_token(store: Store, token: JoinToken, identity: AgentIdentity, now: float) -> None:
    """Spend the token. Raises TokenRefused; of two that try at once, one is refused.

    A token of another agent stays good: a typing error on one node must not cost another its join.
    """
    key = _PREFIX + token.secret_digest
    entry = await store.get(key)
    if entry is None:
        raise TokenRefused("token_unknown", "the token is not known here, or was forgotten long ago")
    try:
        record = _Record.model_validate_json(entry.value)
    except ValidationError as error:
        raise TokenRefused("token_unknown", "the token's record is not of this version") from error
    if record.used_at is not None:
        raise TokenRefused("token_used", f"the token was used {now - record.used_at:.0f} s ago; it is good once")
    if record.expires_at <= now:
        raise TokenRefused("token_expired", f"the token expired {now - record.expires_at:.0f} s ago")
    if record.identity != identity:
        raise TokenRefused(
            "token_of_another_agent",
            f"the token is not for {identity}",
            "check --node and the role, or make a token for this agent",
        )
    used = record.model_copy(update={"used_at": now})
    try:
        await store.put_if_version(key, used.model_dump_json().encode(), entry.version)
    except Conflict as error:
        raise TokenRefused("token_used", "the token was used a moment ago; it is good once") from error


async def _forget_old(store: Store, now: float) -> None:
    keys = await store.keys(_PREFIX)
    kept = 0
    for key in keys:
        entry = await store.get(key)
        if entry is None:
            continue
        try:
            expires_at = _Record.model_validate_json(entry.value).expires_at
        except ValidationError:
            expires_at = 0.0
        if expires_at + REMEMBERED_S > now:
            kept += 1
            continue
        try:
            await store.delete_if_version(key, entry.version)
        except Conflict:
            kept += 1  # somebody else is at it
    if kept >= MAX_TOKENS:
        raise TokenRefused("too_many_tokens", f"{kept} tokens are out", "wait until some have expired")
