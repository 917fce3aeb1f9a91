"""Flows that last: everything on an established flow's way may change or be forgotten, and it still reaches its proxy.

docs/protocol.md, "What must be remembered for a flow", lists what there is. For TCP behind redirectors the only state
that must last is the kernel's own socket, and no timer runs on an idle one. So 64 idle hours differ from none only in
what other flows may have pushed out meanwhile: here, all of it.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.packet import Packet

from l4.balancer_program import BalancerProgram
from l4.bpf_map import Map
from l4.entries import MemberEntry
from l4.flow_hash import row_of
from l4.forwarding import GenerationTables, build_table, unpack_row
from l4.pins import pin_path
from l4.redirector_program import RedirectorProgram
from orchestrator.contract.pool import (
    ForwardingSettings,
    Generation,
    GenerationMember,
    Member,
    MemberState,
    PoolForwarding,
)
from tests.bench.sandbox import CLONE_NEWNET, libc_call
from tests.bpf.conftest import ROWS
from tests.bpf.open_flows import FlowState, OpenFlow, add_addresses, flow_in
from tests.bpf.packets import CLIENT_MAC, FLOWS, KEY, NODE_MAC, framed, host_vip, node_settings
from tests.bpf.program_run import Outcome, Verdict, run
from tests.bpf.tunnel_frames import UNDERLAYS

pytestmark = pytest.mark.kernel

SETTINGS = ForwardingSettings(hash_key=KEY.hex(), rows=ROWS)
UNDERLAY = UNDERLAYS["over-ipv4"]
FIRST_NODE, OTHER_NODE = IPv4Address("198.18.1.11"), IPv4Address("198.18.1.12")
#: The member whose host this is, and others, of which there is never a socket.
HERE, *OTHERS = range(21, 101)


def pool(*memberships: Sequence[int]) -> PoolForwarding:
    """Live generations, newest first, by who is in them."""
    known = sorted({member for members in memberships for member in members})
    return PoolForwarding(
        name="edge",
        slot=0,
        members=tuple(
            Member(id=m, name=f"proxy-{m}", address=UNDERLAY.member(m), state=MemberState.ACTIVE) for m in known
        ),
        generations=tuple(
            Generation(number=number, members=tuple(GenerationMember(id=m, weight=1) for m in sorted(members)))
            for number, members in zip(range(len(memberships), 0, -1), memberships, strict=True)
        ),
    )


@contextmanager
def on_cpu(number: int) -> Iterator[None]:
    """This thread's programs run there, as they do for packets of that CPU's receive queue."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[number % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def on_another_host(work: Callable[[], Outcome]) -> Outcome:
    """In a network namespace without sockets."""
    outcomes: list[Outcome] = []

    def alone() -> None:
        libc_call("unshare", CLONE_NEWNET)
        outcomes.append(work())

    thread = threading.Thread(target=alone)
    thread.start()
    thread.join()
    return outcomes[0]


@dataclass(frozen=True, slots=True)
class Edge:
    """Two L4 nodes, and redirectors that stand for any member's."""

    nodes: tuple[BalancerProgram, BalancerProgram]
    redirectors: tuple[RedirectorProgram, RedirectorProgram]

    def apply(self, node: int, snapshot: PoolForwarding) -> None:
        """A pool's state, on one L4 node and on all members' hosts."""
        program = self.nodes[node]
        table = build_table(snapshot, SETTINGS, GenerationTables())
        members = [MemberEntry(m.id, m.address, live=True) for m in snapshot.members]
        program.set_members(members)
        program.swap_table(0, table.chains)
        for redirector in self.redirectors:
            redirector.set_members(members)
            redirector.set_tunnel_sources([FIRST_NODE, OTHER_NODE, *(m.address for m in members)])

    def bring(self, packet: Packet, *, node: int, cpu: int) -> tuple[list[int], bytes | None]:
        """From a client through an L4 node to whoever keeps it: the members that it visits, and what the kernel of this
        host gets, None if another one's does."""
        with on_cpu(cpu):
            outcome = run(self.nodes[node].descriptor, framed(packet))
        visited = []
        while outcome.verdict is Verdict.TX:
            frame = bytes.fromhex((NODE_MAC + CLIENT_MAC).replace(":", "")) + outcome.frame[12:]  # the router's work
            member = int(IPv4Address(frame[30:34])) - int(UNDERLAY.member(0))
            visited.append(member)
            redirector = self.redirectors[cpu % 2]
            redirector.set_settings(v4=IPv4Address(frame[30:34]))
            outcome = self._arrive(redirector, frame, member, cpu)
        assert outcome.verdict is Verdict.PASS
        return visited, outcome.frame if visited[-1] == HERE else None

    @staticmethod
    def _arrive(redirector: RedirectorProgram, frame: bytes, member: int, cpu: int) -> Outcome:
        with on_cpu(cpu + len(frame)):
            if member == HERE:
                return run(redirector.descriptor, frame)
            return on_another_host(lambda: run(redirector.descriptor, frame))


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, bpffs: Path, network_namespace: None) -> Edge:
    add_addresses()
    nodes, redirectors = [], []
    for number, address in enumerate((FIRST_NODE, OTHER_NODE)):
        pins = bpffs / f"host-{number}"
        pins.mkdir()
        node = BalancerProgram(pins, rows=ROWS)
        node.set_settings(node_settings(ROWS, node_id=7 + number, source=address))
        node.set_vips([host_vip(ends.vip, ends.vip_port, 1, 0) for ends in FLOWS.values()])
        nodes.append(node)
        redirectors.append(RedirectorProgram(pins))
    return Edge((nodes[0], nodes[1]), (redirectors[0], redirectors[1]))


