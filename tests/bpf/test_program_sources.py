"""How the programs are put together, without a kernel: assembled source, counter names, kernel headers."""

import os
import platform
import re
from pathlib import Path

import pytest

from l4 import headers
from l4.headers import HeadersMissing, find_trees, kernel_headers
from l4.program_loader import SOURCES, assemble, counter_names

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"


@pytest.mark.parametrize("source", ["balancer.c", "redirect.c"])
def test_assembled_source_holds_each_own_header_once(source: str) -> None:
    text = assemble(source)
    assert '#include "' not in text
    guards = re.findall(r"^#define (EDGE_\w+_H)$", text, re.MULTILINE)
    assert len(guards) == len(set(guards)) > 5


@pytest.mark.parametrize("path", sorted(SOURCES.iterdir()), ids=lambda path: path.name)
def test_every_source_names_its_licence(path: Path) -> None:
    assert "SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0" in path.read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize("program", ["BALANCER", "REDIRECTOR"])
def test_every_counter_has_one_name_is_used_and_is_documented(program: str) -> None:
    names = counter_names(program)
    assert len(names) == len(set(names)) > 15
    source = assemble("balancer.c" if program == "BALANCER" else "redirect.c")
    documented = set(re.findall(r"^\| `(\w+)`", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE))
    assert not [name for name in names if f"COUNT_{name}" not in source]
    assert set(names) <= documented


def make_tree(path: Path, *directories: str) -> None:
    for directory in directories:
        (path / directory).mkdir(parents=True)
        (path / directory / "some.h").touch()


def test_split_headers_are_merged_for_as_long_as_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(headers.VARIABLE, raising=False)
    monkeypatch.setattr(headers, "EMBEDDED", tmp_path / "none")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    make_tree(tmp_path / "linux-headers-6.1.0-9-amd64", "include/generated", "arch/x86/include/generated")
    make_tree(tmp_path / "linux-headers-6.1.0-9-common", "include/linux", "arch/x86/include/asm")
    with kernel_headers(tmp_path, tmp_path / "modules"):
        merged = Path(os.environ[headers.VARIABLE])
        assert merged.stat().st_mode & 0o777 == 0o700
        for header in ("include/generated", "include/linux", "arch/x86/include/generated", "arch/x86/include/asm"):
            assert (merged / header / "some.h").is_file()
    assert headers.VARIABLE not in os.environ
    assert not merged.exists()


def test_newest_complete_headers_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for version in ("6.1.0-9", "6.1.0-12"):
        make_tree(tmp_path / f"linux-headers-{version}-amd64", "include/generated")
        make_tree(tmp_path / f"linux-headers-{version}-common", "include/linux", "arch/x86/include")
    make_tree(tmp_path / "linux-headers-6.9.0-1-amd64", "include/generated")
    trees = find_trees(tmp_path)
    assert trees is not None
    assert trees.build.name == "linux-headers-6.1.0-12-amd64"
    assert trees.shared.name == "linux-headers-6.1.0-12-common"


def test_missing_headers_are_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(headers.VARIABLE, raising=False)
    monkeypatch.setattr(headers, "EMBEDDED", tmp_path / "none")
    with pytest.raises(HeadersMissing, match="apt-get install linux-headers-"), kernel_headers(tmp_path, tmp_path):
        pass


def test_headers_that_the_operator_names_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(headers.VARIABLE, "/somewhere")
    with kernel_headers(tmp_path, tmp_path):
        assert os.environ[headers.VARIABLE] == "/somewhere"
