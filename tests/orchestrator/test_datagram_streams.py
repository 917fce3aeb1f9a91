"""Numbered datagrams and the service that answers them. No root needed: both ends are on the loopback."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Final

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.lab import udp_echo
from orchestrator.lab.child import child_process, lines
from orchestrator.lab.load.datagrams import DatagramPlan, DatagramsSeen, Stream
from orchestrator.lab.load.messages import FINISH
from orchestrator.lab.load.sequence import SequenceCount

#: Answers as they come, after ten datagrams, and what is counted: answered, lost, duplicated, reordered, strange.
STREAMS = {
    "all in order": (range(10), (10, 0, 0, 0, 0)),
    "none": ((), (0, 10, 0, 0, 0)),
    "one missing": ((0, 1, 2, 3, 5, 6, 7, 8, 9), (9, 1, 0, 0, 0)),
    "one twice": ((0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9), (10, 0, 1, 0, 0)),
    "two swapped": ((0, 1, 3, 2, 4, 5, 6, 7, 8, 9), (10, 0, 0, 1, 0)),
    "one very late": ((1, 2, 3, 4, 5, 6, 7, 8, 9, 0), (10, 0, 0, 1, 0)),
    "backwards": (range(9, -1, -1), (10, 0, 0, 9, 0)),
    "never sent": ((*range(10), 10, 2**63, -1), (10, 0, 0, 0, 3)),
    "twice, and late the second time": ((*range(10), 3), (10, 0, 1, 0, 0)),
}


def counted(sent: int, answers: Iterable[int]) -> SequenceCount:
    count = SequenceCount()
    assert [count.next_number() for _ in range(sent)] == list(range(sent))
    for number in answers:
        count.take(number)
    return count


@pytest.mark.parametrize(("answers", "expected"), STREAMS.values(), ids=STREAMS)
def test_what_became_of_ten_datagrams(answers: Iterable[int], expected: tuple[int, ...]) -> None:
    count = counted(10, answers)
    assert (count.answered, count.lost, count.duplicated, count.reordered, count.strange) == expected


@given(st.lists(st.integers(-5, 30)))
def test_every_answer_is_counted_as_one_thing(answers: list[int]) -> None:
    count = counted(20, answers)
    assert count.answered + count.duplicated + count.strange == len(answers)
    assert count.answered + count.lost == count.sent
    assert count.reordered <= count.answered


PORT: Final = 53530


@contextmanager
def echo(address: str, port: int) -> Iterator[None]:
    command = [sys.executable, udp_echo.__file__, "--name", "proxy-7", "--port", str(port), address]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.terminate()


async def stream_to(address: str, port: int, enough: Callable[[DatagramsSeen], bool]) -> DatagramsSeen:
    plan = DatagramPlan(
        streams=(Stream(source=ip_address(address), target=ip_address(address), port=port),), per_second=200
    )
    seen = None
    async with child_process([sys.executable, "-m", "orchestrator.lab.load.datagrams"]) as child:
        await child.stdin.send_all(plan.model_dump_json().encode() + b"\n")
        async for line in lines(child.stdout):
            seen = DatagramsSeen.model_validate_json(line)
            if enough(seen) and not seen.finished:
                await child.stdin.send_all(f"{FINISH}\n".encode())
    assert seen is not None
    assert seen.finished
    return seen


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_stream_is_answered_by_the_service_which_names_itself(address: str) -> None:
    with echo(address, PORT):
        seen = trio.run(stream_to, address, PORT, lambda seen: seen.sent - seen.lost > 100)
    (stream,) = seen.streams
    assert stream.servers.keys() == {"proxy-7"}
    assert (stream.strange, seen.moved, seen.duplicated) == (0, 0, 0)


def test_what_nobody_answers_is_lost() -> None:
    seen = trio.run(stream_to, "127.0.0.1", PORT + 1, lambda seen: seen.sent > 20)
    assert seen.sent == seen.lost > 20
