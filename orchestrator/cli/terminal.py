"""Where output goes: results to stdout, all else to stderr; with `--json`, stdout holds one object and nothing else."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.cli.failure import Finding

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


#: Columns where nobody looks: wide, so that `grep` finds a row on one line.
PIPE_WIDTH = 1000


@dataclass
class Terminal:
    """One command's output."""

    as_json: bool = False
    _has_result: bool = field(default=False, init=False)

    @cached_property
    def out(self) -> "Console":
        from rich.console import Console

        # What is drawn is data, in which brackets are addresses and never markup.
        return Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)

    @cached_property
    def err(self) -> "Console":
        from rich.console import Console

        width = None if sys.stderr.isatty() else PIPE_WIDTH
        return Console(stderr=True, markup=False, emoji=False, highlight=False, width=width)

    def result(self, content: Mapping[str, Any], drawing: Callable[[], "RenderableType"]) -> None:
        """The command's one result: as JSON, or drawn."""
        self._has_result = True
        if self.as_json:
            sys.stdout.write(json.dumps(content, indent=2) + "\n")
            sys.stdout.flush()
        else:
            self.out.print(drawing())

    def note(self, text: str) -> None:
        """Something on the way, for a person."""
        from rich.text import Text

        self.err.print(Text(text, style="dim"))

    def progress_line(self, content: Mapping[str, Any], text: str) -> None:
        """One step of long work where no bar can be drawn: a JSON object a line with `--json`, else a plain line."""
        sys.stderr.write((json.dumps(content) if self.as_json else text) + "\n")
        sys.stderr.flush()

    def problems(self, findings: tuple[Finding, ...]) -> None:
        """What went wrong: in words on stderr; with `--json` also as `{"problems": [...]}` on stdout.

        Unless the result is there already: that is the one object, and itself says what failed.
        """
        from rich.text import Text

        for finding in findings:
            line = Text("error: ", style="bold red")
            if finding.path:
                line.append(f"{finding.path}: ", style="bold")
            line.append(finding.message, style="not bold default")
            line.append(f" [{finding.code}]", style="dim")
            self.err.print(line)
            if finding.hint:
                self.err.print(Text(f"  try: {finding.hint}", style="not bold"))
        if self.as_json and not self._has_result:
            sys.stdout.write(self.problems_json(findings))
            sys.stdout.flush()

    @staticmethod
    def problems_json(findings: tuple[Finding, ...]) -> str:
        """In the shape of the API's own errors (`orchestrator.contract.wire.Problems`)."""
        return json.dumps({"problems": [asdict(finding) for finding in findings]}, indent=2) + "\n"
