"""HTTPS to the orchestrators: mutual TLS, several addresses, bounded waits and bodies, errors that say what to do."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx2
from pydantic import ValidationError

from orchestrator.contract.wire import Problem, Problems

#: Seconds to connect (TCP and TLS): three SYNs go out in that time (RFC 6298: 1 s, then 2 s).
CONNECT_S = 3.0
#: Seconds for an answer beyond the wait that a long poll asks for.
ANSWER_S = 10.0


class OrchestratorUnreachable(Exception):
    """No address answered. Worth another attempt later."""


class OrchestratorRefused(Exception):
    """An orchestrator answered, with problems. `status` is the HTTP status; a new attempt needs a change first."""

    def __init__(self, status: int, problems: tuple[Problem, ...]) -> None:
        self.status = status
        self.problems = problems
        super().__init__("; ".join(_in_words(problem) for problem in problems))


def _in_words(problem: Problem) -> str:
    where = f"{problem.path}: " if problem.path else ""
    hint = f" ({problem.hint})" if problem.hint else ""
    return f"{where}{problem.message} [{problem.code}]{hint}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer."""

    status: int
    body: bytes


def verified_context(
    ca_file: str | None = None, *, ca_pem: str | None = None, certificate: tuple[str, str] | None = None
) -> ssl.SSLContext:
    """TLS that trusts this CA and no other, and shows `certificate` (certificate file, key file).

    Raises OSError (ssl.SSLError is one) if a file is missing or is not PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=ca_file, cadata=ca_pem)
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


def unverified_context() -> ssl.SSLContext:
    """TLS that believes nobody. Only for fetching a CA certificate that is then compared with a pinned hash."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Connection:
    """Keep-alive connections to the first orchestrator that answers. Use as an async context manager."""

    def __init__(self, endpoints: tuple[str, ...], context: ssl.SSLContext, *, max_answer_bytes: int) -> None:
        self._endpoints = endpoints
        self._at = 0
        self._max_answer_bytes = max_answer_bytes
        # trust_env off: a proxy variable in the environment must not lead the control plane astray.
        self._http = httpx2.AsyncClient(verify=context, trust_env=False, follow_redirects=False)

    def __repr__(self) -> str:
        return f"Connection({self.endpoint}, {len(self._endpoints)} known)"

    @property
    def endpoint(self) -> str:
        """The orchestrator that the next request goes to."""
        return self._endpoints[self._at]

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: str | None = None,
        query: Mapping[str, str] | None = None,
        wait_s: float = 0,
        answer_s: float = ANSWER_S,
    ) -> Answer:
        """One request, to the present orchestrator; a failure makes the next one the present one.

        `wait_s` is what a long poll asks the orchestrator to wait, `answer_s` how long an answer may take beyond that.
        Raises OrchestratorUnreachable, OrchestratorRefused.
        """
        endpoint = self.endpoint
        headers = {"content-type": "application/json"} if body is not None else {}
        timeout = httpx2.Timeout(answer_s + wait_s, connect=CONNECT_S)
        try:
            async with self._http.stream(
                method, endpoint + path, params=dict(query or {}), content=body, headers=headers, timeout=timeout
            ) as response:
                received = bytearray()
                async for chunk in response.aiter_bytes():
                    received += chunk
                    if len(received) > self._max_answer_bytes:
                        raise OrchestratorUnreachable(
                            f"{endpoint}{path}: the answer is larger than {self._max_answer_bytes} bytes"
                        )
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            self._turn()
            raise OrchestratorUnreachable(f"{endpoint}: {_root_cause(error)}") from error
        if response.status_code >= 500:  # the orchestrator's own fault, or it is going away
            self._turn()
            raise OrchestratorUnreachable(f"{endpoint}{path}: HTTP {response.status_code}")
        if not 200 <= response.status_code < 300:
            raise OrchestratorRefused(response.status_code, _problems(response.status_code, bytes(received)))
        return Answer(response.status_code, bytes(received))

    def _turn(self) -> None:
        self._at = (self._at + 1) % len(self._endpoints)


def _root_cause(error: BaseException) -> str:
    """The innermost exception that has something to say: "certificate verify failed", "Connection refused"."""
    words = type(error).__name__
    inner: BaseException | None = error
    while inner is not None:
        words = str(inner) or words
        inner = inner.__cause__ or inner.__context__
    return words


def _problems(status: int, body: bytes) -> tuple[Problem, ...]:
    try:
        return Problems.model_validate_json(body).problems
    except ValidationError:
        return (Problem(code="not_understood", message=f"HTTP {status} with a body that is not a list of problems"),)
