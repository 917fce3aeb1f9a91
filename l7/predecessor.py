"""The incarnation before: what it has still, while its connections end, and what it has counted."""

from dataclasses import dataclass

from l7.handover import Standing
from orchestrator.contract.report import LeavingIncarnation


@dataclass(frozen=True, slots=True)
class Predecessor:
    """As it was last heard of."""

    standing: Standing
    incarnation: int = 0
    ends_at: float = 0.0
    """Unix time at which what is left then is reset."""
    is_leaving: bool = False
    """False: it serves still, or is gone."""

    def leaving(self, now: float) -> LeavingIncarnation | None:
        """For the status; None if it is not leaving (any more). `now`: Unix time."""
        if not self.is_leaving:
            return None
        standing = self.standing
        return LeavingIncarnation(
            incarnation=self.incarnation,
            workers=standing.workers,
            open_flows=standing.open_flows,
            requests_in_flight=standing.requests_in_flight,
            ends_in_s=max(0.0, self.ends_at - now),
        )
