"""The modules of the hot path as machine code, if somebody has compiled exactly these sources.

`make setup` compiles `MODULES` with mypyc into `build/compiled` (docs/adr/0023-compiled-modules.md). They are not put
beside their sources, where Python would take them for good: whoever edits a source would go on running what it was.
Instead, a finder takes them only if the digest of all sources that they were made from (and for) is still the same. If
it is not, everything runs as plain Python: the same, and slower.

`EDGEFLEET_COMPILED` in the environment: `yes` (refuse to run without them), `no` (plain Python), or nothing.
"""

import hashlib
import importlib.machinery
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
DIRECTORY: Final = ROOT / "build" / "compiled"
MANIFEST: Final = DIRECTORY / "manifest.json"

#: Each module that is compiled. A subclass of a compiled class is to be one of them, or its base class says
#: `allow_interpreted_subclasses`.
MODULES: Final = (
    "l7.answer",
    "l7.connection",
    "l7.exchange",
    "l7.forwarded",
    "l7.grpc",
    "l7.grpc_exchange",
    "l7.limits",
    "l7.listener",
    "l7.low_water",
    "l7.protocol.http1.body",
    "l7.protocol.http1.client",
    "l7.protocol.http1.head",
    "l7.protocol.http1.server",
    "l7.protocol.http1.syntax",
    "l7.protocol.http2.client",
    "l7.protocol.http2.client_stream",
    "l7.protocol.http2.field_reader",
    "l7.protocol.http2.field_rules",
    "l7.protocol.http2.fields",
    "l7.protocol.http2.floods",
    "l7.protocol.http2.frames",
    "l7.protocol.http2.outflow",
    "l7.protocol.http2.request",
    "l7.protocol.http2.response",
    "l7.protocol.http2.server",
    "l7.protocol.http2.server_stream",
    "l7.protocol.http2.session",
    "l7.protocol.http2.stream",
    "l7.protocol.message",
    "l7.protocol.violation",
    "l7.proxy",
    "l7.reactor",
    "l7.request_ids",
    "l7.routing.hosts",
    "l7.routing.matcher",
    "l7.routing.path",
    "l7.shell",
    "l7.sides",
    "l7.telemetry.access_log",
    "l7.telemetry.flags",
    "l7.telemetry.metrics",
    "l7.timers",
    "l7.tls_greeting",
    "l7.transport",
    "l7.upstream.balance",
    "l7.upstream.connecting",
    "l7.upstream.connection",
    "l7.upstream.multiplexed",
    "l7.upstream.pool",
    "l7.upstream.server",
)

#: Modules that C stands in for, and its source.
NATIVE: Final = {"l7.protocol.http1.plain_head": "l7/native/plain_head.c"}


#: The state in which they are in use.
COMPILED: Final = "compiled"


class NotCompiled(ImportError):
    """The environment asks for compiled modules, and there are none of these sources."""


def source_of(module: str) -> Path:
    """Its file."""
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def digest() -> str:
    """Of all that compiled modules depend on: what a constant is in another module may be part of their code."""
    found = hashlib.sha256(f"{sys.version} {importlib.machinery.EXTENSION_SUFFIXES[0]}".encode())
    for package in (ROOT / "l7", ROOT / "orchestrator" / "contract"):
        for path in sorted((*package.rglob("*.py"), *package.rglob("*.c"))):
            found.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode())
            found.update(path.read_bytes())
    return found.hexdigest()


def is_fresh() -> bool:
    """Whether what is compiled was made from the sources that are there."""
    return MANIFEST.exists() and bool(json.loads(MANIFEST.read_bytes())["digest"] == digest())


class CompiledFinder(MetaPathFinder):
    """Finds those modules, and the library that they share."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As `importlib` asks."""
        file = self._files.get(fullname)
        if file is None:
            return None
        return importlib.util.spec_from_file_location(fullname, file, loader=ExtensionFileLoader(fullname, str(file)))


def _look() -> tuple[dict[str, Path], str]:
    """The files to use, and in words what was found."""
    wish = os.environ.get("EDGEFLEET_COMPILED", "")
    if wish == "no":
        return {}, "plain Python, as the environment asks"
    if is_fresh():
        files = json.loads(MANIFEST.read_bytes())["files"]
        return {name: DIRECTORY / file for name, file in files.items()}, COMPILED
    what = "what is compiled was made from other sources" if MANIFEST.exists() else "nothing is compiled"
    found = f"plain Python: {what} (make setup does it)"
    if wish == "yes":
        raise NotCompiled(f"EDGEFLEET_COMPILED=yes, but {found}")
    return {}, found


_FILES, STATE = _look()
if _FILES:
    sys.meta_path.insert(0, CompiledFinder(_FILES))
