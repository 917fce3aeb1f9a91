"""What a proxy answers operators: that it was restarted, or why it was not."""

import trio

from l7.keeper_link import KeeperGone, KeeperLink
from orchestrator.contract.inquiry import Question
from orchestrator.contract.respondent import InquiryRefused, Post
from orchestrator.contract.restart import Restart, RestartAnswer


class ProxyRespondent:
    """Answers for one incarnation (`orchestrator.contract.respondent.Respondent`)."""

    def __init__(self, link: KeeperLink) -> None:
        self._link = link
        self._answering = 0
        self._idle = trio.Event()
        self._idle.set()

    async def respond(self, question: Question, post: Post) -> None:
        """Answers by any number of `post`. Raises InquiryRefused."""
        if not isinstance(question, Restart):
            raise InquiryRefused("not_answered_here", f"a proxy answers no {question.kind}", "ask its redirector")
        self._answering += 1
        self._idle = trio.Event()
        try:
            began = trio.current_time()
            try:
                outcome = await self._link.restart(question.grace_s)
            except KeeperGone as gone:
                raise InquiryRefused("keeper_gone", str(gone), "start edge-l7 on the node") from gone
            if outcome.code is not None:
                raise InquiryRefused(outcome.code, outcome.problem, outcome.hint)
            await post(RestartAnswer(incarnation=outcome.incarnation, took_s=trio.current_time() - began))
        finally:
            self._answering -= 1
            if not self._answering:
                self._idle.set()

    async def quiet(self) -> None:
        """Until no answer is under way."""
        await self._idle.wait()
