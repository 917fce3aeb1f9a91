"""A whole checkup: every check that applies, in the order in which one would look by hand, and mending.

A check that fails to look says so and keeps no other from looking. What is mended is looked at again: a result counts
as mended only if the second look finds nothing.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio

from l4.checks import (
    agent,
    arp,
    bgp,
    clock,
    kernel,
    listeners,
    loopback,
    mtu,
    offload,
    restored,
    reverse_path,
    tunnel,
    xdp,
)
from l4.checks.check import Look, Subject
from l4.interface import InterfaceError, look_up_interface
from orchestrator.contract.checkup import CheckResult, CheckupAnswer, Severity
from orchestrator.contract.node import AgentRole

log = logging.getLogger(__name__)

_BOTH: tuple[Look, ...] = (agent.look, xdp.look, loopback.look, arp.look, reverse_path.look, mtu.look, offload.look)
_LAST: tuple[Look, ...] = (restored.look, tunnel.look, kernel.look, clock.look)

#: By whom each check is for. BIRD is asked beside them, since that waits.
LOOKS: dict[AgentRole, tuple[Look, ...]] = {
    AgentRole.BALANCER: (*_BOTH, *_LAST),
    AgentRole.REDIRECTOR: (*_BOTH, listeners.look, *_LAST),
}

#: Seconds that a command which mends may take: a reload compiles a program.
MEND_TIMEOUT_S = 150.0
#: Seconds after which what was mended is looked at: BIRD's sessions and the agent's own look take a second.
SETTLE_S = 1.5
#: Where the tools of mends are, beside PATH: as an operator's login shell has them, and this installation's own.
_MORE_PATH = ("/usr/sbin", "/sbin", str(Path(sys.executable).parent))


async def answer(subject: Subject, *, fix: bool = False, asked_at: float | None = None) -> CheckupAnswer:
    """The checkup as an answer to whoever asked; `asked_at`, by the monotonic clock, if that was before now."""
    began = time.monotonic() if asked_at is None else asked_at
    results = await (examine_and_mend(subject) if fix else examine(subject))
    try:
        octets = (await trio.to_thread.run_sync(look_up_interface, subject.interface)).mtu
    except InterfaceError:
        octets = None
    return CheckupAnswer(
        results=tuple(results),
        interface=subject.interface,
        mtu=octets,
        applied_version=subject.snapshot.version if subject.snapshot else None,
        wall=time.time(),
        took_s=time.monotonic() - began,
    )


async def examine(subject: Subject) -> list[CheckResult]:
    """All checks of the subject's role."""
    results: list[CheckResult] = []
    for look in LOOKS[subject.role]:
        results += await trio.to_thread.run_sync(run_check, look, subject)
    if subject.is_balancer:
        results += [result async for result in bgp.look(subject)]
    return results


async def examine_and_mend(subject: Subject) -> list[CheckResult]:
    """Runs the commands of findings that are `fixable`, each once, and looks again."""
    before = await examine(subject)
    commands = list(dict.fromkeys(found.mend for found in before if found.is_finding and found.fixable and found.mend))
    if not commands:
        return before
    failed: dict[str, str] = {}
    for command in commands:
        log.warning("doctor mends: %s", command)
        if (said := await trio.to_thread.run_sync(run_mend, command)) is not None:
            failed[command] = said
    await trio.sleep(SETTLE_S)
    return as_mended(before, await examine(subject), failed)


def as_mended(before: Sequence[CheckResult], after: Iterable[CheckResult], failed: dict[str, str]) -> list[CheckResult]:
    """The second look, in which checks that find nothing any more name the command that mended them."""
    commands: dict[str, list[str]] = {}
    for found in before:
        if found.is_finding and found.fixable and found.mend:
            commands.setdefault(found.id, []).append(found.mend)
    results = []
    for result in after:
        run = commands.get(result.id, [])
        if run and not result.is_finding:
            result = result.model_copy(update={"mended_by": "; ".join(run)})
        elif result.is_finding and result.mend in run:
            said = f"failed: {failed[result.mend]}" if result.mend in failed else "was run, and did not mend it"
            advice = f"`{result.mend}` {said}" + (f"; {result.advice}" if result.advice else "")
            result = result.model_copy(update={"advice": advice})
        results.append(result)
    return results


def run_check(look: Look, subject: Subject) -> list[CheckResult]:
    """What a check saw; or that it could not look, which says nothing of what it would have seen."""
    results: list[CheckResult] = []
    try:
        results.extend(look(subject))
    except Exception as error:
        name = look.__module__.rpartition(".")[2]
        log.exception("the check %s could not look", name)
        seen = f"could not be looked at: {type(error).__name__}: {error}"
        results.append(CheckResult(id=name, title=name.replace("_", " "), severity=Severity.UNKNOWN, seen=seen))
    return results


def run_mend(command: str) -> str | None:
    """Runs one of our own commands in this network namespace; what it said if it failed."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_MORE_PATH))
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MEND_TIMEOUT_S,
            check=False,
            env={**os.environ, "PATH": path},
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {MEND_TIMEOUT_S:.0f} s"
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
