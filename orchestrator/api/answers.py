"""Requests read with bounds, and answers: JSON, or problems that say what to do."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from orchestrator.config.findings import ConfigurationRefused
from orchestrator.contract.base import Contract
from orchestrator.contract.token import TokenMalformed
from orchestrator.contract.wire import Problem, Problems
from orchestrator.fleet.authority import RequestUnusable
from orchestrator.fleet.document import FleetRefused
from orchestrator.fleet.tokens import TokenRefused
from orchestrator.state.store import LeaseLost, StoreUnusable

log = logging.getLogger(__name__)

#: Bytes of a body where nothing else is said: a report with hundreds of tables or servers stays below.
MAX_BODY_BYTES = 1024 * 1024
#: Bytes beyond the limit that are read and thrown away, so that the client reads the refusal instead of a reset
#: (nginx's lingering_close does the same for 30 s).
MAX_DISCARDED_BYTES = 64 * 1024 * 1024
#: Seconds for a body to arrive (nginx's client_body_timeout is 60 s between two reads; ours is for the whole).
BODY_S = 30.0

M = TypeVar("M", bound=Contract)
Endpoint = Callable[[Request], Awaitable[Response]]


class Refused(Exception):
    """Answered with `status` and these problems."""

    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(problem.message)
        self.status = status
        self.problem = problem


def answer(value: BaseModel) -> Response:
    return Response(value.model_dump_json(), media_type="application/json")


def answer_list(adapter: TypeAdapter[tuple[M, ...]], values: tuple[M, ...]) -> Response:
    return Response(adapter.dump_json(values), media_type="application/json")


def problems(status: int, found: Sequence[Problem]) -> Response:
    body = Problems(problems=tuple(found)).model_dump_json(exclude_none=True)
    return Response(body, status_code=status, media_type="application/json")


async def read_body(request: Request, model: type[M], limit: int = MAX_BODY_BYTES) -> M:
    """The request's body as `model`; an empty one counts as `{}`. Raises Refused."""
    body = bytearray()
    received = 0
    try:
        with trio.fail_after(BODY_S):
            async for chunk in request.stream():
                received += len(chunk)
                if received <= limit:
                    body += chunk
                elif received > limit + MAX_DISCARDED_BYTES:
                    break
    except trio.TooSlowError as error:
        message = f"the body did not arrive within {BODY_S:.0f} s"
        raise Refused(408, Problem(code="too_slow", message=message, hint="try again")) from error
    except ClientDisconnect as error:
        raise Refused(400, Problem(code="disconnected", message="the body ended early", hint="try again")) from error
    if received > limit:
        message = f"the body is larger than {limit} bytes"
        raise Refused(413, Problem(code="too_large", message=message, hint="send less"))
    try:
        return model.model_validate_json(bytes(body) or b"{}")
    except ValidationError as error:
        raise Invalid(error) from error


class Invalid(Exception):
    """A body that is not what it should be."""

    def __init__(self, error: ValidationError) -> None:
        super().__init__(f"{error.error_count()} findings")
        self.problems = tuple(
            Problem(
                code="invalid_body",
                message=detail["msg"],
                path=".".join(str(step) for step in detail["loc"]) or None,
                hint="see the contract of this path",
            )
            for detail in error.errors(include_input=False, include_url=False)[:50]
        )


def explained(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with every refusal that it may raise turned into an answer."""

    async def explain(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refused as error:
            return problems(error.status, [error.problem])
        except (Invalid, ConfigurationRefused) as error:
            return problems(422, error.problems)
        except FleetRefused as error:
            status = {"not_found": 404, "busy": 503}.get(error.code, 409)
            found = Problem(code=error.code, message=str(error), path=error.path, hint=error.hint)
            return problems(status, [found])
        except TokenRefused as error:
            log.warning("token refused: %s", error)
            return problems(403, [Problem(code=error.code, message=str(error), path="token", hint=error.hint)])
        except TokenMalformed as error:
            found = Problem(code="token_malformed", message=str(error), path="token", hint="copy the whole line")
            return problems(422, [found])
        except RequestUnusable as error:
            found = Problem(code="signing_request", message=str(error), path="csr_pem", hint="EC P-256, PEM")
            return problems(422, [found])
        except (LeaseLost, StoreUnusable) as error:
            log.error("%s %s: %s", request.method, request.url.path, error)
            found = Problem(code="not_leader", message="this orchestrator cannot write now", hint="try another")
            return problems(503, [found])

    return explain


async def explain_http_error(_request: Request, error: Exception) -> Response:
    """For what no endpoint sees: unknown paths and methods."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "there is no such path", 405: "this path does not take this method"}
    message = words.get(status, "the request cannot be served")
    return problems(status, [Problem(code=f"http_{status}", message=message, hint="see the contract: /v1/...")])
