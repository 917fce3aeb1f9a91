"""ICMP echo requests of a given size that must not be fragmented, to many hosts at once."""

import select
import socket
import struct
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from secrets import randbits

Address = IPv4Address | IPv6Address

#: Seconds for an answer, and how often an echo is asked for in this time: hosts that are up answer in milliseconds.
PATIENCE_S = 0.9
ROUNDS = 3

#: linux/in.h, linux/in6.h: set DF, and do not believe what was learnt of the path before.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PROBE = 10, 23, 3

_HEADER = struct.Struct("!BBHHH")
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_IP_HEADER = {4: 20, 6: 40}
#: Octets of the smallest packet that is sent: as ping(8)'s.
SMALL = 84

_RECEIVE_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Echo:
    """One question: an IP packet of `size` octets to `address`."""

    address: Address
    size: int = SMALL


@dataclass(slots=True)
class _Channel:
    """The socket of one family, and what was sent by it."""

    socket: socket.socket
    version: int
    identifier: int = field(default_factory=lambda: randbits(16))

    def send(self, number: int, echo: Echo) -> None:
        payload = bytes(max(0, echo.size - _IP_HEADER[self.version] - _HEADER.size))
        head = _HEADER.pack(_REQUEST[self.version], 0, 0, self.identifier, number)
        checksum = _checksum(head + payload) if self.version == 4 else 0  # of ICMPv6 by the kernel
        head = _HEADER.pack(_REQUEST[self.version], 0, checksum, self.identifier, number)
        self.socket.sendto(head + payload, (str(echo.address), 0))

    def receive(self) -> int | None:
        """The number of an echo that was answered."""
        packet = self.socket.recv(65535)
        offset = (packet[0] & 0xF) * 4 if self.version == 4 else 0
        if len(packet) < offset + _HEADER.size:
            return None
        kind, _, _, identifier, number = _HEADER.unpack_from(packet, offset)
        return int(number) if (kind, identifier) == (_REPLY[self.version], self.identifier) else None


def answered(echoes: Collection[Echo], sources: Collection[Address], interface: str | None = None) -> set[Echo]:
    """Which of them were answered within `PATIENCE_S`. Blocks. At most 65536.

    Asked from the source of the same family, if there is one, by `interface`, if it is given. What this host cannot
    even send (no route, larger than its own MTU) is not answered. Raises PermissionError without CAP_NET_RAW; OSError.
    """
    numbered = dict(enumerate(echoes))
    versions: set[int] = {echo.address.version for echo in echoes}
    channels = {version: _open(version, sources, interface) for version in versions}
    found: set[Echo] = set()
    try:
        began = time.monotonic()
        for turn in range(ROUNDS):
            for number, echo in numbered.items():
                if echo not in found:
                    _send(channels[echo.address.version], number, echo)
            _gather(channels, numbered, found, began + PATIENCE_S * (turn + 1) / ROUNDS)
            if len(found) == len(numbered):
                break
    finally:
        for channel in channels.values():
            channel.socket.close()
    return found


def _open(version: int, sources: Collection[Address], interface: str | None) -> _Channel:
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    opened = socket.socket(family, socket.SOCK_RAW, protocol)
    try:
        if version == 4:
            opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PROBE)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if interface is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        source = next((str(address) for address in sources if address.version == version), None)
        if source is not None:
            opened.bind((source, 0))
    except OSError:
        opened.close()
        raise
    return _Channel(opened, version)


def _send(channel: _Channel, number: int, echo: Echo) -> None:
    try:
        channel.send(number, echo)
    except PermissionError:
        raise
    except OSError:
        return  # no route to it, or too large for this host: not answered


def _gather(channels: dict[int, _Channel], numbered: dict[int, Echo], found: set[Echo], until: float) -> None:
    by_descriptor = {channel.socket.fileno(): channel for channel in channels.values()}
    while len(found) < len(numbered) and (left := until - time.monotonic()) > 0:
        for descriptor in select.select([*by_descriptor], [], [], left)[0]:
            number = by_descriptor[descriptor].receive()
            if number in numbered:
                found.add(numbered[number])


def _checksum(octets: bytes) -> int:
    """RFC 1071."""
    octets += bytes(len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
