"""YAML files, and places in them."""

import math
from dataclasses import dataclass
from datetime import date
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from orchestrator.config.findings import Findings

#: Values in one file. Aliases make a small file large ("billion laughs"): they are counted each time they are used.
MAX_VALUES_PER_FILE = 200_000
#: Levels of nesting; the schema needs eight.
MAX_DEPTH = 32

Step = str | int


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file: its path, the tree with positions, and the same tree as plain lists and dicts."""

    path: str
    tree: Any
    plain: Any


@dataclass(frozen=True, slots=True)
class Place:
    """A value in a document, or where it would stand."""

    document: Document
    steps: tuple[Step, ...] = ()
    on_key: bool = False
    """Points to the key rather than to its value: for fields that should not be there."""

    def at(self, *steps: Step, on_key: bool = False) -> "Place":
        """A place further in."""
        return Place(self.document, self.steps + steps, on_key)

    @property
    def position(self) -> str:
        """`platform.yaml:12:9`; of what surrounds it if the value itself is not there."""
        line, column = _mark(self.document.tree, self.steps, self.on_key)
        return f"{self.document.path}:{line + 1}:{column + 1}"

    @property
    def field(self) -> str:
        """`vips[1].mode`."""
        text = ""
        for step in self.steps:
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return text

    def __str__(self) -> str:
        return f"{self.position} {self.field}".rstrip()


def read_document(path: str, text: str, findings: Findings) -> Document | None:
    """Parse; None after a finding. An empty file is an empty mapping."""
    try:
        tree = YAML(typ="rt", pure=True).load(text)
        plain = {} if tree is None else _plain(tree, _Budget())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        duplicate = "duplicate key" in (error.problem or "")
        findings.add(
            "duplicate_key" if duplicate else "yaml_syntax",
            where,
            error.problem or str(error),
            "keep one of the two" if duplicate else "correct the YAML; a quote or an indent is often all it takes",
        )
    except YAMLError as error:
        findings.add("yaml_syntax", path, str(error).splitlines()[0], "the file must be UTF-8 text without controls")
    except TypeError:
        # ruamel.yaml looks keys up before it looks at them; one that is a mapping has no hash.
        findings.add("wrong_shape", path, "a key is a list or a mapping", "a key is text: mind the blank after a colon")
    except RecursionError:
        findings.add("too_deep", path, f"nested deeper than {MAX_DEPTH} levels", "no field needs that")
    except _Unusable as error:
        findings.add(error.code, path, str(error), error.hint)
    else:
        if isinstance(plain, dict):
            return Document(path, CommentedMap() if tree is None else tree, plain)
        findings.add("wrong_shape", f"{path}:1:1", "the file is not a mapping", "begin with a field, such as `vips:`")
    return None


class _Unusable(Exception):
    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


@dataclass(slots=True)
class _Budget:
    values: int = MAX_VALUES_PER_FILE


def _plain(value: Any, budget: _Budget, depth: int = 0) -> Any:
    """The tree as JSON knows it."""
    budget.values -= 1
    if budget.values < 0:
        raise _Unusable("too_large", f"more than {MAX_VALUES_PER_FILE} values", "split the file; use no aliases")
    if depth > MAX_DEPTH:
        raise _Unusable("too_deep", f"nested deeper than {MAX_DEPTH} levels", "no field needs that")
    if isinstance(value, CommentedMap):
        for key in value:
            if not isinstance(key, str):
                raise _Unusable("wrong_shape", f"the key {str(key)[:80]!r} is not text", "put it in quotes")
        return {str(key): _plain(item, budget, depth + 1) for key, item in value.items()}
    if isinstance(value, CommentedSeq):
        return [_plain(item, budget, depth + 1) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, date):
        return value.isoformat()
    raise _Unusable("wrong_shape", f"a value of type {type(value).__name__}", "use text, numbers, true or false")


def _mark(tree: Any, steps: tuple[Step, ...], on_key: bool) -> tuple[int, int]:
    mark = (0, 0)
    for index, step in enumerate(steps):
        if isinstance(tree, CommentedMap) and isinstance(step, str) and step in tree:
            last = index == len(steps) - 1
            position = tree.lc.data.get(step) if tree.lc.data else None
            if position is not None:  # keys that came by a merge have none
                mark = (position[0], position[1]) if last and on_key else (position[2], position[3])
        elif isinstance(tree, CommentedSeq) and isinstance(step, int) and 0 <= step < len(tree):
            position = tree.lc.data.get(step) if tree.lc.data else None
            if position is not None:
                mark = (position[0], position[1])
        else:
            break
        tree = tree[step]
    return mark
