"""What is compiled is used if it was made from these sources, and only then; whoever asks for it gets it or is told."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from l7 import compiled

_WHERE = "import l7.compiled, l7.exchange; print(l7.compiled.STATE); print(l7.exchange.__file__)"


def run_in(root: Path, wish: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(root), "EDGEFLEET_COMPILED": wish}
    return subprocess.run([sys.executable, "-c", _WHERE], cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The sources, and what is compiled of them, where the test may change them."""
    for package in ("l7", "l4", "orchestrator"):
        shutil.copytree(compiled.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    if compiled.DIRECTORY.exists():
        shutil.copytree(compiled.DIRECTORY, tmp_path / "build" / "compiled")
    return tmp_path


def pretend_compiled(root: Path) -> None:
    """A manifest of these sources that lists nothing."""
    directory = root / "build" / "compiled"
    directory.mkdir(parents=True, exist_ok=True)
    asked = [sys.executable, "-c", "import l7.compiled; print(l7.compiled.digest())"]
    environment = os.environ | {"PYTHONPATH": str(root), "EDGEFLEET_COMPILED": "no"}
    digest = subprocess.run(asked, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    (directory / "manifest.json").write_text(json.dumps({"digest": digest, "files": {}}))


def test_what_is_listed_is_there() -> None:
    assert [name for name in compiled.MODULES if not compiled.source_of(name).exists()] == []
    assert [name for name, source in compiled.NATIVE.items() if not (compiled.ROOT / source).exists()] == []


def test_a_subclass_of_a_compiled_class_is_compiled_or_expected() -> None:
    """Interpreted ones cannot be made, unless the base says so: importing them would fail where it is compiled."""
    unexpected = []
    for path in (compiled.ROOT / "l7").rglob("*.py"):
        name = ".".join(path.relative_to(compiled.ROOT).with_suffix("").parts)
        if name in compiled.MODULES or path.name == "__init__.py":
            continue
        module = importlib.import_module(name)
        classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == name]
        unexpected += [
            (name, base.__name__)
            for each in classes
            for base in each.__bases__
            if base.__module__ in compiled.MODULES and not getattr(base, "_is_protocol", False) and not _expects(base)
        ]
    assert unexpected == []


def _expects(base: type) -> bool:
    declared = f"@mypyc_attr(allow_interpreted_subclasses=True)\nclass {base.__name__}"
    return declared in compiled.source_of(base.__module__).read_text()


def test_each_listed_module_is_the_compiled_one_or_none_is() -> None:
    suffix = ".so" if compiled.STATE == compiled.COMPILED else ".py"
    for name in (*compiled.MODULES, *compiled.NATIVE):
        assert str(importlib.import_module(name).__file__).endswith(suffix), name


def test_a_changed_source_turns_everything_into_plain_python(copied: Path) -> None:
    pretend_compiled(copied)
    assert run_in(copied, "yes").stdout.startswith("compiled\n")
    source = copied / "l7" / "limits.py"
    source.write_text(source.read_text() + "\n")
    state, file = run_in(copied, "").stdout.splitlines()
    assert state.startswith("plain Python: what is compiled was made from other sources")
    assert file.endswith("exchange.py")


def test_who_insists_is_told_instead_of_served_slowly(copied: Path) -> None:
    shutil.rmtree(copied / "build", ignore_errors=True)
    refused = run_in(copied, "yes")
    assert refused.returncode != 0
    assert "EDGEFLEET_COMPILED=yes, but plain Python: nothing is compiled (make setup does it)" in refused.stderr


def test_plain_python_can_be_asked_for(copied: Path) -> None:
    pretend_compiled(copied)
    assert run_in(copied, "no").stdout.startswith("plain Python, as the environment asks\n")
