"""The board of inquiries: bounded in number, size and time, by a clock that is stepped."""

from typing import Any

import pytest
import trio
import trio.testing

from orchestrator.contract.inquiry import (
    MAX_PIECE_PACKETS,
    TAKE_S,
    Capture,
    CapturedPacket,
    CapturePiece,
    Piece,
    Probe,
    Trace,
    TraceAnswer,
    Verdict,
)
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.fleet.document import FleetRefused
from orchestrator.fleet.inquiries import (
    AGENT_SILENT_S,
    MAX_INQUIRIES,
    MAX_INQUIRIES_OF_AGENT,
    MAX_WAITING_OCTETS,
    OPERATOR_SILENT_S,
    InquiryBoard,
)

BALANCER = AgentIdentity(node="l4-1", role=AgentRole.BALANCER)
OTHER = AgentIdentity(node="l4-2", role=AgentRole.BALANCER)
PROBE = Probe(source="198.51.100.7", source_port=40000, destination="203.0.113.10", destination_port=443)
TRACE = Trace(probe=PROBE)
CAPTURE = Capture(vip="web-v4", seconds=10, packets=100)
ANSWER = TraceAnswer(steps=(), verdict=Verdict.DROPPED, reason="bad_tcp_flags", counters={"bad_tcp_flags": 1})


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time passes only while everybody waits, and then at once."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0.02)}


_PACKET = CapturedPacket(at_ns=1, length=2000, octets=bytes(2000), verdict=Verdict.SENT)
LARGE = Piece(answer=CapturePiece(packets=(_PACKET,) * MAX_PIECE_PACKETS, until_ns=1))


async def test_a_question_reaches_its_agent_once_and_the_answer_its_operator() -> None:
    board = InquiryBoard()
    asked = board.ask("operator ada", BALANCER, TRACE)
    assert await board.next_for(OTHER, 0) is None
    taken = await board.next_for(BALANCER, 0)
    assert taken is not None
    assert (taken.id, taken.question, taken.asked_by) == (asked, TRACE, "operator ada")
    assert await board.next_for(BALANCER, 0) is None, "handed out once"
    assert not await board.take_piece(OTHER, asked, Piece(answer=ANSWER)), "another agent has no say"
    assert await board.take_piece(BALANCER, asked, Piece(answer=ANSWER))
    assert await board.take_piece(BALANCER, asked, Piece(last=True))
    progress = await board.progress("operator ada", asked, 0)
    assert (progress.answers, progress.ended, progress.problem) == ((ANSWER,), True, None)
    with pytest.raises(FleetRefused) as refused:
        await board.progress("operator ada", asked, 0)
    assert refused.value.code == "not_found"
    assert repr(board) == "InquiryBoard(0 open)"


async def test_an_inquiry_is_its_operators_alone() -> None:
    board = InquiryBoard()
    asked = board.ask("operator ada", BALANCER, TRACE)
    with pytest.raises(FleetRefused):
        await board.progress("operator bob", asked, 0)
    with pytest.raises(FleetRefused):
        board.cancel("operator bob", asked)


async def test_a_waiting_agent_is_handed_a_question_at_once() -> None:
    board = InquiryBoard()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _agent() -> None:
            taken = await board.next_for(BALANCER, 20)
            assert taken is not None
            assert trio.current_time() == asked_at

        await trio.testing.wait_all_tasks_blocked()
        asked_at = trio.current_time()
        board.ask("operator ada", BALANCER, TRACE)


async def test_an_agent_that_does_not_take_its_question_ends_it_with_what_to_do() -> None:
    board = InquiryBoard()
    await board.next_for(BALANCER, 0)
    began = trio.current_time()
    asked = board.ask("operator ada", BALANCER, TRACE)
    progress = await board.progress("operator ada", asked, 30)
    assert progress.problem is not None
    assert progress.problem.code == "agent_does_not_answer"
    assert progress.problem.hint
    assert TAKE_S <= trio.current_time() - began < TAKE_S + 2


async def test_an_agent_of_an_older_version_is_told_from_a_silent_one() -> None:
    board = InquiryBoard()
    asked = board.ask("operator ada", BALANCER, TRACE)
    progress = await board.progress("operator ada", asked, 30)
    assert progress.problem is not None
    assert progress.problem.code == "agent_takes_no_questions"
    assert "upgrade" in (progress.problem.hint or "")


