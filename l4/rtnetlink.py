"""rtnetlink(7) in octets: dumps, and many changes at once.

Not through pyroute2 where it counts: that takes a millisecond of CPU time for each change and a tenth of a second for a
dump of a thousand addresses, and an L4 node withdraws or renews a thousand addresses at once.
"""

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from pyroute2.netlink import NETLINK_GET_STRICT_CHK, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, SOL_NETLINK

_NETLINK_CAP_ACK: Final = 10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3

HEADER: Final = struct.Struct("=IHHII")
"""`struct nlmsghdr`: octets, kind, flags, sequence number, port."""
ADDRESS: Final = struct.Struct("=BBBBI")
"""`struct ifaddrmsg`: family, prefix length, flags, scope, interface."""
ROUTE: Final = struct.Struct("=8BI")
"""`struct rtmsg`: family, length of destination and source, TOS, table, protocol, scope, type; flags."""
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")

_RECEIVE_SIZE = 64 * 1024
#: Changes that are sent at once: their answers (768 octets each, as the kernel counts) fit the receive buffer, which
#: has room for some 270 (`net.core.rmem_default`).
_BATCH = 128


@dataclass(frozen=True, slots=True)
class Request:
    """One change that the kernel is asked for."""

    kind: int
    flags: int
    head: bytes
    """`ADDRESS` or `ROUTE`, packed."""
    attributes: Mapping[int, bytes]
    tolerated: frozenset[int] = field(default=frozenset())
    """Errors that mean that it is so already."""


class Rtnetlink:
    """A socket of this network namespace. For one thread at a time."""

    def __init__(self) -> None:
        self._channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        # Without the first, the kernel dumps everything; without the second, each refusal carries its request.
        self._channel.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._channel.setsockopt(SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._channel.bind((0, 0))

    def __enter__(self) -> "Rtnetlink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def dump(self, kind: int, head: bytes) -> Iterator[tuple[bytes, dict[int, bytes]]]:
        """Head and attributes of each object that `head` asks for. Raises OSError."""
        self._channel.send(_message(kind, NLM_F_REQUEST | NLM_F_DUMP, 1, head, {}))
        for answer_kind, _, payload in self._answers():
            if answer_kind == _NLMSG_DONE:
                return
            if answer_kind == _NLMSG_ERROR:
                raise _refusal(payload)
            yield payload[: len(head)], attributes_of(payload, len(head))

    def change(self, requests: Iterable[Request]) -> None:
        """Carries out all of them, in order, also behind one that fails. Raises OSError, of the first that failed."""
        pending = list(requests)
        failed: OSError | None = None
        for start in range(0, len(pending), _BATCH):
            batch = pending[start : start + _BATCH]
            self._channel.send(
                b"".join(
                    _message(
                        request.kind,
                        NLM_F_REQUEST | NLM_F_ACK | request.flags,
                        number,
                        request.head,
                        request.attributes,
                    )
                    for number, request in enumerate(batch)
                )
            )
            answered = 0
            for kind, number, payload in self._answers():
                if kind != _NLMSG_ERROR:
                    continue
                error = _refusal(payload)
                if error.errno and error.errno not in batch[number].tolerated:
                    failed = failed or error
                answered += 1
                if answered == len(batch):
                    break
        if failed is not None:
            raise failed

    def _answers(self) -> Iterator[tuple[int, int, bytes]]:
        """Kind, sequence number and payload of each message that comes."""
        while True:
            answer = self._channel.recv(_RECEIVE_SIZE)
            yield from messages(answer)


def messages(received: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, sequence number and payload of each message in what was received at once."""
    offset = 0
    while offset + HEADER.size <= len(received):
        length, kind, _, number, _ = HEADER.unpack_from(received, offset)
        if length < HEADER.size:
            return
        yield kind, number, received[offset + HEADER.size : offset + length]
        offset += _aligned(length)


def _message(kind: int, flags: int, number: int, head: bytes, attributes: Mapping[int, bytes]) -> bytes:
    body = head + b"".join(
        _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), name) + value.ljust(_aligned(len(value)), b"\0")
        for name, value in attributes.items()
    )
    return HEADER.pack(HEADER.size + len(body), kind, flags, number, 0) + body


def attributes_of(payload: bytes, offset: int) -> dict[int, bytes]:
    """By number: those of a message, which begin behind its head, at `offset`."""
    attributes: dict[int, bytes] = {}
    while offset + _ATTRIBUTE.size <= len(payload):
        size, name = _ATTRIBUTE.unpack_from(payload, offset)
        if size < _ATTRIBUTE.size:
            break
        attributes[name] = payload[offset + _ATTRIBUTE.size : offset + size]
        offset += _aligned(size)
    return attributes


def _refusal(payload: bytes) -> OSError:
    number = -_ERROR.unpack_from(payload)[0]
    return OSError(number, f"rtnetlink: {os.strerror(number)}")


def _aligned(size: int) -> int:
    return (size + 3) & ~3