def members_with_row(flow: OpenFlow, *, owner: int) -> list[int]:
    """Three members of which this one owns the flow's row."""
    row = row_of(flow.ends.hash(), ROWS)
    for first in OTHERS:
        members = [HERE, first, first % 100 + 1]
        chains = build_table(pool(members), SETTINGS, GenerationTables()).chains
        if unpack_row(chains, row)[0] == owner:
            return members
    raise AssertionError("no such membership")


@pytest.mark.parametrize("family", FLOWS)
def test_flow_is_found_after_its_node_generation_and_receive_queue_changed(edge: Edge, family: str) -> None:
    with flow_in(FlowState.ESTABLISHED, family) as flow:
        begun = members_with_row(flow, owner=HERE)
        edge.apply(0, pool(begun))
        assert edge.bring(flow.packet, node=0, cpu=0) == ([HERE], framed(flow.packet))
        others = [member for member in begun if member != HERE]
        edge.apply(1, pool(others, begun))
        visited, frame = edge.bring(flow.packet, node=1, cpu=1)
        assert len(visited) == 2
        assert visited[-1] == HERE
        assert frame == framed(flow.packet)


@pytest.mark.parametrize("family", FLOWS)
def test_flow_is_found_through_two_other_owners(edge: Edge, family: str) -> None:
    """As often as a chain allows: each later generation gave the flow's row to someone else."""
    with flow_in(FlowState.ESTABLISHED, family) as flow:
        row = row_of(flow.ends.hash(), ROWS)
        history = [members_with_row(flow, owner=HERE)]
        seen = {HERE}
        for newcomers in (OTHERS[at : at + 3] for at in range(0, len(OTHERS), 3)):
            owner = unpack_row(build_table(pool(newcomers), SETTINGS, GenerationTables()).chains, row)[0]
            if owner not in seen and len(seen) < 4:
                seen.add(owner)
                history.insert(0, list(newcomers))
        edge.apply(1, pool(*history))
        visited, frame = edge.bring(flow.packet, node=1, cpu=1)
        assert len(set(visited)) == 4
        assert visited[-1] == HERE
        assert frame == framed(flow.packet)


@pytest.mark.parametrize("family", FLOWS)
def test_flow_of_which_nobody_knows_ends_at_the_last_of_its_chain(edge: Edge, family: str) -> None:
    with flow_in(FlowState.NOTHING, family) as flow:
        begun = members_with_row(flow, owner=HERE)
        edge.apply(0, pool([m for m in begun if m != HERE], begun))
        visited, frame = edge.bring(flow.packet, node=0, cpu=0)
        assert visited[-1] == HERE
        assert frame == framed(flow.packet), "for the kernel's RST"


FORGETFUL = (("balancer", "flow_table_ipv4"), ("balancer", "flow_table_ipv6"), ("redirector", "ingress"))


def forget_everything(bpffs: Path) -> None:
    """All that other flows, or time, may take away from a flow."""
    for host in ("host-0", "host-1"):
        for program, name in FORGETFUL:
            with Map.pinned(pin_path(bpffs / host, program, name)) as table:
                for key in list(table.keys()):
                    table.delete(key)


@pytest.mark.parametrize("family", FLOWS)
def test_flow_is_found_when_all_that_ages_is_gone(edge: Edge, bpffs: Path, family: str) -> None:
    with flow_in(FlowState.ESTABLISHED, family) as flow:
        edge.apply(0, pool(members_with_row(flow, owner=HERE)))
        forget_everything(bpffs)
        # What agents do when they start anew, days later: programs loaded over pinned maps, and the same state applied.
        anew = Edge(
            (BalancerProgram(bpffs / "host-0", rows=ROWS), edge.nodes[1]),
            (RedirectorProgram(bpffs / "host-0"), edge.redirectors[1]),
        )
        assert anew.bring(flow.packet, node=0, cpu=0) == ([HERE], framed(flow.packet))
        anew.apply(0, pool(members_with_row(flow, owner=HERE)))
        assert anew.bring(flow.packet, node=0, cpu=1) == ([HERE], framed(flow.packet))


def test_no_timer_runs_on_an_idle_socket(edge: Edge) -> None:
    """TCP has none (RFC 9293 section 3.8.4): keep-alives, where a proxy asks for them, are its own affair."""
    with flow_in(FlowState.ESTABLISHED, "ipv4") as flow:
        timers = {
            (source, destination): timer
            for source, destination, timer in tcp_timers()
            if flow.ends.vip_port in (source, destination)
        }
        assert timers == {
            (flow.ends.vip_port, flow.ends.client_port): 0,
            (flow.ends.client_port, flow.ends.vip_port): 0,
        }


def tcp_timers() -> Iterator[tuple[int, int, int]]:
    """Of IPv4: ports, and `timer_active` of each established socket (proc_net_tcp: kernel document)."""
    for line in Path("/proc/thread-self/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) == 1:
            yield int(fields[1].split(":")[1], 16), int(fields[2].split(":")[1], 16), int(fields[5].split(":")[0], 16)
