"""Packets of several nodes, brought into the order of their stamps while they come in."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from orchestrator.contract.inquiry import CapturedPacket, CapturePiece


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    """A packet that an earlier one of another node may still overtake."""

    at_ns: int
    number: int
    """Of arrival: decides between equal stamps."""
    node: str = field(compare=False)
    packet: CapturedPacket = field(compare=False)


@dataclass(slots=True)
class Merging:
    """Holds a packet back until every node that still captures has said that no earlier one will follow."""

    until_ns: dict[str, int]
    """How far each node that captures has come."""
    _waiting: list[_Waiting] = field(default_factory=list)
    _number: int = 0

    @classmethod
    def of(cls, nodes: Iterator[str] | list[str]) -> "Merging":
        return cls(dict.fromkeys(nodes, 0))

    def add(self, node: str, piece: CapturePiece) -> None:
        """A piece of a node's answer."""
        for packet in piece.packets:
            self._number += 1
            heapq.heappush(self._waiting, _Waiting(packet.at_ns, self._number, node, packet))
        if node in self.until_ns:
            self.until_ns[node] = max(self.until_ns[node], piece.until_ns)

    def end(self, node: str) -> None:
        """No more comes from this node."""
        self.until_ns.pop(node, None)

    def ready(self) -> Iterator[tuple[str, CapturedPacket]]:
        """The packets whose place is certain, in order, each with its node."""
        bound = min(self.until_ns.values(), default=None)
        while self._waiting and (bound is None or self._waiting[0].at_ns < bound):
            first = heapq.heappop(self._waiting)
            yield first.node, first.packet

    def rest(self) -> Iterator[tuple[str, CapturedPacket]]:
        """All that is left, in order: for the end, whatever it was."""
        self.until_ns.clear()
        return self.ready()
