"""Long work in named steps: a spinner and a bar on a terminal, lines elsewhere."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from orchestrator.cli.terminal import Terminal


class Steps:
    """A context manager whose `step` may be called from any thread."""

    def __init__(self, terminal: Terminal, title: str) -> None:
        self._terminal = terminal
        self._title = title
        self._last = ""
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if terminal.err.is_terminal and not terminal.as_json:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeElapsedColumn(),
                console=terminal.err,
                transient=True,
            )
            self._task = self._progress.add_task(title, total=None)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def step(self, text: str, fraction: float | None) -> None:
        """What happens now, and how much of the whole is done (0 to 1, None if unknown)."""
        if self._progress is not None and self._task is not None:
            total = None if fraction is None else 1.0
            self._progress.update(
                self._task, description=f"{self._title}: {text}", total=total, completed=fraction or 0
            )
        elif text != self._last:
            self._terminal.progress_line({"step": text, "fraction": fraction}, f"{self._title}: {text}")
        self._last = text
