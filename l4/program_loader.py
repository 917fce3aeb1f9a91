"""From C to a program in the kernel: puts the source together and has it compiled and loaded by `l4.compiler`.

bcc rewrites map accesses in the main file only, so the product's own headers are put into it, each once.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from l4.bpf_map import Map
from l4.pins import ProgramPins
from l4.program_error import ProgramError

SOURCES = Path(__file__).parent / "bpf"

#: Seconds. Compiling takes about four of CPU time; a host that needs more than this has other troubles.
LOAD_TIMEOUT_S = 120.0

_OWN_INCLUDE = re.compile(r'^#include "([a-z_]+\.h)"$', re.MULTILINE)
_COUNTER = re.compile(r"\bX\((\w+)\)")

#: Of an answer: octets, and descriptors (the kernel's own bound: unix(7), SCM_RIGHTS).
_MAX_ANSWER = 65536
_MAX_DESCRIPTORS = 253

_STANDARD_ERROR = 2


class ProgramKind(StrEnum):
    """Where in the kernel a program stands, by bcc's names."""

    XDP = "XDP"
    CLASSIFIER = "SCHED_CLS"
    """Of packets on their way through an interface's queues (tc-bpf(8))."""


class LoadedProgram:
    """A compiled and loaded program, by its descriptor: the kernel keeps it while that is open, or it attached."""

    def __init__(
        self,
        source: str,
        function: str,
        pins: ProgramPins,
        definitions: Mapping[str, str | int],
        kind: ProgramKind = ProgramKind.XDP,
    ) -> None:
        """Compiles and loads `function` of `l4/bpf/<source>`. Raises ProgramError.

        `definitions` become macros; text ones are passed as C strings.
        """
        self.name = function
        self.descriptor = -1
        self._maps: dict[str, Map] = {}
        macros: dict[str, str | int] = {**pins.macros(), **definitions}
        order = {
            "source": source,
            "text": assemble(source),
            "function": function,
            "flags": [f"-D{name}={_macro(value)}" for name, value in macros.items()],
            "pins": str(pins.directory),
            "kind": kind,
        }
        answer, descriptors = _ask_compiler(order)
        if "error" in answer:
            raise ProgramError(answer["error"])
        self.descriptor, *maps = descriptors
        self._maps = {name: Map(descriptor) for name, descriptor in zip(answer["maps"], maps, strict=True)}

    def __repr__(self) -> str:
        return f"<LoadedProgram {self.name}, descriptor {self.descriptor}>"

    def __del__(self) -> None:
        self.close()

    def open_map(self, name: str) -> Map:
        """Opens one of the program's maps; one that is not pinned lives with the program, or while it is open."""
        return Map(os.dup(self._maps[name].descriptor))

    def close(self) -> None:
        """Closes the descriptors. What is attached, pinned or called by others lives on."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        for own in self._maps.values():
            own.close()


def counter_names(program: str) -> tuple[str, ...]:
    """The counters of "BALANCER" or "REDIRECTOR" by index, from the lists in counters.h."""
    text = (SOURCES / "counters.h").read_text(encoding="utf-8")
    return (*_counter_list(text, "PARSE"), *_counter_list(text, program))


def assemble(source: str) -> str:
    """The text of `l4/bpf/<source>` with its own headers in place of their includes, each at its first mention."""
    seen: set[str] = set()

    def expand(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (SOURCES / name).read_text(encoding="utf-8")
        return _OWN_INCLUDE.sub(lambda include: expand(include[1]), text)

    return expand(source)


def _counter_list(text: str, name: str) -> list[str]:
    """The entries of one X-macro: its lines, as far as each ends in a backslash."""
    start = text.index(f"#define {name}_COUNTERS(X)")
    lines = []
    for line in text[start:].splitlines():
        lines.append(line)
        if not line.endswith("\\"):
            break
    return _COUNTER.findall("\n".join(lines[1:]))


def _macro(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    if re.search(r'["\\\n]', value):
        raise ProgramError(f"{value!r} cannot be passed to the compiler: choose a path without quotes or backslashes")
    return f'"{value}"'


def _ask_compiler(order: Mapping[str, object]) -> tuple[Any, list[int]]:
    """The compiler's answer, and the descriptors that came with it. Raises ProgramError."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        try:
            ended = subprocess.run(
                [sys.executable, "-P", "-m", "l4.compiler", str(there.fileno())],
                input=json.dumps(order).encode(),
                stdout=_STANDARD_ERROR,
                pass_fds=[there.fileno()],
                timeout=LOAD_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ProgramError(
                f"{order['source']} could not be compiled and loaded in {LOAD_TIMEOUT_S:.0f} s"
            ) from None
        there.close()
        answer, descriptors, _, _ = socket.recv_fds(here, _MAX_ANSWER, _MAX_DESCRIPTORS)
    if not answer:
        raise ProgramError(
            f"the process that compiles {order['source']} ended with status {ended.returncode} and no answer; "
            "its words stand above"
        )
    return json.loads(answer), descriptors
