"""Files that survive a crash: what a reader finds is either the old text or the new one, never half of either."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

#: Mode of every file that holds a key, a snapshot (it carries keys) or a token.
PRIVATE_FILE = 0o600
#: Mode of the directories that hold them.
PRIVATE_DIRECTORY = 0o700


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, readable by its owner only.

    Temporary file in the same directory, fsync, rename, fsync of the directory: the order that makes a rename
    durable (rename(2), open(2) "O_SYNC" notes). Raises OSError; the old file is then still there.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def make_private_directory(path: Path) -> None:
    """Make `path` (and its parents) if need be, and close it to everybody but its owner."""
    path.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
    path.chmod(PRIVATE_DIRECTORY)
