"""A capture on an L4 node: what the kernel copies, with the snapshot's names, to the end that was asked for."""

import functools
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
import trio

from l4.balancer_program import BalancerProgram
from l4.capture import Captures
from l4.snapshot_entries import vip_entries
from l4.tap import is_in_place
from orchestrator.contract.inquiry import MAX_PIECE_PACKETS, Answer, Capture, CapturePiece, Verdict
from orchestrator.contract.respondent import InquiryRefused
from orchestrator.contract.snapshot import BalancerSnapshot
from tests.bpf.packets import FLOWS, framed, inner_packet, node_settings
from tests.bpf.program_run import run
from tests.bpf.test_trace import OWNERS, SNAPSHOT, set_live

pytestmark = pytest.mark.kernel

T = TypeVar("T")


class Agent:
    """The part of a balancer agent that captures ask."""

    def __init__(self, program: BalancerProgram) -> None:
        self.program = program

    async def inspect(self, look: Callable[[BalancerProgram, BalancerSnapshot], T]) -> T:
        return await trio.to_thread.run_sync(look, self.program, SNAPSHOT)


@pytest.fixture
def fed(balancer: BalancerProgram) -> Iterator[BalancerProgram]:
    balancer.set_settings(node_settings(balancer.rows))
    balancer.set_vips(vip_entries(SNAPSHOT.vips, SNAPSHOT.pools))
    balancer.swap_table(1, struct.pack("=4H", *OWNERS, 0) * balancer.rows)
    set_live(balancer, (True, True, True))
    yield balancer
    assert not is_in_place(balancer.pins), "no capture leaves a tap"
    assert not balancer.is_tapped


async def captured(program: BalancerProgram, question: Capture, frames: list[bytes]) -> list[CapturePiece]:
    """The pieces of a capture during which these frames come in."""
    pieces: list[CapturePiece] = []
    captures = Captures(Agent(program), "eth0")

    async def post(answer: Answer) -> None:
        assert isinstance(answer, CapturePiece)
        pieces.append(answer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(captures.capture, question, post)
        while not is_in_place(program.pins) or not program.is_tapped:  # noqa: ASYNC110
            await trio.sleep(0.01)
        for frame in frames:
            run(program.descriptor, frame)
    return pieces


async def test_packets_have_the_names_that_the_snapshot_has_for_them(fed: BalancerProgram) -> None:
    frames = [framed(inner_packet(FLOWS["ipv4"], flags)) for flags in ("A", "SF", "S")]
    pieces = await captured(fed, Capture(vip="vip-1", seconds=60, packets=3), frames)
    packets = [packet for piece in pieces for packet in piece.packets]
    assert [(packet.verdict, packet.reason) for packet in packets] == [
        (Verdict.SENT, None),
        (Verdict.DROPPED, "bad_tcp_flags"),
        (Verdict.SENT, None),
    ]
    assert (packets[0].owner, packets[0].chain) == ("proxy-11", ("proxy-22", "proxy-33"))
    assert packets[0].row is not None
    assert packets[1].octets == frames[1]
    assert all(packet.at_ns <= pieces[-1].until_ns + 10**9 for packet in packets)


async def test_a_capture_ends_with_its_last_packet_and_loses_none_on_the_way(fed: BalancerProgram) -> None:
    frames = [framed(inner_packet(FLOWS["ipv4"], "A"))] * (2 * MAX_PIECE_PACKETS + 10)
    pieces = await captured(fed, Capture(vip="vip-1", seconds=60, packets=2 * MAX_PIECE_PACKETS + 5), frames)
    assert sum(len(piece.packets) for piece in pieces) == 2 * MAX_PIECE_PACKETS + 5
    stamps = [packet.at_ns for piece in pieces for packet in piece.packets]
    assert stamps == sorted(stamps)


async def test_a_capture_ends_with_its_time(fed: BalancerProgram) -> None:
    pieces = await captured(fed, Capture(vip="vip-1", seconds=0.2, packets=5), [])
    assert [piece.packets for piece in pieces] == [()]


async def test_a_node_captures_for_one_at_a_time(fed: BalancerProgram) -> None:
    captures = Captures(Agent(fed), "eth0")

    async def post(_: Answer) -> None:
        pass

    async with trio.open_nursery() as nursery:
        question = Capture(vip="vip-1", seconds=60, packets=5)
        nursery.start_soon(functools.partial(captures.capture, question, post))
        await trio.sleep(0.1)
        with pytest.raises(InquiryRefused) as refused:
            await captures.capture(question, post)
        assert refused.value.problem.code == "capture_runs"
        nursery.cancel_scope.cancel()


async def test_an_unknown_vip_is_refused(fed: BalancerProgram) -> None:
    with pytest.raises(InquiryRefused) as refused:
        await Captures(Agent(fed), "eth0").capture(Capture(vip="none", seconds=1, packets=1), _never)
    assert refused.value.problem.code == "no_such_vip"


async def _never(_: Answer) -> None:
    raise AssertionError("nothing to post")
