"""Entries of pinned kernel maps are counted one by one. Needs root."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.lab import fabric
from orchestrator.lab.soak.kernel_maps import entries

pytestmark = pytest.mark.kernel


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "bpf"
    mount.mkdir()
    fabric.mount_bpffs(mount)
    yield mount
    fabric.run(["umount", str(mount)])


def create(path: Path, kind: str, *flags: str) -> None:
    path.parent.mkdir(exist_ok=True)
    sizes = ("key", "8" if kind == "lpm_trie" else "4", "value", "4", "entries", "100", "name", path.name)
    fabric.run(["bpftool", "map", "create", str(path), "type", kind, *sizes, *flags])


def put(path: Path, *key: int) -> None:
    octets = [str(octet) for octet in key]
    fabric.run(["bpftool", "map", "update", "pinned", str(path), "key", *octets, "value", "1", "0", "0", "0"])


def test_entries_of_hashes_and_tries_are_counted_wherever_they_are_pinned(bpffs: Path) -> None:
    create(bpffs / "members", "hash")
    create(bpffs / "lists" / "blocked", "lpm_trie", "flags", "1")
    assert entries(bpffs) == 0
    for number in range(7):
        put(bpffs / "members", number, 0, 0, 0)
    put(bpffs / "members", 3, 0, 0, 0)
    assert entries(bpffs) == 7, "the same key twice is one entry"
    for number in range(5):
        put(bpffs / "lists" / "blocked", 32, 0, 0, 0, 192, 0, 2, number)
    assert entries(bpffs) == 12
    for number in range(7, 100):
        put(bpffs / "members", number, 0, 0, 0)
    assert entries(bpffs) == 105, "a full map ends, too"


def test_what_is_as_large_as_ever_or_forgets_by_itself_is_left_out(bpffs: Path) -> None:
    create(bpffs / "settings", "array")
    create(bpffs / "flows", "lru_hash")
    put(bpffs / "flows", 1, 0, 0, 0)
    assert entries(bpffs) == 0
