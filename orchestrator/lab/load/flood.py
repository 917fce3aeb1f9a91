"""A SYN flood, at the highest rate that one core sends: `python -m orchestrator.lab.load.flood`.

Runs inside the client's namespace and tells what it sent in one JSON line. Every SYN has another source address, port
and sequence number, and sums that are right: the other end must take it for a client's. Sources are of the benchmark
range (RFC 2544) and the documentation range (RFC 3849), which the lab's router must lead nowhere (`SOURCES`).

Sums are not reckoned for each frame. What varies of a header is balanced by one word of it that means nothing to the
receiver: the IPv4 identification, the lower half of the sequence number. Ones' complement sums stay as they were
(RFC 1624).
"""

import argparse
import ctypes
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from orchestrator.contract.base import Contract

#: Where the flood seems to come from.
SOURCES: Final = (IPv4Network("198.18.0.0/15"), IPv6Network("2001:db8:f000::/36"))

#: Frames of one system call (the kernel takes at most UIO_MAXIOV, 1024).
BATCH: Final = 1024

_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_TCP_HEADER: Final = 20
_SYN: Final = 2
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20


class FloodSent(Contract):
    """What was sent, by family."""

    ipv4: int
    ipv6: int
    seconds: float

    @property
    def packets(self) -> int:
        return self.ipv4 + self.ipv6

    @property
    def per_second(self) -> float:
        return self.packets / self.seconds


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """`struct msghdr` of sendmsg(2)."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iovec", ctypes.c_void_p),
        ("iovec_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """`struct mmsghdr` of sendmmsg(2)."""

    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


@dataclass(frozen=True, slots=True)
class Link:
    """From the sender's interface to its router."""

    interface: str
    own_mac: bytes
    router_mac: bytes


def ones_complement_sum(octets: bytes) -> int:
    """RFC 1071, without the final complement."""
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def syn_v4(link: Link, vip: IPv4Address, port: int) -> bytearray:
    """A frame whose sums hold with all that varies at zero."""
    source = SOURCES[0].network_address.packed
    ip = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + _TCP_HEADER, 0, 0, 64, 6, 0, source, vip.packed))
    ip[10:12] = struct.pack("!H", ~ones_complement_sum(bytes(ip)) & 0xFFFF)
    pseudo = source + vip.packed + struct.pack("!HH", 6, _TCP_HEADER)
    return bytearray(link.router_mac + link.own_mac + struct.pack("!H", _ETH_P_IP)) + ip + _tcp(pseudo, port)


def syn_v6(link: Link, vip: IPv6Address, port: int) -> bytearray:
    """The same over IPv6."""
    source = (SOURCES[1].network_address + 1).packed
    ip = struct.pack("!IHBB16s16s", 6 << 28, _TCP_HEADER, 6, 64, source, vip.packed)
    pseudo = source + vip.packed + struct.pack("!HH", 6, _TCP_HEADER)
    return bytearray(link.router_mac + link.own_mac + struct.pack("!H", _ETH_P_IPV6)) + ip + _tcp(pseudo, port)


def _tcp(pseudo: bytes, port: int) -> bytes:
    header = struct.pack("!HHIIBBHHH", 0, port, 0, 0, _TCP_HEADER // 4 << 4, _SYN, 64240, 0, 0)
    checksum = ~ones_complement_sum(pseudo + header) & 0xFFFF
    return header[:16] + struct.pack("!H", checksum) + header[18:]


def vary_v4(frame: memoryview, high: int, low: int, port: int, sequence: int) -> None:
    """Another source of 198.18.0.0/15, port and sequence number; the sums stay right."""
    high &= 1
    struct.pack_into("!H", frame, 18, -(high + low) % 0xFFFF)
    struct.pack_into("!HH", frame, 26, 0xC612 + high, low)
    struct.pack_into("!H", frame, 34, port)
    struct.pack_into("!HH", frame, 38, sequence, -(high + low + port + sequence) % 0xFFFF)


def vary_v6(frame: memoryview, high: int, low: int, port: int, sequence: int) -> None:
    """Another source of 2001:db8:f000::/36, port and sequence number; the sum stays right."""
    high &= 0x0FFF
    struct.pack_into("!HH", frame, 26, 0xF000 + high, low)
    struct.pack_into("!H", frame, 54, port)
    struct.pack_into("!HH", frame, 58, sequence, -(high + low + port + sequence) % 0xFFFF)


def flood(link: Link, v4: IPv4Address, v6: IPv6Address, port: int, seconds: float) -> FloodSent:
    """Sends SYNs to both VIPs, in turn, for so long. Raises OSError: it takes CAP_NET_RAW."""
    templates = syn_v4(link, v4, port), syn_v6(link, v6, port)
    buffers = [ctypes.create_string_buffer(bytes(templates[n % 2]), len(templates[n % 2])) for n in range(BATCH)]
    frames = [memoryview(buffer).cast("B") for buffer in buffers]
    vectors = (_Iovec * BATCH)(*(_Iovec(ctypes.addressof(buffer), len(buffer)) for buffer in buffers))
    messages = (_Message * BATCH)()
    for number, message in enumerate(messages):
        message.header.iovec = ctypes.addressof(vectors) + number * ctypes.sizeof(_Iovec)
        message.header.iovec_count = 1
    libc = ctypes.CDLL(None, use_errno=True)
    fates = struct.Struct("=4H")
    sent = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        wire.bind((link.interface, 0))
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            chances = fates.iter_unpack(os.urandom(fates.size * BATCH))
            for frame, (high, low, source_port, sequence) in zip(frames, chances, strict=True):
                (vary_v6 if len(frame) > len(templates[0]) else vary_v4)(frame, high, low, source_port, sequence)
            done = libc.sendmmsg(wire.fileno(), messages, BATCH, 0)
            if done < 0 and ctypes.get_errno() not in (105, 11):  # ENOBUFS, EAGAIN: the queue is full for a moment
                raise OSError(ctypes.get_errno(), "sendmmsg")
            sent += max(done, 0)
        took = time.monotonic() - began
    return FloodSent(ipv4=sent - sent // 2, ipv6=sent // 2, seconds=round(took, 3))


def main() -> None:
    """Arguments are the lab's: no operator types them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--own-mac", required=True)
    parser.add_argument("--router-mac", required=True)
    parser.add_argument("--v4", type=IPv4Address, required=True)
    parser.add_argument("--v6", type=IPv6Address, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    link = Link(
        options.interface,
        bytes.fromhex(options.own_mac.replace(":", "")),
        bytes.fromhex(options.router_mac.replace(":", "")),
    )
    sent = flood(link, options.v4, options.v6, options.port, options.seconds)
    sys.stdout.write(sent.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
