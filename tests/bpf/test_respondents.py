"""Questions that reach an agent are answered from its kernel, or refused with what to do."""

from pathlib import Path

import pytest

from l4.balancer_program import BalancerProgram
from l4.checks.check import Place
from l4.respondents import BalancerRespondent
from orchestrator.contract.inquiry import Answer, Trace, TraceAnswer, TraceArrival, Verdict
from orchestrator.contract.node import AgentRole
from orchestrator.contract.respondent import InquiryRefused
from orchestrator.contract.state_directory import StateDirectory
from tests.bpf.test_capture import Agent, fed
from tests.bpf.test_trace import CASES, probe

pytestmark = pytest.mark.kernel

__all__ = ["fed"]


async def test_a_trace_is_answered_and_what_is_not_for_a_balancer_is_refused(fed: BalancerProgram) -> None:
    answers: list[Answer] = []
    place = Place(AgentRole.BALANCER, "lo", Path(), StateDirectory(Path()))
    respondent = BalancerRespondent(Agent(fed), "lo", place)  # type: ignore[arg-type]  # only `inspect` is asked

    async def post(answer: Answer) -> None:
        answers.append(answer)

    await respondent.respond(Trace(probe=probe(CASES["ipv4"], "A")), post)
    (answer,) = answers
    assert isinstance(answer, TraceAnswer)
    assert (answer.verdict, answer.owner) == (Verdict.SENT, "proxy-11")
    with pytest.raises(InquiryRefused) as refused:
        await respondent.respond(TraceArrival(frame=b""), post)
    assert refused.value.problem.code == "not_supported"
