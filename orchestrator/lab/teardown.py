"""Taking a lab down: by what is there, not by what should be, so that it works after a crash, too.

The lab's directory is made before anything else and removed after everything else. So whatever is left of a lab, its
directory is; and without one there is nothing of ours to touch.
"""

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pyroute2 import netns

from orchestrator.lab import fabric, processes
from orchestrator.lab.errors import LabError

MOUNTS: Final = Path("/proc/self/mountinfo")


def namespaces_of(lab: str) -> list[str]:
    """Namespaces that bear a lab's names."""
    shape = re.compile(rf"{re.escape(lab)}-(client|router|router-[0-9]+|transit|control|(l4|proxy|backend)-[0-9]+)")
    return sorted(name for name in netns.listnetns() if shape.fullmatch(name))


def mounts_under(root: Path) -> list[Path]:
    """Mount points in a directory, the innermost first. proc_pid_mountinfo(5): field 5, with octal escapes."""
    points = (line.split()[4] for line in MOUNTS.read_text().splitlines())
    paths = (Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)) for point in points)
    return sorted((path for path in paths if path.is_relative_to(root)), key=lambda p: len(p.parts), reverse=True)


def take_down(lab: str, root: Path, step: Callable[[str], None]) -> None:
    """Processes, mounts, namespaces, files, in this order. Raises LabError if something does not go."""
    namespaces = namespaces_of(lab)
    step("processes")
    for directory in sorted((root / "hosts").glob("*")):
        for record in processes.read_records(directory):
            processes.stop(record, signal.SIGKILL)
    processes.kill_all_in(namespaces)
    step("mounts")
    for point in mounts_under(root):
        fabric.run(["umount", str(point)])
    step("namespaces")
    fabric.remove(namespaces)
    step("files")
    _remove_tree(root)


def _remove_tree(root: Path) -> None:
    try:
        shutil.rmtree(root)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LabError(f"{root} cannot be removed: {error}") from error
    for parent in (root.parent, root.parent.parent):
        try:
            parent.rmdir()
        except OSError:  # another lab lives there
            return
