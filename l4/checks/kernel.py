"""What the kernel and the machine must bring along."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from l4.capabilities import NotPermitted, effective_capabilities, require_capabilities
from l4.checks.check import Check, Subject
from l4.headers import HeadersMissing, kernel_headers
from l4.pins import is_bpffs
from orchestrator.contract.checkup import CheckResult

VERSION = Check(
    "kernel",
    "kernel",
    "the programs use what Linux has since 6.1; on an older kernel they may load and miss functions at run time",
)
JIT = Check("bpf_jit", "BPF JIT", "without it the kernel interprets the programs: ten times slower and more")
BPFFS = Check(
    "bpffs",
    "BPF file system",
    "maps are pinned there: without it a restart of the agent would lose counters and flow table",
)
HEADERS = Check(
    "kernel_headers", "kernel headers", "the program is compiled when an agent starts: the next start would fail"
)
CAPABILITIES = Check("capabilities", "capabilities", "the agent cannot load programs, or set addresses and routes")

#: Of docs/operations.md.
OLDEST = (6, 1)

_JIT = Path("/proc/sys/net/core/bpf_jit_enable")


def look(subject: Subject) -> Iterator[CheckResult]:
    yield version_check(os.uname().release)
    yield from _jit()
    bpffs = subject.place.bpffs
    if is_bpffs(bpffs):
        yield BPFFS.ok(str(bpffs))
    else:
        yield BPFFS.failure(
            f"{bpffs} is not one", "a mounted bpffs", mend=f"mkdir -p {bpffs} && mount -t bpf bpf {bpffs}", fixable=True
        )
    try:
        with kernel_headers():
            yield HEADERS.ok("found")
    except HeadersMissing as error:
        yield HEADERS.failure(str(error), "headers of this or a recent kernel", mend=_command_in(str(error)))
    try:
        require_capabilities(effective_capabilities())
    except NotPermitted as error:
        yield CAPABILITIES.failure(str(error), "CAP_NET_ADMIN and CAP_BPF", advice="run it as root")
    else:
        yield CAPABILITIES.ok("all there")


def version_check(release: str) -> CheckResult:
    """Of a release as uname(2) tells it."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is None:
        return VERSION.unknown(f"release {release}")
    if (int(found[1]), int(found[2])) >= OLDEST:
        return VERSION.ok(f"Linux {release}")
    oldest = ".".join(map(str, OLDEST))
    return VERSION.failure(f"Linux {release}", f"{oldest} or newer", advice="install a newer kernel, and reboot")


def _jit() -> Iterator[CheckResult]:
    try:
        is_on = int(_JIT.read_text()) > 0
    except FileNotFoundError:  # told in the first network namespace only
        return
    if is_on:
        yield JIT.ok("on")
    else:
        yield JIT.failure(
            "off", "on", mend="sysctl -w net.core.bpf_jit_enable=1", fixable=True, advice="then reload the program"
        )


def _command_in(message: str) -> str | None:
    found = re.search(r"apt-get install \S+", message)
    return found[0] if found else None
