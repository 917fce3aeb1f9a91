"""A traced packet, drawn as the path that it would take."""

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from orchestrator.cli.tracing import Hop, Path, Traced
from orchestrator.contract.inquiry import TracedStep, Verdict

_STYLES = {Verdict.SENT: "green", Verdict.PASSED: "green", Verdict.DROPPED: "red", Verdict.ABORTED: "red"}
_LONGEST_NAME = 12


def drawn(traced: Traced) -> RenderableType:
    """A tree: the packet, each L4 node below it, and below each of these the proxies on the way."""
    first = traced.paths[0].answer.steps[0].words if traced.paths else "nobody told"
    tree = Tree(Text(first, style="bold"))
    for path in traced.paths:
        add_path(tree.add(Text(path.node, style="bold")), path)
    return tree


def add_path(branch: Tree, path: Path) -> None:
    """What an L4 node would do, and the proxies on the way from there."""
    _add_steps(branch, path.answer.steps[1:], path.answer.verdict)
    _add_hops(branch, path)


def labelled(name: str, words: str, style: str = "not dim") -> Text:
    """One line: what it is about, and what there is to say."""
    return Text(name.replace("_", " ").ljust(_LONGEST_NAME), style="dim").append(words, style=style)


def _add_hops(branch: Tree, path: Path) -> None:
    for hop in path.hops:
        branch = branch.add(Text(hop.node, style="bold"))
        if hop.answer is None:
            branch.add(Text(_problem_in_words(hop), style="yellow"))
        else:
            _add_steps(branch, hop.answer.steps[1:], hop.answer.verdict)


def _add_steps(branch: Tree, steps: tuple[TracedStep, ...], verdict: Verdict) -> None:
    for step in steps:
        branch.add(labelled(step.what, step.words, _STYLES[verdict] if step.what == "verdict" else "not dim"))


def _problem_in_words(hop: Hop) -> str:
    if hop.problem is None:
        return "did not tell"
    return hop.problem.message + (f" ({hop.problem.hint})" if hop.problem.hint else "")
