"""Inquiries: operators ask, agents answer. `orchestrator.fleet.inquiries` says how."""

import logging

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api.answers import answer, read_body
from orchestrator.api.queries import number
from orchestrator.contract.inquiry import InquiryAsked, InquiryRequest, Piece, PieceTaken
from orchestrator.contract.node import AgentIdentity
from orchestrator.contract.wire import MAX_WAIT_S
from orchestrator.fleet.authority import OperatorIdentity
from orchestrator.fleet.control import Control

log = logging.getLogger(__name__)


async def ask(control: Control, request: Request, operator: OperatorIdentity) -> Response:
    body = await read_body(request, InquiryRequest)
    name = request.path_params["name"]
    asked = control.ask(str(operator), name, body.question)
    # Who looked into whose packets stays on record; what they asked for holds no secret.
    log.info("%s asks %s: %s", operator, name, body.question.model_dump_json(exclude_defaults=True, exclude={"frame"}))
    return answer(InquiryAsked(id=asked))


async def progress(control: Control, request: Request, operator: OperatorIdentity) -> Response:
    wait_s = number(request, "wait", 0, MAX_WAIT_S)
    return answer(await control.inquiries.progress(str(operator), request.path_params["id"], wait_s))


async def cancel(control: Control, request: Request, operator: OperatorIdentity) -> Response:
    control.inquiries.cancel(str(operator), request.path_params["id"])
    return Response(status_code=204)


async def next_inquiry(control: Control, request: Request, agent: AgentIdentity) -> Response:
    inquiry = await control.inquiries.next_for(agent, number(request, "wait", 0, MAX_WAIT_S))
    return Response(status_code=204) if inquiry is None else answer(inquiry)


async def piece(control: Control, request: Request, agent: AgentIdentity) -> Response:
    body = await read_body(request, Piece)
    wanted = await control.inquiries.take_piece(agent, request.path_params["id"], body)
    return answer(PieceTaken(wanted=wanted))
