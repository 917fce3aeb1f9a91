"""The operator API as typed calls, and its failures as exit codes."""

import functools
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import trio
from pydantic import TypeAdapter

from orchestrator.cli.context import Credentials, enter_network_namespace
from orchestrator.cli.failure import CommandFailed, ExitCode, Finding, failed
from orchestrator.contract import inquiry, operator, operator_guard
from orchestrator.contract.base import Contract
from orchestrator.contract.connection import Connection, OrchestratorRefused, OrchestratorUnreachable, verified_context

View = TypeVar("View")
Model = TypeVar("Model", bound=Contract)
T = TypeVar("T")

#: Largest answer that is read: a status of some thousand nodes.
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024

#: Refusals by which a guard protects traffic, as opposed to questions that make no sense.
GUARDS: Final = frozenset(
    {operator.CAPACITY_GUARD, operator.LAST_ANNOUNCER, "generations_full", "chains_in_use"}
    | {operator_guard.GUARD_TOO_WIDE, operator_guard.GUARD_OWN_ADDRESS}
)

#: Seconds more that a configuration may take. One with 4096 proxies and 1024 VIPs is 0.4 MB of YAML with every value's
#: line and column kept, and took 17 s to check on a busy machine.
APPLY_S: Final = 120.0


class FleetApi:
    """The orchestrators of a fleet. Raises OrchestratorUnreachable when none of them answered, OrchestratorRefused."""

    def __init__(self, connection: Connection, endpoints: int) -> None:
        self._connection = connection
        self._endpoints = endpoints

    async def status(self) -> operator.StatusView:
        return operator.StatusView.model_validate_json(await self._request("GET", operator.STATUS))

    async def listed(self, path: str, views: TypeAdapter[View]) -> View:
        """One of the lists of `orchestrator.contract.operator`."""
        return views.validate_json(await self._request("GET", path))

    async def apply(self, request: operator.ApplyRequest) -> operator.Applied:
        body = await self._request("POST", operator.CONFIGURATION, request.model_dump_json(), wait_s=APPLY_S)
        return operator.Applied.model_validate_json(body)

    async def drain(self, node: str, request: operator.DrainRequest) -> operator.DrainView:
        return await self._post(operator.NODE_DRAIN.format(name=node), request, operator.DrainView)

    async def drain_view(self, node: str) -> operator.DrainView:
        body = await self._request("GET", operator.NODE_DRAIN.format(name=node))
        return operator.DrainView.model_validate_json(body)

    async def cancel_drain(self, node: str) -> operator.DrainView:
        return await self._post(operator.NODE_DRAIN_CANCEL.format(name=node), None, operator.DrainView)

    async def undrain(self, node: str) -> operator.DrainView:
        return await self._post(operator.NODE_UNDRAIN.format(name=node), None, operator.DrainView)

    async def drain_site(self, site: str, request: operator.DrainRequest) -> tuple[operator.DrainView, ...]:
        return await self._post_for_drains(operator.SITE_DRAIN.format(name=site), request)

    async def site_drain_views(self, site: str) -> tuple[operator.DrainView, ...]:
        return await self.listed(operator.SITE_DRAIN.format(name=site), operator.DRAIN_LIST)

    async def cancel_site_drain(self, site: str) -> tuple[operator.DrainView, ...]:
        return await self._post_for_drains(operator.SITE_DRAIN_CANCEL.format(name=site), None)

    async def undrain_site(self, site: str) -> tuple[operator.DrainView, ...]:
        return await self._post_for_drains(operator.SITE_UNDRAIN.format(name=site), None)

    async def token(self, request: operator.TokenRequest) -> operator.TokenAnswer:
        return await self._post(operator.TOKENS, request, operator.TokenAnswer)

    async def guard(self) -> operator_guard.GuardView:
        return operator_guard.GuardView.model_validate_json(await self._request("GET", operator_guard.GUARD))

    async def put_on_list(self, request: operator_guard.ListRequest) -> operator_guard.GuardChanged:
        return await self._post(operator_guard.GUARD_LISTS, request, operator_guard.GuardChanged)

    async def take_off_list(self, request: operator_guard.RemovalRequest) -> operator_guard.GuardChanged:
        return await self._post(operator_guard.GUARD_REMOVALS, request, operator_guard.GuardChanged)

    async def set_guard_limit(self, request: operator_guard.LimitRequest) -> operator_guard.GuardChanged:
        return await self._post(operator_guard.GUARD_LIMITS, request, operator_guard.GuardChanged)

    async def reset_guard_limits(self) -> operator_guard.GuardChanged:
        return await self._post(operator_guard.GUARD_RESET, None, operator_guard.GuardChanged)

    async def ask(self, node: str, question: inquiry.Question) -> str:
        """Puts a question to an agent of `node`; the inquiry's id."""
        request = inquiry.InquiryRequest(question=question)
        return (await self._post(operator.NODE_INQUIRIES.format(name=node), request, inquiry.InquiryAsked)).id

    async def inquiry_progress(self, inquiry_id: str, wait_s: float) -> inquiry.InquiryProgress:
        """What has come in, as soon as there is something; empty after `wait_s`."""
        path = operator.INQUIRY.format(id=inquiry_id)
        body = await self._request("GET", path, query={"wait": str(wait_s)}, wait_s=wait_s)
        return inquiry.InquiryProgress.model_validate_json(body)

    async def cancel_inquiry(self, inquiry_id: str) -> None:
        await self._request("DELETE", operator.INQUIRY.format(id=inquiry_id))

    async def _post(self, path: str, question: Contract | None, answer: type[Model]) -> Model:
        body = question.model_dump_json() if question is not None else None
        return answer.model_validate_json(await self._request("POST", path, body))

    async def _post_for_drains(self, path: str, question: Contract | None) -> tuple[operator.DrainView, ...]:
        body = question.model_dump_json() if question is not None else None
        return operator.DRAIN_LIST.validate_json(await self._request("POST", path, body))

    async def _request(
        self,
        method: str,
        path: str,
        body: str | None = None,
        query: Mapping[str, str] | None = None,
        wait_s: float = 0,
    ) -> bytes:
        """Every orchestrator is asked once, beginning with the one that answered last."""
        reasons = []
        for _ in range(self._endpoints):
            try:
                return (await self._connection.request(method, path, body=body, query=query, wait_s=wait_s)).body
            except OrchestratorUnreachable as error:
                reasons.append(str(error))
        raise OrchestratorUnreachable("; ".join(reasons))


