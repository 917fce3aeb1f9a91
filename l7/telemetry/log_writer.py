"""The access log's writer: records are collected, formatted late, and written in one piece per batch.

A worker's batches are appended in one `write` each (O_APPEND), so several workers share a file without cutting into
each other's lines. The write happens in a thread: a disk that stalls holds up the log, never a request.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import trio

from l7 import limits
from l7.telemetry.access_log import AccessRecord, format_line

log = logging.getLogger(__name__)


class AccessLogWriter:
    """Collects records and appends them to a file. Without a file, records are not kept at all."""

    def __init__(self, path: Path | None, *, format_record: Callable[[AccessRecord], str] = format_line) -> None:
        self._path = path
        self._format = format_record
        self._records: list[AccessRecord] = []
        self._file = -1
        self._failed = False
        self.dropped = 0
        """Records that were lost, because too many waited or the file could not be written."""

    def __repr__(self) -> str:
        return f"<AccessLogWriter to {self._path}: {len(self._records)} waiting, {self.dropped} dropped>"

    def add(self, record: AccessRecord) -> None:
        """Take a record; it is written within `LOG_FLUSH_S`."""
        if self._path is None:
            return
        if len(self._records) >= limits.MAX_LOG_RECORDS:
            self.dropped += 1
            return
        self._records.append(record)

    async def run(self) -> None:
        """Write until cancelled, then write what is left."""
        if self._path is None:
            return
        try:
            while True:
                await trio.sleep(limits.LOG_FLUSH_S)
                await self.flush()
        finally:
            with trio.CancelScope(deadline=trio.current_time() + limits.LOG_FLUSH_S, shield=True):
                await self.flush()
            self.reopen()

    async def flush(self) -> None:
        """Write what has been collected."""
        records, self._records = self._records, []
        if not records:
            return
        # Formatted here and in portions: a thread that formats would hold the interpreter for longer than a portion
        # takes.
        lines: list[str] = []
        for first in range(0, len(records), limits.LOG_PORTION):
            lines.extend(map(self._format, records[first : first + limits.LOG_PORTION]))
            await trio.lowlevel.checkpoint()
        lines.append("")
        text = "\n".join(lines).encode("utf-8", "backslashreplace")
        if not await trio.to_thread.run_sync(self._write, text):
            self.dropped += len(records)

    def reopen(self) -> None:
        """Use the file's name anew with the next batch: it was rotated."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, text: bytes) -> bool:
        path = self._path
        if path is None:
            return True
        try:
            if self._file < 0:
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            view = memoryview(text)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            if not self._failed:
                log.error("access log %s: %s; records are dropped until it can be written", path, error.strerror)
            self._failed = True
        else:
            self._failed = False
        return not self._failed
