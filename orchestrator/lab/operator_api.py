"""The operator API without a process for each question: for what is asked many times a second.

What an operator does once is done by `edgectl`, so that the lab tests what people use (`edgectl`).
"""

import http.client
import threading
import time
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from orchestrator.contract import operator
from orchestrator.contract.base import Contract
from orchestrator.contract.connection import verified_context
from orchestrator.contract.wire import Problems
from orchestrator.lab.errors import LabError
from orchestrator.lab.lab import Lab
from orchestrator.lab.sockets import connected

View = TypeVar("View")

#: Seconds for an answer. A change is stored and compiled for every node before it is answered.
ANSWER_S: Final = 30.0

#: After so many seconds of idleness, or so many questions, a connection is not used again. The orchestrator closes such
#: ones, and a change that met the end of its connection could not be asked for twice (RFC 9112 section 9.3.1).
IDLE_S: Final = 2.0
MOST_QUESTIONS: Final = 500


class Unreachable(LabError):
    """The orchestrator does not answer."""


class Refused(LabError):
    """The orchestrator said no."""

    def __init__(self, status: int, codes: tuple[str, ...], text: str) -> None:
        super().__init__(text)
        self.status = status
        self.codes = codes


class OperatorApi:
    """One keep-alive connection to a lab's orchestrator, made when it is needed. Methods block; any thread may call."""

    def __init__(self, lab: Lab) -> None:
        context = operator.OperatorContext.model_validate_json((lab.operator / "context.json").read_text())
        self._namespace = lab.topology.control.namespace
        self._endpoint = urlsplit(context.endpoints[0])
        self._tls = verified_context(
            str(lab.operator / "ca.pem"),
            certificate=(str(lab.operator / "operator.pem"), str(lab.operator / "operator.key")),
        )
        self._http: http.client.HTTPConnection | None = None
        self._used_at = 0.0
        self._questions = 0
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The next question makes a new connection."""
        with self._turn:
            self._drop()

    def status(self) -> operator.StatusView:
        """Raises Unreachable."""
        return operator.StatusView.model_validate_json(self.request("GET", operator.STATUS))

    def listed(self, path: str, views: TypeAdapter[View]) -> View:
        """One of the lists of `orchestrator.contract.operator`. Raises Unreachable."""
        return views.validate_json(self.request("GET", path))

    def post(self, path: str, question: Contract | None = None) -> bytes:
        """Raises Refused, Unreachable."""
        return self.request("POST", path, question.model_dump_json() if question is not None else None)

    def request(self, method: str, path: str, body: str | None = None) -> bytes:
        """The body of a 2xx answer. Raises Refused, Unreachable."""
        with self._turn:
            if time.monotonic() - self._used_at > IDLE_S or self._questions >= MOST_QUESTIONS:
                self._drop()
            try:
                status, answer = self._exchange(method, path, body)
            except (OSError, http.client.HTTPException, LabError) as error:
                self._drop()
                raise Unreachable(f"the orchestrator does not answer {method} {path}: {error}") from error
        if status // 100 != 2:
            raise _refusal(status, answer)
        return answer

    def _exchange(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        connection = self._connection()
        connection.request(method, path, body, {"content-type": "application/json"} if body is not None else {})
        response = connection.getresponse()
        answer = response.read()
        self._used_at = time.monotonic()
        self._questions += 1
        if response.will_close:
            self._drop()
        return response.status, answer

    def _connection(self) -> http.client.HTTPConnection:
        if self._http is None:
            host, port = self._endpoint.hostname or "", self._endpoint.port or 443
            plain = connected(self._namespace, host, port, timeout_s=ANSWER_S)
            connection = http.client.HTTPConnection(host, port)
            connection.auto_open = 0  # it would connect anew from the wrong namespace
            connection.sock = self._tls.wrap_socket(plain, server_hostname=host)
            self._http = connection
            self._questions = 0
        return self._http

    def _drop(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None


def _refusal(status: int, body: bytes) -> Refused:
    try:
        problems = Problems.model_validate_json(body).problems
    except ValidationError:
        return Refused(status, (), f"HTTP {status}: {body[:200]!r}")
    return Refused(status, tuple(p.code for p in problems), "; ".join(f"{p.message} [{p.code}]" for p in problems))
