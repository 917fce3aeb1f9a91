"""What operators ask of the guard."""

import logging

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api.answers import answer, read_body
from orchestrator.contract.operator_guard import MAX_LIST_BODY_BYTES, LimitRequest, ListRequest, RemovalRequest
from orchestrator.fleet import guard
from orchestrator.fleet.authority import OperatorIdentity
from orchestrator.fleet.control import Control
from orchestrator.fleet.guard_view import guard_view

log = logging.getLogger(__name__)


async def show(control: Control, _request: Request, _operator: OperatorIdentity) -> Response:
    return answer(guard_view(control.present, control.board))


async def put_on_list(control: Control, request: Request, operator: OperatorIdentity) -> Response:
    body = await read_body(request, ListRequest, MAX_LIST_BODY_BYTES)
    log.info("%s asks the guard to %s %d prefixes (force %s)", operator, body.verdict, len(body.prefixes), body.force)
    return answer(
        await control.change_guard(
            lambda present: guard.put_on_list(present.fleet, present.configuration, body, control.wall())
        )
    )


async def take_off_list(control: Control, request: Request, operator: OperatorIdentity) -> Response:
    body = await read_body(request, RemovalRequest, MAX_LIST_BODY_BYTES)
    log.info("%s takes %s off the guard's lists", operator, "everything" if body.everything else len(body.prefixes))
    return answer(await control.change_guard(lambda present: guard.take_off_list(present.fleet, body)))


async def set_limit(control: Control, request: Request, operator: OperatorIdentity) -> Response:
    body = await read_body(request, LimitRequest)
    log.info("%s limits %s of %s: %s", operator, body.of, body.vip or "all", guard.in_words(body.limit))
    return answer(
        await control.change_guard(lambda present: guard.set_limit(present.fleet, present.configuration, body))
    )


async def reset_limits(control: Control, _request: Request, operator: OperatorIdentity) -> Response:
    log.info("%s resets the guard's limits", operator)
    return answer(await control.change_guard(lambda present: guard.reset_limits(present.fleet)))
