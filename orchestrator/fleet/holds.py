"""Conditions that must hold without a break for a while before anything is made of them."""

from dataclasses import dataclass, field

Condition = tuple[str, ...]


@dataclass(slots=True)
class Holds:
    """Since when which condition holds, in monotonic seconds."""

    since: dict[Condition, float] = field(default_factory=dict)

    def update(self, holding: set[Condition], now: float) -> None:
        """These hold now, and no others: who is not named begins anew."""
        self.since = {condition: self.since.get(condition, now) for condition in holding}

    def held_for(self, condition: Condition, now: float) -> float:
        return now - self.since[condition] if condition in self.since else 0.0
