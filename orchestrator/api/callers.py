"""Who calls: told by the client certificate, which TLS has verified and the authority looks at again.

The server asks every client for a certificate and lets those without one in (`ssl.CERT_OPTIONAL`), because a node that
joins has none. So each endpoint says whom it is for, by one of the wrappers below; there is no other way to make one.
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api.answers import Endpoint, Refused, explained
from orchestrator.contract.node import AgentIdentity
from orchestrator.contract.wire import Problem
from orchestrator.fleet.authority import Identity, IdentityUnknown, OperatorIdentity, utc_now
from orchestrator.fleet.control import Control

ForAnybody = Callable[[Control, Request], Awaitable[Response]]
ForAgents = Callable[[Control, Request, AgentIdentity], Awaitable[Response]]
ForOperators = Callable[[Control, Request, OperatorIdentity], Awaitable[Response]]


def for_anybody(control: Control, endpoint: ForAnybody) -> Endpoint:
    """An endpoint that needs no certificate."""

    async def serve(request: Request) -> Response:
        return await endpoint(control, request)

    return explained(serve)


def for_agents(control: Control, endpoint: ForAgents) -> Endpoint:
    """An endpoint that serves an agent, as itself only."""

    async def serve(request: Request) -> Response:
        caller = identify(control, request)
        if not isinstance(caller, AgentIdentity):
            raise Refused(403, _forbidden(caller, "agents", "use the certificate of a node"))
        return await endpoint(control, request, caller)

    return explained(serve)


def for_operators(control: Control, endpoint: ForOperators) -> Endpoint:
    """An endpoint that serves operators."""

    async def serve(request: Request) -> Response:
        caller = identify(control, request)
        if not isinstance(caller, OperatorIdentity):
            raise Refused(403, _forbidden(caller, "operators", "use an operator's certificate"))
        return await endpoint(control, request, caller)

    return explained(serve)


def identify(control: Control, request: Request) -> Identity:
    """The caller. Raises Refused(401)."""
    tls = request.scope.get("extensions", {}).get("tls") or {}
    chain = tls.get("client_cert_chain") or ()
    if not chain:
        raise Refused(
            401,
            Problem(
                code="certificate_missing",
                message="the connection brought no client certificate",
                hint="operators: edgectl with the directory that `edge-orchestrator init` wrote; nodes: join first",
            ),
        )
    try:
        return control.authority.identify(chain[0], utc_now())
    except IdentityUnknown as error:
        hint = "operators: ask for a new certificate; nodes: join again with a new token"
        raise Refused(401, Problem(code="certificate_refused", message=str(error), hint=hint)) from error


def _forbidden(caller: Identity, whom: str, hint: str) -> Problem:
    return Problem(code="forbidden", message=f"this path is for {whom}, and the caller is {caller}", hint=hint)
