"""What agents ask for. An agent is served as the node and role that its certificate names; no path names another."""

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api.answers import answer, read_body
from orchestrator.api.queries import number
from orchestrator.contract.node import AgentIdentity
from orchestrator.contract.report import Report
from orchestrator.contract.token import parse_token
from orchestrator.contract.wire import MAX_WAIT_S, JoinRequest, RenewRequest
from orchestrator.fleet.control import Control

#: Versions stay exact in every JSON reader (RFC 8259 section 6).
MAX_VERSION = 2**53 - 1


async def ca(control: Control, _request: Request) -> Response:
    return Response(control.authority.pem, media_type="application/x-pem-file")


async def join(control: Control, request: Request) -> Response:
    body = await read_body(request, JoinRequest)
    return answer(await control.join(body, parse_token(body.token)))


async def snapshot(control: Control, request: Request, agent: AgentIdentity) -> Response:
    after = number(request, "after", 0, MAX_VERSION)
    wait_s = number(request, "wait", 0, MAX_WAIT_S)
    found = await control.next_snapshot(agent, int(after), wait_s)
    return Response(status_code=204) if found is None else Response(found, media_type="application/json")


async def report(control: Control, request: Request, agent: AgentIdentity) -> Response:
    control.take_report(agent, await read_body(request, Report))
    return Response(status_code=204)


async def certificate(control: Control, request: Request, agent: AgentIdentity) -> Response:
    body = await read_body(request, RenewRequest)
    return answer(control.renew(agent, body.csr_pem))
