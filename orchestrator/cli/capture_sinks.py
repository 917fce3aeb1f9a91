"""Where captured packets go: lines on stdout, or a pcapng file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from orchestrator.cli.capture_words import fate, line
from orchestrator.cli.failure import failed
from orchestrator.cli.pcapng import Direction, PcapngWriter
from orchestrator.contract.inquiry import CapturedPacket, Verdict


class Sink(Protocol):
    """Takes a capture's packets in order."""

    is_silent: bool
    """Whether stdout is free of it, so that progress may be shown."""

    def take(self, node: str, packet: CapturedPacket) -> bool:
        """False: whoever reads has gone."""

    def end(self, node: str, until_ns: int, packets: int, lost: int) -> None:
        """No more comes from this node."""

    def flush(self) -> None: ...


@contextmanager
def open_sink(file: str | None, snap_length: int, *, quiet: bool) -> Iterator[Sink]:
    """Lines if there is no file, nothing if those are not wanted either (`quiet`). Raises CommandFailed."""
    if file is None and quiet:
        yield Nothing()
    elif file is None or file == "-":
        yield Lines() if file is None else File(sys.stdout.buffer, snap_length)
        _end_stdout()
    else:
        with _open_private(file) as opened:
            yield File(opened, snap_length)


def _end_stdout() -> None:
    """A reader that has gone had enough; Python must not complain about it at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_private(file: str) -> BinaryIO:
    """A new or emptied file that nobody else can read. Raises CommandFailed."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)  # it may have been there, for all to read
        return os.fdopen(descriptor, "wb")
    except OSError as error:
        hint = "choose another file, or - for stdout"
        raise failed("cannot_write", f"cannot write it: {error.strerror}", path=file, hint=hint) from error


@dataclass
class Nothing:
    """Counts only."""

    is_silent: bool = True

    def take(self, node: str, packet: CapturedPacket) -> bool:
        return True

    def end(self, node: str, until_ns: int, packets: int, lost: int) -> None:
        pass

    def flush(self) -> None:
        pass


@dataclass
class Lines(Nothing):
    """A line for each packet."""

    is_silent: bool = False

    def take(self, node: str, packet: CapturedPacket) -> bool:
        try:
            sys.stdout.write(line(node, packet) + "\n")
        except BrokenPipeError:
            return False
        return True

    def flush(self) -> None:
        with suppress(BrokenPipeError):  # the next line tells that the reader has gone
            sys.stdout.flush()


@dataclass
class File:
    """A pcapng file, whole after every flush."""

    file: BinaryIO
    snap_length: int
    is_silent: bool = True
    has_reader: bool = field(default=True, init=False)
    """False once the reader of a pipe has gone."""
    _writer: PcapngWriter | None = field(default=None, init=False)
    _interfaces: dict[str, int] = field(default_factory=dict, init=False)
    """Interfaces are the L4 nodes."""

    def take(self, node: str, packet: CapturedPacket) -> bool:
        direction = Direction.OUTBOUND if packet.verdict is Verdict.SENT else Direction.INBOUND
        with self._while_read():
            writer, interface = self._interface(node)
            writer.add_packet(interface, packet.at_ns, packet.octets, packet.length, direction, fate(packet))
        return self.has_reader

    def end(self, node: str, until_ns: int, packets: int, lost: int) -> None:
        with self._while_read():
            writer, interface = self._interface(node)
            writer.add_statistics(interface, until_ns, packets + lost, lost)

    def flush(self) -> None:
        with self._while_read():
            self.file.flush()

    @contextmanager
    def _while_read(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.has_reader = False

    def _interface(self, node: str) -> tuple[PcapngWriter, int]:
        """The writer, and the node's number in it."""
        if self._writer is None:
            self._writer = PcapngWriter(self.file, "edgectl capture")
        if node not in self._interfaces:
            self._interfaces[node] = self._writer.add_interface(node, self.snap_length)
        return self._writer, self._interfaces[node]
