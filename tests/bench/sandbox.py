"""A network namespace and a bpffs for the time of a measurement, on one core."""

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x4000_0000


@contextmanager
def own_network() -> Iterator[None]:
    """This thread is in a network namespace of its own, with its loopback up."""
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    libc_call("unshare", CLONE_NEWNET)
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        libc_call("setns", outside, CLONE_NEWNET)
        os.close(outside)


@contextmanager
def own_bpffs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["mount", "-t", "bpf", "bpf", directory], check=True)
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", directory], check=True)


@contextmanager
def one_core() -> Iterator[int]:
    """Runs on the last core of those that this process may use: interrupts go to the first."""
    allowed = os.sched_getaffinity(0)
    core = max(allowed)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, allowed)


def libc_call(name: str, *arguments: int) -> None:
    """Calls a function of the C library that returns 0. Raises OSError if it does not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)