def call_fleet(credentials: Credentials, work: Callable[[FleetApi], Awaitable[T]]) -> T:
    """Run `work` against the fleet, in the context's network namespace. Raises CommandFailed with its exit code."""
    if credentials.context.network_namespace is not None:
        enter_network_namespace(credentials.context.network_namespace)
    try:
        return trio.run(functools.partial(_call, credentials, work))
    except OrchestratorRefused as error:
        raise refusal(error) from error
    except OrchestratorUnreachable as error:
        raise unreachable(error) from error


async def _call(credentials: Credentials, work: Callable[[FleetApi], Awaitable[T]]) -> T:
    try:
        context = verified_context(
            str(credentials.ca), certificate=(str(credentials.certificate), str(credentials.key))
        )
    except (OSError, ssl.SSLError) as error:
        raise failed(
            "bad_credentials",
            f"not a certificate and its key: {error}",
            path=str(credentials.certificate),
            hint="copy the whole context directory anew",
        ) from error
    endpoints = credentials.context.endpoints
    async with Connection(endpoints, context, max_answer_bytes=MAX_ANSWER_BYTES) as connection:
        return await work(FleetApi(connection, len(endpoints)))


def refusal(error: OrchestratorRefused) -> CommandFailed:
    """Exit code 3 if a guard refused, else 1."""
    exit_code = ExitCode.REFUSED if any(problem.code in GUARDS for problem in error.problems) else ExitCode.FAILED
    return CommandFailed(
        exit_code,
        *(Finding(problem.code, problem.message, problem.path, problem.hint) for problem in error.problems),
    )


def unreachable(error: OrchestratorUnreachable) -> CommandFailed:
    return CommandFailed(
        ExitCode.UNREACHABLE,
        Finding(
            "unreachable",
            f"no orchestrator answered: {error}",
            hint="traffic flows on without one; look whether `edge-orchestrator run` is up and reachable from here",
        ),
    )
