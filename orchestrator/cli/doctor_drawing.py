"""A diagnosis as a tree: nodes that are well in a line, the others with every check, findings in full."""

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from orchestrator.cli.diagnosis import FLEET, Diagnosis
from orchestrator.contract.checkup import CheckResult, Severity

_MARKS = {
    Severity.OK: ("✓", "green"),
    Severity.UNKNOWN: ("?", "dim"),
    Severity.WARNING: ("!", "yellow"),
    Severity.FAILURE: ("✗", "bold red"),
}
_LABEL_WIDTH = 10


def drawn(diagnosis: Diagnosis, *, verbose: bool) -> RenderableType:
    """The last line is the verdict."""
    parts: list[RenderableType] = []
    for node, results in diagnosis.results.items():
        findings = [result for result in results if result.is_finding]
        if node == FLEET and not findings:
            continue
        parts.append(_node(node, results) if findings or verbose else _well(node, results))
    return Group(*parts, _verdict(diagnosis))


def _well(node: str, results: list[CheckResult]) -> Text:
    line = Text.assemble(_mark(Severity.OK), " ", (node, "bold"), f"  {len(results)} checks")
    unknown = [result.title for result in results if result.severity is Severity.UNKNOWN]
    if unknown:
        line.append(f"; not looked at: {', '.join(unknown)}", style="dim")
    mended = [result.title for result in results if result.mended_by]
    if mended:
        line.append(f"; mended: {', '.join(mended)}", style="yellow")
    return line


def _node(node: str, results: list[CheckResult]) -> Tree:
    worst = max((result.severity for result in results), key=list(Severity).index, default=Severity.OK)
    tree = Tree(Text.assemble(_mark(worst), " ", (node, "bold")))
    for result in results:
        line = Text.assemble(_mark(result.severity), " ", result.title, (f": {result.seen}", "not bold"))
        if result.mended_by:
            line.append(f" (mended by `{result.mended_by}`)", style="yellow")
        branch = tree.add(line)
        if result.is_finding:
            _explain(branch, result)
    return tree


def _explain(branch: Tree, result: CheckResult) -> None:
    told = {"expected": result.expected, "why": result.why, "mend": result.mend, "to do": result.advice}
    for label, words in told.items():
        if words:
            style = "bold" if label == "mend" else "not dim"
            suffix = "   (--fix does this)" if label == "mend" and result.fixable else ""
            branch.add(Text.assemble((label.ljust(_LABEL_WIDTH), "dim"), (words, style), (suffix, "dim")))


def _verdict(diagnosis: Diagnosis) -> Text:
    findings = diagnosis.findings
    nodes = sum(1 for node in diagnosis.results if node != FLEET)
    if not findings:
        return Text(f"nothing found on {nodes} nodes", style="green")
    sick = {node for node, _ in findings}
    fixable = sum(1 for _, result in findings if result.fixable)
    text = f"{len(findings)} finding{'' if len(findings) == 1 else 's'} on {len(sick)} of {nodes} nodes"
    return Text(text + (f"; `edgectl doctor --fix` mends {fixable} of them" if fixable else ""), style="bold red")


def _mark(severity: Severity) -> tuple[str, str]:
    return _MARKS[severity]
