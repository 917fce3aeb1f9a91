"""One capture on several L4 nodes: asks them all, merges what they send, and hands it on in order."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import trio

from orchestrator.cli.failure import Finding
from orchestrator.cli.fleet_api import FleetApi
from orchestrator.cli.inquiring import InquiryFailed, inquiry
from orchestrator.cli.merging import Merging
from orchestrator.contract.connection import OrchestratorRefused, OrchestratorUnreachable
from orchestrator.contract.inquiry import Capture, CapturedPacket, CapturePiece
from orchestrator.contract.node import AgentRole, NodeKind
from orchestrator.contract.operator import NODE_LIST, NODES


@dataclass(slots=True)
class NodeCount:
    """What one node has sent."""

    packets: int = 0
    lost: int = 0
    interface: str = ""
    until_ns: int = 0


@dataclass(slots=True)
class CaptureRun:
    """A capture, from its questions to its last packet."""

    question: Capture
    take: Callable[[str, CapturedPacket], bool]
    """Is given each packet in order of time, with its node. False: it takes no more."""
    progress: Callable[["CaptureRun"], None]
    """Is told whenever something came in."""
    counts: dict[str, NodeCount] = field(default_factory=dict)
    failures: dict[str, Finding] = field(default_factory=dict)
    """Why nodes sent nothing, or nothing more."""
    taken: int = 0
    interrupted: bool = False
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self, api: FleetApi, nodes: tuple[str, ...]) -> None:
        """Until all nodes have ended, enough packets came, or Ctrl-C. What one node refuses is in `failures`."""
        nodes = nodes or await l4_nodes(api)
        merging = Merging.of(list(nodes))
        self.counts = {node: NodeCount() for node in nodes}
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_on_interrupt)
                async with trio.open_nursery() as asking:
                    for node in nodes:
                        asking.start_soon(self._ask, api, node, merging)
                self._scope.cancel()
        self._hand_on(merging.rest())

    async def _ask(self, api: FleetApi, node: str, merging: Merging) -> None:
        try:
            async with inquiry(api, node, self.question) as asked:
                while not asked.ended:
                    for piece in await asked.answers():
                        if isinstance(piece, CapturePiece):
                            self._take_piece(node, piece, merging)
                    if self.taken >= self.question.packets:
                        self._scope.cancel()
        except InquiryFailed as failed:
            self.failures[node] = failed.finding
        except OrchestratorRefused as refused:
            first = refused.problems[0]
            self.failures[node] = Finding(first.code, f"{node}: {first.message}", hint=first.hint)
        except OrchestratorUnreachable as away:
            hint = "traffic flows on, and the node ends the capture by itself; ask again when one is up"
            self.failures[node] = Finding("unreachable", f"{node}: no orchestrator answers: {away}", hint=hint)
        merging.end(node)
        self._hand_on(merging.ready())
        self.progress(self)

    def _take_piece(self, node: str, piece: CapturePiece, merging: Merging) -> None:
        merging.add(node, piece)
        count = self.counts[node]
        count.lost, count.interface = piece.lost, piece.interface
        count.until_ns = max(count.until_ns, piece.until_ns)
        self._hand_on(merging.ready())
        self.progress(self)

    def _hand_on(self, packets: Iterator[tuple[str, CapturedPacket]]) -> None:
        for node, packet in packets:
            if self.taken >= self.question.packets:
                return
            if not self.take(node, packet):
                self._scope.cancel()
                return
            self.taken += 1
            self.counts[node].packets += 1

    async def _stop_on_interrupt(self) -> None:
        """Ctrl-C ends the capture, not the command: what was captured is kept, and the nodes are told."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self.interrupted = True
                self._scope.cancel()
                return


async def l4_nodes(api: FleetApi) -> tuple[str, ...]:
    """The L4 nodes whose agents report."""
    return tuple(
        node.name
        for node in await api.listed(NODES, NODE_LIST)
        if node.kind is NodeKind.L4
        and any(agent.role is AgentRole.BALANCER and agent.connected for agent in node.agents)
    )
