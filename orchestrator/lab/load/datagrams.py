"""Streams of numbered datagrams to the lab's UDP VIPs: `python -m orchestrator.lab.load.datagrams`.

Runs in the client's namespace. Reads a plan and then `finish` from stdin; tells on stdout what it sees, one JSON object
a line, and last what became of everything, some time after the last datagram.
"""

import os
import socket
import struct
import sys
from typing import Annotated, Final

import trio
from pydantic import Field

from orchestrator.contract.base import Address, Contract, Port
from orchestrator.lab.child import lines
from orchestrator.lab.load.messages import FINISH
from orchestrator.lab.load.sequence import SequenceCount

#: Seconds between two lines.
TELL_INTERVAL_S: Final = 0.5

#: Seconds for the last answers. On two busy cores everything may stand still for a second.
LAST_ANSWERS_S: Final = 3.0

#: socket(7); not in the `socket` module. Beyond the limit for everybody, as root may.
SO_RCVBUFFORCE: Final = 33

#: Octets that the kernel holds for us while the machine does something else.
RECEIVE_BUFFER: Final = 1024 * 1024

#: Begin of each datagram: stream and number. The server appends its name.
_HEAD: Final = struct.Struct("!IQ")


class Stream(Contract):
    """One flow: from a port of its own at `source`, all the time."""

    source: Address
    target: Address
    port: Port


class DatagramPlan(Contract):
    """What is sent."""

    streams: Annotated[tuple[Stream, ...], Field(min_length=1)]
    per_second: Annotated[float, Field(gt=0, le=10_000)]
    """In each stream."""
    payload: Annotated[int, Field(ge=0, le=1300)] = 100
    """Octets beyond the number."""


class StreamSeen(Contract):
    """One stream so far."""

    stream: Stream
    sent: int
    lost: int
    """In the last line: never answered. Before: not answered yet."""
    duplicated: int
    reordered: int
    strange: int
    servers: dict[str, int]
    """Who answered how often. More than one: the flow was moved."""
    longest_silence_s: float
    """Between two answers."""


class DatagramsSeen(Contract):
    """One line."""

    finished: bool
    streams: tuple[StreamSeen, ...]

    @property
    def sent(self) -> int:
        return sum(each.sent for each in self.streams)

    @property
    def lost(self) -> int:
        return sum(each.lost for each in self.streams)

    @property
    def duplicated(self) -> int:
        return sum(each.duplicated for each in self.streams)

    @property
    def reordered(self) -> int:
        return sum(each.reordered for each in self.streams)

    @property
    def moved(self) -> int:
        """Streams that more than one server answered."""
        return sum(len(each.servers) > 1 for each in self.streams)


class _Sender:
    """One stream: its socket and its count."""

    def __init__(self, number: int, stream: Stream, payload: int) -> None:
        self.stream = stream
        self.count = SequenceCount()
        self._number = number
        self._payload = bytes(payload)
        self._servers: dict[str, int] = {}
        self._answered_at: float | None = None
        self._longest_silence_s = 0.0
        self._socket = trio.socket.socket(
            socket.AF_INET if stream.target.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM
        )
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)

    async def open(self) -> None:
        await self._socket.bind((str(self.stream.source), 0))
        await self._socket.connect((str(self.stream.target), self.stream.port))

    async def send(self) -> None:
        """The next one. One that the kernel refuses at once, for want of a route, counts as lost."""
        head = _HEAD.pack(self._number, self.count.next_number())
        try:
            await self._socket.send(head + self._payload)
        except OSError:
            return

    async def receive(self) -> None:
        """Task: takes answers until cancelled."""
        while True:
            try:
                answer = await self._socket.recv(65535)
            except OSError:  # an ICMP error: the datagram that it is about is missing in the count
                continue
            self._take(answer)

    def seen(self) -> StreamSeen:
        return StreamSeen(
            stream=self.stream,
            sent=self.count.sent,
            lost=self.count.lost,
            duplicated=self.count.duplicated,
            reordered=self.count.reordered,
            strange=self.count.strange,
            servers=self._servers,
            longest_silence_s=round(self._longest_silence_s, 3),
        )

    def _take(self, answer: bytes) -> None:
        whole = len(answer) >= _HEAD.size + len(self._payload)
        stream, number = _HEAD.unpack_from(answer) if whole else (None, -1)
        if stream != self._number:
            self.count.strange += 1
            return
        self.count.take(number)
        server = answer[_HEAD.size + len(self._payload) :].decode(errors="replace")
        self._servers[server] = self._servers.get(server, 0) + 1
        now = trio.current_time()
        if self._answered_at is not None:
            self._longest_silence_s = max(self._longest_silence_s, now - self._answered_at)
        self._answered_at = now


async def run(plan: DatagramPlan, finish: trio.Event) -> None:
    """Send until `finish`, wait for the last answers, tell all the time."""
    senders = [_Sender(number, stream, plan.payload) for number, stream in enumerate(plan.streams)]
    for sender in senders:
        await sender.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tell_all_the_time, senders)
        for sender in senders:
            nursery.start_soon(sender.receive)
        due = trio.current_time()
        while not finish.is_set():
            for sender in senders:
                await sender.send()
            # What was late is not caught up on: a burst would be another load than the one that was asked for.
            due = max(due + 1 / plan.per_second, trio.current_time())
            await trio.sleep_until(due)
        for _ in range(round(LAST_ANSWERS_S / TELL_INTERVAL_S)):
            if not any(sender.count.lost for sender in senders):
                break
            await trio.sleep(TELL_INTERVAL_S)
        nursery.cancel_scope.cancel()
    _tell(senders, finished=True)


async def _tell_all_the_time(senders: list[_Sender]) -> None:
    while True:
        _tell(senders, finished=False)
        await trio.sleep(TELL_INTERVAL_S)


def _tell(senders: list[_Sender], *, finished: bool) -> None:
    """Blocks if nobody reads."""
    line = DatagramsSeen(finished=finished, streams=tuple(sender.seen() for sender in senders)).model_dump_json()
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main() -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin, trio.open_nursery() as nursery:
        commands = lines(stdin)
        plan = DatagramPlan.model_validate_json(await anext(commands))
        finish = trio.Event()

        async def listen() -> None:
            async for line in commands:
                if line == FINISH:
                    break
            finish.set()  # also at the end of stdin: nobody is there any more

        nursery.start_soon(listen)
        await run(plan, finish)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
