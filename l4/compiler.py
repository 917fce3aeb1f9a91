"""The short-lived process that turns C into a program in the kernel: `python -m l4.compiler DESCRIPTOR <order`.

bcc is a compiler in a library: it takes some 200 MB, which an agent would keep for as long as it lives. So it works in
a process of its own, which compiles, pins the maps, loads the program, hands its descriptor over and ends. Messages of
compiler and verifier go to the standard error, which is the agent's.

The order is a JSON object (`l4.program_loader` writes it); the answer is one message on the socket DESCRIPTOR: a JSON
object with the names of the maps that are not pinned, and the descriptors of the program and of these maps; or with
what went wrong.
"""

import ctypes
import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l4.bpf_call import MapType
from l4.bpf_map import Map, MapShape
from l4.headers import HeadersMissing, kernel_headers
from l4.program_error import ProgramError

#: A map whose name ends like this only gives arrays of maps their shape.
_PROTOTYPE = "_prototype"


def main() -> None:
    """Takes one order, and answers it."""
    order = json.load(sys.stdin)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        try:
            program, maps = _load(**order)
        except ProgramError as error:
            channel.sendall(json.dumps({"error": str(error)}).encode())
        else:
            socket.send_fds(channel, [json.dumps({"maps": [*maps]}).encode()], [program, *maps.values()])


def _load(source: str, text: str, function: str, flags: list[str], pins: str, kind: str) -> tuple[int, dict[str, int]]:
    """Descriptors of the program and, by name, of its own maps. Raises ProgramError."""
    module = _compile(source, text, flags)
    tables = list(_tables(module))
    for table in tables:
        _check_shape(table, pins)
    try:
        program: int = module.load_func(function.encode(), getattr(module, kind)).fd
    except Exception as error:
        raise ProgramError(
            f"the kernel refused {source} ({error}); its verifier's words stand above. "
            "It takes Linux 5.15 or newer, and root or CAP_BPF with CAP_NET_ADMIN"
        ) from error
    return program, {table.name: table.descriptor for table in tables if not table.name.endswith(_PROTOTYPE)}


def _compile(source: str, text: str, flags: list[str]) -> Any:
    try:
        from bcc import BPF  # late, because it can be missing
    except ImportError:
        raise ProgramError(
            "bcc is missing; install it with: apt-get install python3-bpfcc (and make the virtual environment with "
            "--system-site-packages)"
        ) from None
    try:
        with kernel_headers():
            return BPF(text=text.encode(), cflags=flags)
    except HeadersMissing as error:
        raise ProgramError(str(error)) from error
    except Exception as error:  # bcc raises nothing more exact
        raise ProgramError(
            f"cannot compile {source} or make its maps ({error}); the compiler's words stand above"
        ) from error


@dataclass(frozen=True, slots=True)
class _Table:
    """A map as the source declares it, and the descriptor of what bcc made or took up for it."""

    name: str
    descriptor: int
    declared: MapShape


def _tables(module: Any) -> Iterator[_Table]:
    from bcc import lib

    def ask(question: str, table: int, result: type[Any] = ctypes.c_int) -> Any:
        function = lib[question]  # by item, because an attribute's types would be changed for all of bcc
        function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_ulonglong), result
        return function(module.module, table)

    number_of_tables = lib["bpf_num_tables"]
    number_of_tables.argtypes = (ctypes.c_void_p,)
    for table in range(number_of_tables(module.module)):
        yield _Table(
            name=ask("bpf_table_name", table, ctypes.c_char_p).decode(),
            descriptor=ask("bpf_table_fd_id", table),
            declared=MapShape(
                type=ask("bpf_table_type_id", table),
                key_size=ask("bpf_table_key_size_id", table),
                value_size=ask("bpf_table_leaf_size_id", table),
                max_entries=ask("bpf_table_max_entries_id", table),
                flags=ask("bpf_table_flags_id", table),
            ),
        )


def _check_shape(table: _Table, pins: str) -> None:
    """Compares what the source declares with what is there: bcc takes up any pinned map of the right name."""
    if table.declared.type == MapType.RINGBUF:
        return  # declared in pages, made in octets, and never pinned
    with Map(os.dup(table.descriptor)) as actual:
        if actual.shape != table.declared:
            raise ProgramError(
                f"the map {table.name} pinned in {pins} is {actual.shape}, this version needs {table.declared}; "
                f"drain this node, then start anew: edge-l4 {Path(pins).name} detach"
            )


if __name__ == "__main__":
    main()