async def test_a_question_that_a_dead_agent_was_handed_is_handed_to_the_next() -> None:
    board = InquiryBoard()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(board.next_for, BALANCER, 20)  # of a process that is killed: nobody reads what it is told
        await trio.testing.wait_all_tasks_blocked()
        asked = board.ask("operator ada", BALANCER, CAPTURE)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        taken = await board.next_for(BALANCER, 20)
        assert taken is not None
        assert taken.id == asked
        assert trio.current_time() - began < AGENT_SILENT_S
    assert await board.take_piece(BALANCER, asked, Piece())
    assert await board.next_for(BALANCER, 5) is None, "and not once more, since it is under way"


async def test_of_two_polls_the_newer_is_handed_the_question() -> None:
    """The older is a dead process's."""
    board = InquiryBoard()
    taken: dict[str, object] = {}
    async with trio.open_nursery() as nursery:

        async def poll(name: str) -> None:
            taken[name] = await board.next_for(BALANCER, 20)

        for name in ("older", "newer"):
            nursery.start_soon(poll, name)
            await trio.testing.wait_all_tasks_blocked()
        board.ask("operator ada", BALANCER, CAPTURE)
    assert taken["older"] is None
    assert taken["newer"] is not None


async def test_an_agent_that_falls_silent_ends_its_answer() -> None:
    board = InquiryBoard()
    asked = board.ask("operator ada", BALANCER, CAPTURE)
    await board.next_for(BALANCER, 0)
    ended = False
    problem = None
    while not ended:
        progress = await board.progress("operator ada", asked, 5)
        ended, problem = progress.ended, progress.problem
    assert problem is not None
    assert "silent" in problem.message
    assert not await board.take_piece(BALANCER, asked, Piece()), "and is told, should it come back"


async def test_an_operator_who_no_longer_fetches_ends_the_inquiry() -> None:
    board = InquiryBoard()
    asked = board.ask("operator ada", BALANCER, CAPTURE)
    await board.next_for(BALANCER, 0)
    wanted = True
    began = trio.current_time()
    while wanted:
        await trio.sleep(1)
        board.keep_only({BALANCER})
        wanted = await board.take_piece(BALANCER, asked, Piece())
    assert OPERATOR_SILENT_S <= trio.current_time() - began < OPERATOR_SILENT_S + 2


async def test_a_cancelled_inquiry_is_unwanted() -> None:
    board = InquiryBoard()
    asked = board.ask("operator ada", BALANCER, CAPTURE)
    await board.next_for(BALANCER, 0)
    board.cancel("operator ada", asked)
    assert not await board.take_piece(BALANCER, asked, Piece())


async def test_an_agent_waits_while_the_buffer_is_full() -> None:
    board = InquiryBoard()
    asked = board.ask("operator ada", BALANCER, CAPTURE)
    await board.next_for(BALANCER, 0)
    size = len(LARGE.model_dump_json())
    for _ in range(MAX_WAITING_OCTETS // size):
        assert await board.take_piece(BALANCER, asked, LARGE)
    with trio.move_on_after(3) as patience:
        await board.take_piece(BALANCER, asked, LARGE)
    assert patience.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(board.take_piece, BALANCER, asked, LARGE)
        await trio.testing.wait_all_tasks_blocked()
        assert len((await board.progress("operator ada", asked, 0)).answers) == MAX_WAITING_OCTETS // size
    assert len((await board.progress("operator ada", asked, 0)).answers) == 1


async def test_inquiries_are_bounded_in_number() -> None:
    board = InquiryBoard()
    for _ in range(MAX_INQUIRIES_OF_AGENT):
        board.ask("operator ada", BALANCER, TRACE)
    with pytest.raises(FleetRefused) as refused:
        board.ask("operator ada", BALANCER, TRACE)
    assert refused.value.code == "too_many_inquiries"
    for number in range(MAX_INQUIRIES - MAX_INQUIRIES_OF_AGENT):
        board.ask("operator ada", AgentIdentity(node=f"l4-{number + 10}", role=AgentRole.BALANCER), TRACE)
    with pytest.raises(FleetRefused):
        board.ask("operator ada", OTHER, TRACE)
    await trio.sleep(OPERATOR_SILENT_S + 1)
    board.ask("operator ada", OTHER, TRACE)  # the others were given up
