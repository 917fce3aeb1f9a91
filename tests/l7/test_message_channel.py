"""What a channel between two processes makes of what is no message: it ends, says why, and keeps no descriptor."""

import array
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter

from l7.message_channel import ChannelClosed, MessageChannel
from orchestrator.contract.base import Contract

MAX_FRAME = 1000
MAX_SOCKETS = 4


class Said(Contract):
    """A message."""

    kind: Literal["said"] = "said"
    words: str


class Silent(Contract):
    """Another one."""

    kind: Literal["silent"] = "silent"


MESSAGES: TypeAdapter[Said | Silent] = TypeAdapter(Annotated[Said | Silent, Field(discriminator="kind")])


def channel_on(end: socket.socket) -> MessageChannel[Said | Silent]:
    return MessageChannel(end, MESSAGES, max_frame_bytes=MAX_FRAME, max_sockets=MAX_SOCKETS)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        yield ours, theirs


def framed(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def send_with(end: socket.socket, data: bytes, *files: int) -> None:
    end.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files).tobytes())])


async def test_messages_and_sockets_arrive_together(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = map(channel_on, ends)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.setblocking(False)
        await theirs.send(Said(words="first"), (listening,))
        await theirs.send(Silent())
        message, (received,) = await ours.receive()
        with received:
            assert message == Said(words="first")
            assert received.getsockname() == listening.getsockname()
            assert not os.get_inheritable(received.fileno())
            received.dup().close()
            assert not os.get_blocking(listening.fileno())  # it is one socket, of which all share the mode
        assert await ours.receive() == (Silent(), ())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(struct.pack("!I", MAX_FRAME + 1), "a frame of 1001 bytes", id="too-long"),
        pytest.param(struct.pack("!I", 0xFFFFFFFF), "a frame of 4294967295 bytes", id="far-too-long"),
        pytest.param(framed(b""), "EOF while parsing", id="empty"),
        pytest.param(framed(b"\xff\xfe"), "expected value", id="not-text"),
        pytest.param(framed(b'{"kind":"said"}'), "Field required", id="field-missing"),
        pytest.param(framed(b'{"kind":"said","words":"a","more":1}'), "Extra inputs", id="field-too-many"),
        pytest.param(framed(b'{"kind":"unknown"}'), "does not match any of the expected tags", id="unknown-kind"),
        pytest.param(framed(b'{"kind":"silent"}')[:-3], "closed the channel", id="cut-short"),
        pytest.param(b"\0\0", "closed the channel", id="cut-in-the-length"),
        pytest.param(b"", "closed the channel", id="nothing"),
    ],
)
async def test_what_is_no_message_ends_the_channel(
    ends: tuple[socket.socket, socket.socket], data: bytes, reason: str
) -> None:
    ours, theirs = ends
    theirs.sendall(data)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ChannelClosed, match=reason):
        await channel_on(ours).receive()


@pytest.mark.parametrize("number", [1, MAX_SOCKETS, MAX_SOCKETS + 1, 200])
@pytest.mark.parametrize("body", [b'{"kind":"unknown"}', b'{"kind":"silent"}'])
async def test_no_descriptor_stays_open_after_nonsense(
    ends: tuple[socket.socket, socket.socket], body: bytes, number: int
) -> None:
    ours, theirs = ends
    channel = channel_on(ours)
    before = descriptors()
    null = os.open("/dev/null", os.O_RDONLY)  # no socket, so that even a message that is one is refused
    try:
        send_with(theirs, framed(body), *[null] * number)
    finally:
        os.close(null)
    with pytest.raises(ChannelClosed):
        await channel.receive()
    assert descriptors() == before


async def test_descriptors_that_trickle_in_are_bounded(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    channel = channel_on(ours)
    before = descriptors()
    data = framed(b'{"kind":"silent"}')
    for at in range(MAX_SOCKETS + 1):
        send_with(theirs, data[at : at + 1], ends[0].fileno())
    with pytest.raises(ChannelClosed, match="more than 4 descriptors"):
        await channel.receive()
    assert descriptors() == before


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_message_or_the_end(data: bytes) -> None:
    async def receive() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(ChannelClosed):
                await channel_on(ours).receive()

    trio.run(receive)
