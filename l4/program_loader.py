"""From C to a program in the kernel: puts the source together, compiles it with bcc, checks pinned maps, loads.

bcc rewrites map accesses in the main file only, so the product's own headers are put into it, each once.
"""

import ctypes
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l4.bpf_map import Map, MapShape
from l4.headers import HeadersMissing, kernel_headers
from l4.pins import ProgramPins
from l4.program_error import ProgramError

SOURCES = Path(__file__).parent / "bpf"

_OWN_INCLUDE = re.compile(r'^#include "([a-z_]+\.h)"$', re.MULTILINE)
_COUNTER = re.compile(r"\bX\((\w+)\)")


class LoadedProgram:
    """A compiled and loaded XDP program. Holds bcc's module, which owns the descriptors."""

    def __init__(self, source: str, function: str, pins: ProgramPins, definitions: Mapping[str, str | int]) -> None:
        """Compiles and loads `function` of `l4/bpf/<source>`. Raises ProgramError.

        `definitions` become macros; text ones are passed as C strings.
        """
        self.name = function
        self._module = _compile(source, {**pins.macros(), **definitions})
        _check_pinned_maps(self._module, pins.directory)
        try:
            self.descriptor: int = self._module.load_func(function.encode(), self._module.XDP).fd
        except Exception as error:
            raise ProgramError(
                f"the kernel refused {source} ({error}); its verifier's words stand above. "
                "It takes Linux 5.15 or newer, and root or CAP_BPF with CAP_NET_ADMIN"
            ) from error


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


def _compile(source: str, definitions: Mapping[str, str | int]) -> Any:
    try:
        from bcc import BPF  # late, because only loading needs it, and it takes long
    except ImportError:
        raise ProgramError(
            "bcc is missing; install it with: apt-get install python3-bpfcc (and make the virtual environment with "
            "--system-site-packages)"
        ) from None
    flags = [f"-D{name}={_macro(value)}" for name, value in definitions.items()]
    try:
        with kernel_headers():
            return BPF(text=assemble(source).encode(), cflags=flags)
    except HeadersMissing as error:
        raise ProgramError(str(error)) from error
    except Exception as error:  # bcc raises nothing more exact
        raise ProgramError(
            f"cannot compile {source} or make its maps ({error}); the compiler's words stand above"
        ) from error


def _macro(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    if re.search(r'["\\\n]', value):
        raise ProgramError(f"{value!r} cannot be passed to the compiler: choose a path without quotes or backslashes")
    return f'"{value}"'


def _check_pinned_maps(module: Any, directory: Path) -> None:
    """Compares what the source declares with what is pinned: bcc takes up any map of the right name."""
    from bcc import lib

    def ask(question: str, table: int, result: type[Any] = ctypes.c_int) -> Any:
        function = lib[question]  # by item, because an attribute's types would be changed for all of bcc
        function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_ulonglong), result
        return function(module.module, table)

    number_of_tables = lib["bpf_num_tables"]
    number_of_tables.argtypes = (ctypes.c_void_p,)
    for table in range(number_of_tables(module.module)):
        with Map(os.dup(ask("bpf_table_fd_id", table))) as actual:
            declared = MapShape(
                type=ask("bpf_table_type_id", table),
                key_size=ask("bpf_table_key_size_id", table),
                value_size=ask("bpf_table_leaf_size_id", table),
                max_entries=ask("bpf_table_max_entries_id", table),
                flags=ask("bpf_table_flags_id", table),
            )
            if actual.shape != declared:
                name = ask("bpf_table_name", table, ctypes.c_char_p).decode()
                raise ProgramError(
                    f"the map {name} pinned in {directory} is {actual.shape}, this version needs {declared}; "
                    f"drain this node, then start anew: edge-l4 {directory.name} detach"
                )
