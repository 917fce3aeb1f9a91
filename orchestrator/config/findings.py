"""Findings: everything that is wrong with a configuration, collected before anything is said."""

from dataclasses import dataclass, field

from orchestrator.contract.wire import Problem

#: Findings that are kept. A file of the wrong kind yields one per line, and nobody reads more than the first page.
MAX_FINDINGS = 200


class ConfigurationRefused(Exception):
    """The configuration cannot be put in force. `problems` has every finding, in the order of the files."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__(f"{len(problems)} findings; first: {problems[0].path}: {problems[0].message}")


@dataclass(slots=True)
class Findings:
    """A list that only grows."""

    problems: list[Problem] = field(default_factory=list)
    dropped: int = 0

    def add(self, code: str, place: object, message: str, hint: str) -> None:
        """`place` is a path or a `Place`; its text tells the reader where to look."""
        problem = Problem(code=code, message=message, path=str(place), hint=hint)
        if len(self.problems) < MAX_FINDINGS:
            self.problems.append(problem)
        else:
            self.dropped += 1

    def raise_if_any(self) -> None:
        """Raises ConfigurationRefused unless there is nothing to say."""
        if not self.problems:
            return
        problems = sorted(self.problems, key=_position)
        if self.dropped:
            problems.append(
                Problem(code="too_many", message=f"{self.dropped} more findings", hint="correct these first")
            )
        raise ConfigurationRefused(tuple(problems))


def _position(problem: Problem) -> tuple[str, int, int]:
    parts = (problem.path or "").split(" ", 1)[0].rsplit(":", 2)
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        return parts[0], int(parts[1]), int(parts[2])
    return problem.path or "", 0, 0
