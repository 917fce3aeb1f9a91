"""Packets of several nodes come out in order, none is held for ever, and none is lost."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.merging import Merging
from orchestrator.contract.inquiry import CapturedPacket, CapturePiece, Verdict


def piece(*stamps: int, until: int) -> CapturePiece:
    packets = tuple(CapturedPacket(at_ns=at, length=0, octets=b"", verdict=Verdict.SENT) for at in stamps)
    return CapturePiece(packets=packets, until_ns=until)


def stamps(merging: Merging) -> list[int]:
    return [packet.at_ns for _, packet in merging.ready()]


def test_a_packet_waits_for_the_node_that_has_not_come_so_far() -> None:
    merging = Merging.of(["a", "b"])
    merging.add("a", piece(1, 5, 9, until=10))
    assert stamps(merging) == []
    merging.add("b", piece(2, until=6))
    assert stamps(merging) == [1, 2, 5]
    merging.end("b")
    assert stamps(merging) == [9]


def test_at_the_end_everything_comes() -> None:
    merging = Merging.of(["a", "b"])
    merging.add("a", piece(3, 1, until=0))
    assert [packet.at_ns for _, packet in merging.rest()] == [1, 3]


@given(st.lists(st.lists(st.integers(1, 1000), max_size=20), min_size=1, max_size=4))
def test_any_pieces_come_out_sorted_and_complete(nodes: list[list[int]]) -> None:
    """As long as nodes keep their word about `until`."""
    merging = Merging.of([str(number) for number in range(len(nodes))])
    out = []
    for position in range(20):
        for number, times in enumerate(nodes):
            ordered = sorted(times)
            if position < len(ordered):
                merging.add(str(number), piece(ordered[position], until=ordered[position]))
            else:
                merging.end(str(number))
        out += stamps(merging)
    out += [packet.at_ns for _, packet in merging.rest()]
    assert out == sorted(time for times in nodes for time in times)
