"""From answers to a verdict: thresholds, so that one lost packet says nothing. Pure; time is the caller's."""

from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.contract.pool import Probe, ProbeKind
from orchestrator.contract.report import ProbeVerdict


class Answer(StrEnum):
    """What came of asking a member once."""

    GOOD = "good"
    """A connection was accepted; or, if a request was made, it was answered as expected."""
    BAD = "bad"
    """The host answers, but not so: it refused, or said something else, or was late with what a request asks for."""
    NONE = "none"
    """Nothing came back: as far as this node can tell, the host is not there."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer, and what an operator should read of it: "200 in 3 ms", "connection refused"."""

    answer: Answer
    detail: str


@dataclass(slots=True)
class Streak:
    """A yes or no that changes after so many equal answers in a row, and is unknown (None) before the first."""

    up_after: int
    down_after: int
    value: bool | None = None
    length: int = 0
    last: bool | None = None

    @property
    def is_in_doubt(self) -> bool:
        """The last answers say otherwise, and are too few to count."""
        return self.last is not None and self.last is not self.value

    def saw(self, is_good: bool) -> None:
        """One more answer."""
        self.length = self.length + 1 if is_good is self.last else 1
        self.last = is_good
        if self.length >= (self.up_after if is_good else self.down_after):
            self.value = is_good


@dataclass(slots=True)
class Lookout:
    """What this node knows of one member, at one VIP."""

    probe: Probe
    verdict: ProbeVerdict | None = None
    """None: not known yet."""
    detail: str = ""
    """Of the answer that decided last."""
    since: float = 0.0
    """When the verdict changed."""
    _reached: Streak = field(init=False)
    _accepted: Streak = field(init=False)
    _answered: Streak = field(init=False)

    def __post_init__(self) -> None:
        def streak() -> Streak:
            return Streak(self.probe.up_after, self.probe.down_after)

        self._reached, self._accepted, self._answered = streak(), streak(), streak()
        if self.probe.kind is ProbeKind.TCP:
            self._answered.value = True

    def saw_connection(self, asked: Asked, now: float) -> None:
        """What came of an attempt to connect."""
        self._reached.saw(asked.answer is not Answer.NONE)
        self._accepted.saw(asked.answer is Answer.GOOD)
        self._judge(asked, now, from_request=False)

    def saw_request(self, asked: Asked, now: float) -> None:
        """What came of a request, connection included."""
        self._answered.saw(asked.answer is Answer.GOOD)
        self._judge(asked, now, from_request=True)

    def is_in_doubt(self, *, of_requests: bool) -> bool:
        """Whether a few more answers of this kind might change the verdict."""
        if of_requests:
            return self._answered.is_in_doubt
        return self._accepted.is_in_doubt or self._reached.is_in_doubt

    def _judge(self, asked: Asked, now: float, *, from_request: bool) -> None:
        verdict = self._verdict()
        # The reason is that of the kind of asking which decides: of a healthy member, the one that asks for more.
        decides = from_request == (verdict is not ProbeVerdict.UNREACHABLE and self._accepted.value is not False)
        if decides or self.probe.kind is ProbeKind.TCP or verdict is not self.verdict:
            self.detail = asked.detail
        if verdict is not self.verdict:
            self.verdict, self.since = verdict, now

    def _verdict(self) -> ProbeVerdict | None:
        if self._reached.value is False:
            return ProbeVerdict.UNREACHABLE
        if self._accepted.value is False or self._answered.value is False:
            return ProbeVerdict.UNHEALTHY
        if self._accepted.value is None or self._answered.value is None:
            return None
        return ProbeVerdict.HEALTHY


def worst(lookouts: list[Lookout]) -> Lookout | None:
    """The one that speaks for a member of several pools: a host that answers anywhere is not unreachable. None: none
    of them knows yet.
    """
    known = [lookout for lookout in lookouts if lookout.verdict is not None]
    order = (ProbeVerdict.UNHEALTHY, ProbeVerdict.UNREACHABLE, ProbeVerdict.HEALTHY)
    if not known:
        return None
    found = min(known, key=lambda lookout: order.index(lookout.verdict or ProbeVerdict.HEALTHY))
    if found.verdict is ProbeVerdict.UNREACHABLE and any(each.verdict is ProbeVerdict.HEALTHY for each in known):
        return Lookout(found.probe, ProbeVerdict.UNHEALTHY, found.detail, found.since)
    return found
