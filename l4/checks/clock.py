"""The host's clock. Whether it is right, only others can tell: `edgectl doctor` compares it with the orchestrator's."""

import ctypes
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from l4.checks.check import Check, Subject
from orchestrator.contract.checkup import CheckResult

SYNCHRONISED = Check("clock_source", "clock's source", "")

#: adjtimex(2), linux/timex.h.
_STA_UNSYNC = 0x0040
_TIMEX_SIZE = 208
_STATUS_OFFSET = 40


def look(subject: Subject) -> Iterator[CheckResult]:
    at = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
    if _status() & _STA_UNSYNC:
        yield SYNCHRONISED.unknown(
            f"{at}; the kernel knows of nobody who keeps it right", "run chrony, ntpd or systemd-timesyncd"
        )
    else:
        yield SYNCHRONISED.ok(f"{at}, kept right by an NTP daemon")


def _status() -> int:
    buffer = ctypes.create_string_buffer(_TIMEX_SIZE)  # modes 0: asks, and sets nothing
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(buffer) < 0:
        return _STA_UNSYNC
    return int.from_bytes(buffer.raw[_STATUS_OFFSET : _STATUS_OFFSET + 4], "little")
