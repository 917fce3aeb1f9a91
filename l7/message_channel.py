"""Typed messages between two processes of the proxy, over a connected pair of stream sockets, with sockets beside them.

A frame is four bytes of length (big-endian) and that much JSON. Sockets travel as ancillary data (SCM_RIGHTS, unix(7))
of the frame that names them.

The other end is a process of ours, but perhaps of another version, or half dead: what does not fit ends the channel,
and leaves no descriptor behind.
"""

import array
import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Generic, TypeVar

import trio
from pydantic import BaseModel, TypeAdapter

_LENGTH = struct.Struct("!I")
_FD = array.array("i").itemsize
#: One call of recvmsg.
_CHUNK_BYTES = 1 << 18

M = TypeVar("M", bound=BaseModel)


class ChannelClosed(Exception):
    """The other process is gone, or said what this one does not understand."""


class MessageChannel(Generic[M]):
    """One end of the pair. One task receives; sends are serialised."""

    def __init__(self, end: socket.socket, messages: TypeAdapter[M], *, max_frame_bytes: int, max_sockets: int) -> None:
        """`messages`: every message that either end sends. `max_sockets`: beside one frame."""
        end.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(end)
        self._messages = messages
        self._max_frame_bytes = max_frame_bytes
        self._max_sockets = max_sockets
        self._sending = trio.Lock()

    async def send(self, message: M, sockets: tuple[socket.socket, ...] = ()) -> None:
        """Send a message, with sockets beside it.

        Raises:
            ChannelClosed: the other process is gone.
        """
        body = message.model_dump_json().encode()
        frame = memoryview(_LENGTH.pack(len(body)) + body)
        ancillary = []
        if sockets:
            descriptors = array.array("i", [each.fileno() for each in sockets])
            ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors.tobytes()))
        async with self._sending:
            try:
                sent = await self._socket.sendmsg([frame], ancillary)
                while sent < len(frame):
                    sent += await self._socket.send(frame[sent:])
            except OSError as error:
                raise ChannelClosed(str(error)) from error

    async def receive(self) -> tuple[M, tuple[socket.socket, ...]]:
        """Wait for a message. The sockets beside it are the caller's.

        Raises:
            ChannelClosed: the other process is gone, or spoke nonsense.
        """
        descriptors: list[int] = []
        try:
            head = await self._read(_LENGTH.size, descriptors)
            (length,) = _LENGTH.unpack(head)
            if length > self._max_frame_bytes:
                raise ChannelClosed(f"a frame of {length} bytes: more than {self._max_frame_bytes}")
            message = self._messages.validate_json(await self._read(length, descriptors))
            return message, _as_sockets(descriptors)
        except (OSError, ValueError) as error:
            raise ChannelClosed(str(error)) from error
        finally:
            _close(descriptors)

    async def _read(self, size: int, descriptors: list[int]) -> bytes:
        chunks: list[bytes] = []
        while size:
            chunk, ancillary, flags, _address = await self._socket.recvmsg(
                min(size, _CHUNK_BYTES), socket.CMSG_SPACE(self._max_sockets * _FD), socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    received = array.array("i")
                    received.frombytes(data[: len(data) - len(data) % _FD])
                    descriptors.extend(received)
            if flags & socket.MSG_CTRUNC or len(descriptors) > self._max_sockets:
                raise ChannelClosed(f"more than {self._max_sockets} descriptors beside one frame")
            if not chunk:
                raise ChannelClosed("the other process closed the channel")
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        """Close this end; the other process sees the end of the stream."""
        self._socket.close()


def _as_sockets(descriptors: list[int]) -> tuple[socket.socket, ...]:
    """Takes them out of the list. Raises OSError if one is no socket; those that were taken are closed then."""
    sockets: list[socket.socket] = []
    try:
        while descriptors:
            sock = socket.socket(fileno=descriptors[0])
            sockets.append(sock)
            del descriptors[0]
            # All who share a socket share its mode (O_NONBLOCK is of the open file description, fcntl(2)): with the
            # first `dup` of what it takes for a blocking one, Python would make it one, and who accepts would hang.
            sock.setblocking(False)
    except OSError:
        for each in sockets:
            each.close()
        raise
    return tuple(sockets)


def _close(descriptors: Iterable[int]) -> None:
    for each in descriptors:
        with suppress(OSError):
            os.close(each)
