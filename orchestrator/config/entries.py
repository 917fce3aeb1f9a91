"""From plain values to entries of the schema, with findings that say what would be right."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.config.document import Document, Place, Step
from orchestrator.config.findings import Findings
from orchestrator.contract.base import Contract

E = TypeVar("E", bound=Contract)

#: Pydantic's error type → what to do.
_HINTS = {
    "int_type": "write a whole number, without quotes",
    "float_type": "write a number, without quotes",
    "bool_type": "write true or false, without quotes",
    "string_type": "write text; put it in quotes if YAML takes it for something else",
    "tuple_type": "write a list: `[a, b]`, or one `- ` per line",
    "model_type": "write a mapping: `{field: value}`",
    "ip_any_address": "write an IPv4 or IPv6 address; one with colons in quotes",
    "ip_v4_address": "write an IPv4 address, such as 192.0.2.1",
    "too_short": "add at least one entry",
    "value_error": "remove one of the two, or add the missing one",
    "string_pattern_mismatch": "a path begins with `/` and has printable ASCII only, no blanks",
    "greater_than": "stay within the limit",
    "greater_than_equal": "stay within the limit",
    "less_than": "stay within the limit",
    "less_than_equal": "stay within the limit",
}


@dataclass(frozen=True, slots=True)
class Placed(Generic[E]):
    """An entry, and where it stands."""

    value: E
    place: Place


def check_fields(document: Document, known: Iterable[str], findings: Findings) -> None:
    """A finding for each top-level field that the file cannot have."""
    known = tuple(known)
    for name in document.plain:
        if name not in known:
            findings.add(
                "unknown_field",
                Place(document, (name,), on_key=True),
                f"unknown field {name!r}",
                _instead(name, known),
            )


def read_list(document: Document, section: str, model: type[E], findings: Findings) -> list[Placed[E]]:
    """The valid entries of a list; a finding for each field of the others."""
    values = document.plain.get(section)
    place = Place(document, (section,))
    if values is None:
        return []
    if not isinstance(values, list):
        findings.add("wrong_shape", place, f"{section} is not a list", "begin each entry with `- `")
        return []
    entries = (_read(value, place.at(index), model, findings) for index, value in enumerate(values))
    return [entry for entry in entries if entry is not None]


def read_one(document: Document, section: str, model: type[E], findings: Findings) -> Placed[E] | None:
    """A section that is one mapping; None if it is absent or wrong."""
    value = document.plain.get(section)
    return None if value is None else _read(value, Place(document, (section,)), model, findings)


def names_in(document: Document, section: str) -> set[str]:
    """Names of all entries of a list, the wrong ones too: a reference to one of them is not a second finding."""
    values = document.plain.get(section)
    if not isinstance(values, list):
        return set()
    return {value["name"] for value in values if isinstance(value, dict) and isinstance(value.get("name"), str)}


def refuse_repeats(entries: Iterable[Placed[E]], name: Callable[[E], object], what: str, findings: Findings) -> None:
    """A finding for each entry whose `name` an earlier one has; it says where that is."""
    first: dict[object, Place] = {}
    for entry in entries:
        key = name(entry.value)
        if key in first:
            findings.add(
                "duplicate",
                entry.place,
                f"{what} {key} is there already, at {first[key].position}",
                "rename one of the two",
            )
        else:
            first[key] = entry.place


def _read(value: Any, place: Place, model: type[E], findings: Findings) -> Placed[E] | None:
    try:
        # Strict, and by way of JSON: text is not taken for a number, nor `true` for 1.
        return Placed(model.model_validate_json(json.dumps(value), strict=True), place)
    except ValidationError as error:
        details = error.errors(include_url=False)
        for detail in details:
            if not _follows_from_another(detail, details):
                _report(detail, value, place, model, findings)
        return None


def _follows_from_another(detail: ErrorDetails, details: list[ErrorDetails]) -> bool:
    """A list whose only entry is wrong is also reported as too short: that is no finding of its own."""
    location = detail["loc"]
    return detail["type"] == "too_short" and any(
        len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in details
    )


def _report(detail: ErrorDetails, value: Any, place: Place, model: type[E], findings: Findings) -> None:
    steps: tuple[Step, ...] = _steps_in(value, detail["loc"])
    kind, message = detail["type"], detail["msg"]
    if kind == "extra_forbidden":
        known = _fields_at(model, steps[:-1])
        findings.add(
            "unknown_field",
            place.at(*steps, on_key=True),
            f"unknown field {steps[-1]!r}",
            _instead(str(steps[-1]), known),
        )
    elif kind == "missing":
        findings.add("missing_field", place.at(*steps), f"{steps[-1]!r} is missing", f"add `{steps[-1]}:`")
    elif kind == "enum":
        found = detail.get("input")
        expected = str(detail.get("ctx", {}).get("expected", ""))
        findings.add("unknown_value", place.at(*steps), f"{str(found)[:80]!r} is not known here", f"use {expected}")
    elif kind == "string_pattern_mismatch" and steps and steps[-1] in ("name", "node", "pool", "backend", "site"):
        hint = "lower case letters, digits and hyphens, at most 63, not at an end; hosts have dots"
        findings.add("invalid_name", place.at(*steps), f"{str(detail.get('input'))[:80]!r} is not a name", hint)
    else:
        hint = str(detail.get("ctx", {}).get("hint", _HINTS.get(kind, "correct the value")))
        findings.add("invalid_value", place.at(*steps), _sentence(message), hint)


def _steps_in(value: Any, location: tuple[str | int, ...]) -> tuple[Step, ...]:
    """Pydantic's location without the tags of union branches, which are no steps in the file."""
    steps: list[Step] = []
    for index, step in enumerate(location):
        inside = (isinstance(value, dict) and step in value) or (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        )
        if inside:
            value = value[step]
            steps.append(step)
        elif index == len(location) - 1 and isinstance(value, dict):
            steps.append(step)  # the missing field
    return tuple(steps)


def _fields_at(model: type[Contract], steps: tuple[Step, ...]) -> tuple[str, ...]:
    for step in steps:
        if isinstance(step, int):
            continue
        inner = _model_in(model.model_fields[step].annotation) if step in model.model_fields else None
        if inner is None:
            return ()
        model = inner
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _model_in(annotation: Any) -> type[Contract] | None:
    if isinstance(annotation, type) and issubclass(annotation, Contract):
        return annotation
    return next(filter(None, map(_model_in, getattr(annotation, "__args__", ()))), None)


def _instead(name: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
