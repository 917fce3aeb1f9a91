"""Compiles the proxy's hot modules into build/compiled (see `l7.compiled`). `make setup` does it."""

import json
import os
import shutil
import sys
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Extension, setup

os.environ["EDGEFLEET_COMPILED"] = "no"
from l7.compiled import DIRECTORY, MANIFEST, MODULES, NATIVE, ROOT, digest, is_fresh, source_of

GROUP = "edgefleet_l7"


def compile_modules() -> None:
    """Build aside, then swap: who starts meanwhile finds the old ones, or none, and never half of them."""
    os.chdir(ROOT)
    before = digest()
    scratch = ROOT / "build" / "compiling"
    shutil.rmtree(scratch, ignore_errors=True)
    extensions = mypycify(
        ["--config-file", "pyproject.toml", *(str(source_of(name).relative_to(ROOT)) for name in MODULES)],
        opt_level=os.environ.get("EDGEFLEET_OPT", "2"),
        debug_level="0",
        multi_file=True,
        target_dir=str(scratch / "c"),
        group_name=GROUP,
    )
    extensions += [
        Extension(name, sources=[source], extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wextra"])
        for name, source in NATIVE.items()
    ]
    libraries, objects = scratch / "libraries", scratch / "objects"
    jobs = len(os.sched_getaffinity(0))
    arguments = ["--quiet", "build_ext", f"--build-lib={libraries}", f"--build-temp={objects}", f"--parallel={jobs}"]
    setup(name="compiled", packages=[], py_modules=[], ext_modules=extensions, script_args=arguments)
    built = [path.relative_to(libraries) for path in libraries.rglob("*.so")]
    files = {_module_name(path): str(path) for path in built}
    missing = {*MODULES, *NATIVE} - files.keys()
    if missing:
        sys.exit(f"not compiled: {sorted(missing)}")
    if digest() != before:
        sys.exit("sources changed meanwhile: compile again")
    (libraries / MANIFEST.name).write_text(json.dumps({"digest": before, "files": files}, indent=1))
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    libraries.rename(DIRECTORY)
    shutil.rmtree(scratch)


def _module_name(path: Path) -> str:
    return ".".join((*path.parts[:-1], path.name.partition(".")[0]))


if __name__ == "__main__":
    if sys.argv[1:] != ["--if-needed"] or not is_fresh():
        sys.stdout.write("setup: the proxy's hot modules (two minutes)\n")
        sys.stdout.flush()
        compile_modules()
