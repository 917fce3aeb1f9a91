"""What operators ask for."""

import logging

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api.answers import answer, answer_list, read_body
from orchestrator.contract.node import AgentIdentity
from orchestrator.contract.operator import (
    BACKEND_LIST,
    DRAIN_LIST,
    HOST_LIST,
    MAX_CONFIGURATION_BYTES,
    NODE_LIST,
    POOL_LIST,
    SITE_LIST,
    TABLE_LIST,
    VIP_LIST,
    ApplyRequest,
    DrainRequest,
    TokenAnswer,
    TokenRequest,
)
from orchestrator.fleet import site_views, views
from orchestrator.fleet.authority import OperatorIdentity
from orchestrator.fleet.control import Control

log = logging.getLogger(__name__)

#: JSON escapes make a text longer; twice is enough for YAML and PEM.
MAX_APPLY_BODY_BYTES = 2 * MAX_CONFIGURATION_BYTES


async def apply(control: Control, request: Request, operator: OperatorIdentity) -> Response:
    body = await read_body(request, ApplyRequest, MAX_APPLY_BODY_BYTES)
    log.info("%s applies %d files", operator, len(body.files))
    return answer(await control.apply(body.files))


async def status(control: Control, _request: Request, _operator: OperatorIdentity) -> Response:
    return answer(views.status_view(control.present, control.board, control.wall()))


async def vips(control: Control, _request: Request, _operator: OperatorIdentity) -> Response:
    return answer_list(VIP_LIST, views.vip_views(control.present, control.board))


async def pools(control: Control, _request: Request, _operator: OperatorIdentity) -> Response:
    return answer_list(POOL_LIST, views.pool_views(control.present, control.board, control.wall()))


async def sites(control: Control, _request: Request, _operator: OperatorIdentity) -> Response:
    return answer_list(SITE_LIST, site_views.site_views(control.present, control.board))


async def nodes(control: Control, _request: Request, _operator: OperatorIdentity) -> Response:
    return answer_list(NODE_LIST, views.node_views(control.present, control.board))


async def hosts(control: Control, _request: Request, _operator: OperatorIdentity) -> Response:
    return answer_list(HOST_LIST, views.host_views(control.present))


async def backends(control: Control, _request: Request, _operator: OperatorIdentity) -> Response:
    return answer_list(BACKEND_LIST, views.backend_views(control.present, control.board))


async def drains(control: Control, _request: Request, _operator: OperatorIdentity) -> Response:
    return answer_list(DRAIN_LIST, views.drain_views(control.present, control.board, control.wall()))


async def tables(control: Control, _request: Request, _operator: OperatorIdentity) -> Response:
    return answer_list(TABLE_LIST, views.table_views(control.present, control.board))


async def start_drain(control: Control, request: Request, operator: OperatorIdentity) -> Response:
    body = await read_body(request, DrainRequest)
    name = request.path_params["name"]
    log.info("%s asks to drain %s (%s)", operator, name, in_words(body))
    return answer(await control.start_drain(name, body))


async def get_drain(control: Control, request: Request, _operator: OperatorIdentity) -> Response:
    return answer(control.drain_of(request.path_params["name"]))


async def cancel_drain(control: Control, request: Request, _operator: OperatorIdentity) -> Response:
    return answer(await control.cancel_drain(request.path_params["name"]))


async def undrain(control: Control, request: Request, _operator: OperatorIdentity) -> Response:
    return answer(await control.undrain(request.path_params["name"]))


async def start_site_drain(control: Control, request: Request, operator: OperatorIdentity) -> Response:
    body = await read_body(request, DrainRequest)
    site = request.path_params["name"]
    log.info("%s asks to drain site %s (%s)", operator, site, in_words(body))
    return answer_list(DRAIN_LIST, await control.start_l4_drains(control.l4_nodes_of_site(site), body))


async def get_site_drain(control: Control, request: Request, _operator: OperatorIdentity) -> Response:
    names = control.l4_nodes_of_site(request.path_params["name"])
    return answer_list(DRAIN_LIST, tuple(map(control.drain_of, names)))


async def cancel_site_drain(control: Control, request: Request, _operator: OperatorIdentity) -> Response:
    names = control.l4_nodes_of_site(request.path_params["name"])
    return answer_list(DRAIN_LIST, await control.cancel_l4_drains(names))


async def undrain_site(control: Control, request: Request, _operator: OperatorIdentity) -> Response:
    names = control.l4_nodes_of_site(request.path_params["name"])
    return answer_list(DRAIN_LIST, await control.undrain_l4(names))


def in_words(request: DrainRequest) -> str:
    """For the log."""
    return f"deadline {request.deadline_s} s, force {request.force}, go dark {request.go_dark}"


async def issue_token(control: Control, request: Request, _operator: OperatorIdentity) -> Response:
    body = await read_body(request, TokenRequest)
    token, expires_at = await control.issue_token(AgentIdentity(node=body.node, role=body.role), body.ttl_s)
    return answer(TokenAnswer(token=str(token), expires_at=expires_at))
