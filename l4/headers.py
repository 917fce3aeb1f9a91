"""Kernel headers, wherever a machine keeps them.

bcc looks under /lib/modules/<running kernel>/{build,source}. Machines whose running kernel did not come from a package
have nothing there, although any recent headers would serve: an XDP program sees packets, not the kernel's own
structures. Debian, besides, splits its headers into two trees, of which bcc's other way in, BCC_KERNEL_SOURCE, takes
one. So both are looked for and merged.
"""

import os
import platform
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: What bcc reads; when it is set, its word is final.
VARIABLE = "BCC_KERNEL_SOURCE"

#: Where distributions keep headers.
SOURCE_ROOT = Path("/usr/src")
MODULES_ROOT = Path("/lib/modules")

#: The kernel's own headers, if it was built with them (CONFIG_IKHEADERS): bcc finds these by itself.
EMBEDDED = Path("/sys/kernel/kheaders.tar.xz")

_MACHINE_ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}


class HeadersMissing(Exception):
    """No kernel headers on this machine; the message says what to install."""


@dataclass(frozen=True, slots=True)
class HeaderTrees:
    """Headers in one or two trees: what the build generated, and what all builds of the version share."""

    build: Path
    shared: Path
    version: tuple[int, ...]


@contextmanager
def kernel_headers(source_root: Path = SOURCE_ROOT, modules_root: Path = MODULES_ROOT) -> Iterator[None]:
    """While this is open, bcc finds kernel headers. Raises HeadersMissing.

    The merged tree is a private temporary directory of links: nothing to go stale, nothing for others to write to.
    """
    if VARIABLE in os.environ or EMBEDDED.exists() or _has_running_kernels(modules_root):
        yield
        return
    trees = find_trees(source_root)
    if trees is None:
        raise HeadersMissing(
            f"no kernel headers: neither {modules_root}/{platform.release()}/build nor {source_root}/linux-headers-* "
            "has include/linux and include/generated; install them with: apt-get install linux-headers-"
            + {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        )
    with tempfile.TemporaryDirectory(prefix="edgefleet-headers-") as directory:
        merge(trees, Path(directory))
        os.environ[VARIABLE] = directory
        try:
            yield
        finally:
            del os.environ[VARIABLE]


def find_trees(source_root: Path) -> HeaderTrees | None:
    """The newest headers under `source_root` that are complete for this machine's architecture."""
    found = []
    for build in (*source_root.glob("linux-headers-*"), *source_root.glob("kernels/*")):
        if not (build / "include/generated").is_dir():
            continue
        for shared in _shared_trees(build):
            if (shared / "include/linux").is_dir() and (shared / "arch" / _architecture() / "include").is_dir():
                found.append(HeaderTrees(build, shared, _version(build)))
                break
    return max(found, key=lambda trees: trees.version, default=None)


def merge(trees: HeaderTrees, target: Path) -> None:
    """Links both trees' headers into `target`, as one tree; what the build generated goes first."""
    for directory in (Path("include"), Path("arch") / _architecture() / "include"):
        (target / directory).mkdir(parents=True)
        for tree in (trees.build, trees.shared):
            for entry in sorted((tree / directory).glob("*")):
                link = target / directory / entry.name
                if not link.is_symlink():
                    link.symlink_to(entry)


def _has_running_kernels(modules_root: Path) -> bool:
    return (modules_root / platform.release() / "build" / "include" / "generated").is_dir()


def _shared_trees(build: Path) -> Iterator[Path]:
    """The tree itself where nothing is split; else Debian's -common tree of the same version."""
    yield build
    yield build.with_name(re.sub(r"(-cloud|-rt)?-[^-]+$", "-common", build.name))


def _architecture() -> str:
    machine = platform.machine()
    return _MACHINE_ARCHITECTURES.get(machine, machine)


def _version(build: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", build.name))
