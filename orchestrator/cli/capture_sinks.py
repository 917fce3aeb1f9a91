"""Where captured packets go: lines on stdout, or a pcapng file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    if file is None:
        yield Nothing() if quiet else Lines()
    elif file == "-":
        yield File(sys.stdout.buffer, snap_length)
    else:
        with _open_private(file) as opened:
            yield File(opened, snap_length)


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
        sys.stdout.flush()


@dataclass
class File:
    """A pcapng file, whole after every flush."""

    file: BinaryIO
    snap_length: int
    is_silent: bool = True
    writer: PcapngWriter = field(init=False)
    interfaces: dict[str, int] = field(default_factory=dict)
    is_broken: bool = False

    def __post_init__(self) -> None:
        self.writer = PcapngWriter(self.file, "edgectl capture")

    def take(self, node: str, packet: CapturedPacket) -> bool:
        direction = Direction.OUTBOUND if packet.verdict is Verdict.SENT else Direction.INBOUND
        try:
            self.writer.add_packet(
                self._interface(node), packet.at_ns, packet.octets, packet.length, direction, fate(packet)
            )
        except BrokenPipeError:
            self.is_broken = True
        return not self.is_broken

    def end(self, node: str, until_ns: int, packets: int, lost: int) -> None:
        if not self.is_broken:
            self.writer.add_statistics(self._interface(node), until_ns, packets + lost, lost)

    def flush(self) -> None:
        try:
            self.writer.flush()
        except BrokenPipeError:
            self.is_broken = True

    def _interface(self, node: str) -> int:
        """Interfaces are the L4 nodes."""
        if node not in self.interfaces:
            self.interfaces[node] = self.writer.add_interface(node, self.snap_length)
        return self.interfaces[node]
