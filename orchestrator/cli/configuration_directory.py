"""Which files of a directory make up a configuration: every YAML file, and those that these name."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from orchestrator.cli.failure import CommandFailed, failed
from orchestrator.contract.operator import (
    MAX_CONFIGURATION_BYTES,
    MAX_CONFIGURATION_FILE_BYTES,
    MAX_CONFIGURATION_FILES,
)

#: Fields that name a file beside the one that they stand in, and the sections that have such fields, at any depth.
FILE_FIELDS: Final = frozenset(("ca", "certificate", "key", "password_file"))
SECTIONS: Final = ("backends", "hosts", "nodes")
#: Lists and mappings in one another, below a section: `nodes[].bgp.neighbors[]` are five.
MAX_DEPTH: Final = 8


def read_directory(directory: Path) -> dict[str, str]:
    """Relative path → text. Raises CommandFailed for a file that cannot be read, and for too many of them."""
    files: dict[str, str] = {}
    for path in sorted(path for path in directory.rglob("*") if path.suffix in (".yaml", ".yml") and path.is_file()):
        name = path.relative_to(directory).as_posix()
        files[name] = read_text(path)
    if not files:
        raise failed(
            "empty_directory",
            "there is no YAML file in it",
            path=str(directory),
            hint="a configuration has platform.yaml and teams/<team>/*.yaml",
        )
    for name, text in list(files.items()):
        for named in named_files(text):
            beside = (PurePosixPath(name).parent / named).as_posix()
            target = (directory / beside).resolve()
            # What lies outside stays here, and what is missing stays missing: the orchestrator reports both, with
            # the line that names the file.
            if target.is_relative_to(directory.resolve()) and target.is_file() and beside not in files:
                files[beside] = read_text(target)
    check_limits(directory, files)
    return files


def named_files(text: str) -> Iterator[str]:
    """Files that a file names. None of one that is not YAML: the orchestrator says where and why."""
    try:
        content: Any = YAML(typ="safe").load(text)
    except YAMLError:
        return
    if isinstance(content, dict):
        for section in SECTIONS:
            yield from _named_in(content.get(section), MAX_DEPTH)


def _named_in(value: Any, depth: int) -> Iterator[str]:
    if depth and isinstance(value, list):
        for item in value:
            yield from _named_in(item, depth - 1)
    elif depth and isinstance(value, dict):
        for field, item in value.items():
            if isinstance(item, str):
                if field in FILE_FIELDS:
                    yield item
            else:
                yield from _named_in(item, depth - 1)


def read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_CONFIGURATION_FILE_BYTES:
            raise _too_large(path, f"larger than {MAX_CONFIGURATION_FILE_BYTES} bytes")
        return path.read_text()
    except OSError as error:
        raise failed("unreadable", f"cannot read it: {error.strerror}", path=str(path)) from error
    except UnicodeDecodeError as error:
        raise failed("unreadable", f"not UTF-8 at byte {error.start}", path=str(path)) from error


def check_limits(directory: Path, files: dict[str, str]) -> None:
    if len(files) > MAX_CONFIGURATION_FILES:
        raise _too_large(directory, f"{len(files)} files, {MAX_CONFIGURATION_FILES} at most")
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_CONFIGURATION_BYTES:
        raise _too_large(directory, f"{size} bytes in all, {MAX_CONFIGURATION_BYTES} at most")


def _too_large(path: Path, message: str) -> CommandFailed:
    return failed("too_large", message, path=str(path), hint="is this the right directory?")
