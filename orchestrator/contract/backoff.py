"""Waiting between attempts: longer each time, bounded, and never in step with the neighbours."""

from dataclasses import dataclass, field
from random import SystemRandom

#: First wait and longest wait, in seconds. A thousand agents that lose their orchestrator at once come back spread
#: over seconds (exponential backoff with jitter: Brooker, AWS Architecture Blog, 2015; "equal jitter" keeps a floor).
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 5.0


@dataclass(slots=True)
class Backoff:
    """Yields the waits of one sequence of failures; `reset` after a success."""

    first_s: float = FIRST_WAIT_S
    longest_s: float = LONGEST_WAIT_S
    random: SystemRandom = field(default_factory=SystemRandom)
    failures: int = 0

    def next_wait_s(self) -> float:
        """How long to wait after one more failure."""
        # The exponent is bounded, so that an orchestrator that stays away for years overflows nothing.
        ceiling = min(self.longest_s, self.first_s * float(2 ** min(self.failures, 16)))
        self.failures += 1
        return ceiling / 2 + self.random.random() * ceiling / 2

    def reset(self) -> None:
        self.failures = 0
