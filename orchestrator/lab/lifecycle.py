"""Up and down. `up` undoes itself when it fails or is interrupted; `down` works from any state, also after SIGKILL."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

from orchestrator.lab import teardown
from orchestrator.lab.bringup import Progress, bring_up
from orchestrator.lab.errors import LabError
from orchestrator.lab.lab import Lab, LabStatus, find_lab, root_of
from orchestrator.lab.processes import NAMESPACES
from orchestrator.lab.spec import LabSpec

ROOT_MODE: Final = 0o700


def quiet(_text: str, _fraction: float | None) -> None:
    """The progress that nobody watches."""


async def lab_up(spec: LabSpec, progress: Progress = quiet, *, replace: bool = False, keep: bool = False) -> Lab:
    """Brings a lab up and checks it: BGP, both next hops, agents on the newest snapshot, requests over both families.

    A lab of that name that is up is refused, unless `replace`: then it is taken down first. What an interrupted `up`
    left is cleared away without asking. Raises LabError, after taking down what had come up, unless `keep`: then it
    stays, for a look at its logs. Cancelled or interrupted, it always takes down before the exception goes on.
    """
    _require_root()
    lab = Lab(spec, root_of(spec.name))
    if lab.root.exists():
        if lab.completion.exists() and not replace:
            raise LabError(
                f"lab {spec.name!r} is up already",
                hint="`edgectl lab down` takes it down; `--replace` does so first; `--name` makes another beside it",
            )
        progress("taking down what is there", None)
        await trio.to_thread.run_sync(lab_down, spec.name)
    strangers = teardown.namespaces_of(spec.name)
    if strangers:
        raise LabError(
            f"network namespace {strangers[0]} exists, and is no lab's",
            hint="choose another name, or `ip netns del` it",
        )
    try:
        lab.root.mkdir(parents=True, mode=ROOT_MODE)
    except FileExistsError:
        raise _busy(lab.root) from None
    with _exclusive(lab.root):
        try:
            await bring_up(lab, progress)
        except BaseException as error:
            if keep and isinstance(error, LabError):
                raise
            progress("taking down what came up", None)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(teardown.take_down, spec.name, lab.root, lambda _text: None)
            if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
    return lab


def lab_down(name: str, progress: Progress = quiet) -> bool:
    """Takes a lab down, whatever state it is in. False if nothing of it was there.

    Raises LabError if another command is at work on it, or if something does not go.
    """
    _require_root()
    root = root_of(name)
    if not root.exists():
        return False
    with _exclusive(root):
        teardown.take_down(name, root, lambda text: progress(text, None))
    return True


def lab_status(name: str) -> LabStatus:
    """What is there of a lab. Raises LabError if it is not on this machine."""
    return find_lab(name).status()


def lab_exec(name: str, host: str, argv: Sequence[str]) -> int:
    """Runs a command in a host's namespace, on this terminal; its exit code (128 + signal number if it was killed).

    To be called from the main thread: Ctrl-C is the command's while it runs (a shell must survive it).
    """
    _require_root()
    namespace = NAMESPACES / find_lab(name).namespace(host)
    previous = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        code = subprocess.run(["nsenter", f"--net={namespace}", "--", *argv], check=False).returncode
    finally:
        signal.signal(signal.SIGINT, previous)
    return code if code >= 0 else 128 - code


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("a lab is made of network namespaces, which need root", hint="run this as root")


@contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    """Two commands never work on one lab at once. The kernel lets go of the lock if the holder is killed."""
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise _busy(root) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(root) from None
        yield
    finally:
        os.close(descriptor)


def _busy(root: Path) -> LabError:
    return LabError(f"another command is taking lab {root.name!r} up or down", hint="wait for it, or interrupt it")
