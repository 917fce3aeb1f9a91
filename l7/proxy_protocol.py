"""The PROXY protocol, versions 1 and 2: who the client is, in front of everything else that a connection carries.

Source: HAProxy's proxy-protocol.txt, whose sections are named below. Sans-I/O: bytes in, meaning out, and back.

```
v1:  PROXY TCP4 203.0.113.9 203.0.113.10 4711 443\\r\\n          at most 107 octets (section 2.1)

v2:  0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A │ 2 cmd │ family │ length │ addresses and ports │ TLVs     (section 2.2)
                signature                                          type, length (2), value
```
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from l7 import limits
from orchestrator.contract.route import ProxyProtocol

#: Address and port.
End = tuple[str, int]

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = len(SIGNATURE) + 4

#: Longest line of version 1, its end included (section 2.1).
MAX_V1_BYTES: Final = 107
_MIN_V1_BYTES: Final = len(b"PROXY UNKNOWN\r\n")

_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_V1: Final = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) " + _PORT + rb" " + _PORT)
_V1_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: [\x20-\x7e]*)?")

_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_UNSPECIFIED: Final = 0x00
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_ADDRESS_BYTES: Final = {_TCP4: 4, _TCP6: 16}

#: Types of TLVs (section 2.2.1 and those below it).
ALPN: Final = 0x01
AUTHORITY: Final = 0x02
_CRC32C: Final = 0x03
UNIQUE_ID: Final = 0x05

#: Section 2.2.5.
MAX_UNIQUE_ID_BYTES: Final = 128


class Incomplete(Exception):
    """More must come. `needed`: so many bytes at least, from the first one."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class NotAProxyHeader(Exception):
    """The connection cannot be understood, and must be closed. `reason`: a name for metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Ends:
    """A client's connection, as servers are told of it."""

    source: End
    destination: End
    server_name: str | None = None
    """As its ClientHello has it."""
    alpn: str | None = None
    """As ALPN has settled it."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a header says."""

    size: int
    """Of the header, in bytes."""
    source: End | None
    """The client's. None: the connection's own ends are the truth: a health check (LOCAL), or nothing is known."""
    destination: End | None


def read_header(data: bytes) -> Told:
    """The header that `data`, a connection's first bytes, begins with.

    Raises:
        Incomplete: it does so far, and is not whole.
        NotAProxyHeader: it does not, or the header breaks a rule.
    """
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return _read_v2(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return _read_v1(data)
    raise NotAProxyHeader("missing")


def _read_v1(data: bytes) -> Told:
    end = data.find(b"\n", 0, MAX_V1_BYTES)
    if end < 0:
        if len(data) >= MAX_V1_BYTES:
            raise NotAProxyHeader("v1_too_long")
        raise Incomplete(max(_MIN_V1_BYTES, len(data) + 1))
    line = data[: end - 1]
    if data[end - 1 : end] != b"\r":
        raise NotAProxyHeader("v1_line")
    match = _V1.fullmatch(line)
    if match is None:
        if _V1_UNKNOWN.fullmatch(line):
            return Told(end + 1, None, None)
        raise NotAProxyHeader("v1_line")
    version, source, destination, source_port, destination_port = match.groups()
    try:
        addresses = [ip_address(text.decode("ascii")) for text in (source, destination)]
    except ValueError:
        raise NotAProxyHeader("v1_address") from None
    ports = [int(source_port), int(destination_port)]
    if {address.version for address in addresses} != {int(version)} or max(ports) > 65535:
        raise NotAProxyHeader("v1_address")
    return Told(end + 1, (str(addresses[0]), ports[0]), (str(addresses[1]), ports[1]))


def _read_v2(data: bytes) -> Told:
    if len(data) < _FIXED:
        raise Incomplete(_FIXED)
    command, family = data[12], data[13]
    size = _FIXED + int.from_bytes(data[14:16])
    if command not in (_LOCAL, _PROXY):
        raise NotAProxyHeader("v2_version" if command >> 4 != 2 else "v2_command")
    if size > limits.MAX_PROXY_HEADER_BYTES:
        raise NotAProxyHeader("v2_too_long")
    if len(data) < size:
        raise Incomplete(size)
    width = _ADDRESS_BYTES.get(family)
    if command == _LOCAL or family == _UNSPECIFIED:
        # Section 2.2: whatever else it says is not looked at.
        return Told(size, None, None)
    if width is None:
        raise NotAProxyHeader("v2_family")
    ports_at = _FIXED + 2 * width
    tlvs_at = ports_at + 4
    if tlvs_at > size:
        raise NotAProxyHeader("v2_too_short")
    _check_tlvs(data[:size], tlvs_at)
    ends = [
        (str(ip_address(data[at : at + width])), int.from_bytes(data[port : port + 2]))
        for at, port in ((_FIXED, ports_at), (_FIXED + width, ports_at + 2))
    ]
    return Told(size, ends[0], ends[1])


def _check_tlvs(header: bytes, at: int) -> None:
    """That they fill the rest of the header, and that its checksum is right, if it has one (section 2.2.3)."""
    while at < len(header):
        value = at + 3
        end = value + int.from_bytes(header[at + 1 : value])
        if end > len(header) or value > len(header):
            raise NotAProxyHeader("v2_tlv")
        if header[at] == _CRC32C:
            zeroed = header[:value] + bytes(end - value) + header[end:]
            if end - value != 4 or crc32c(zeroed) != int.from_bytes(header[value:end]):
                raise NotAProxyHeader("v2_checksum")
        at = end


def v1_header(source: End, destination: End) -> bytes:
    """The header for a connection between these ends."""
    here, there = _of_one_family(source, destination)
    return f"PROXY TCP{here.version} {here} {there} {source[1]} {destination[1]}\r\n".encode("ascii")


def v2_header(source: End, destination: End, tlvs: dict[int, bytes]) -> bytes:
    """The same in version 2. `tlvs`: value by type."""
    here, there = _of_one_family(source, destination)
    body = here.packed + there.packed + source[1].to_bytes(2) + destination[1].to_bytes(2)
    for kind, value in tlvs.items():
        body += bytes((kind,)) + len(value).to_bytes(2) + value
    family = _TCP6 if here.version == 6 else _TCP4
    return SIGNATURE + bytes((_PROXY, family)) + len(body).to_bytes(2) + body


def announcement(version: ProxyProtocol, ends: Ends, unique_id: str) -> bytes:
    """The header that tells a server about a client's connection. `unique_id`: of the request that it is opened for."""
    if version is ProxyProtocol.V1:
        return v1_header(ends.source, ends.destination)
    tlvs = {UNIQUE_ID: unique_id.encode("ascii")[:MAX_UNIQUE_ID_BYTES]}
    if ends.alpn:
        tlvs[ALPN] = ends.alpn.encode("ascii")
    if ends.server_name:
        tlvs[AUTHORITY] = ends.server_name.encode("utf-8")
    return v2_header(ends.source, ends.destination, tlvs)


def local_announcement(version: ProxyProtocol) -> bytes:
    """The header of a connection that is nobody's but the proxy's: a health check."""
    return V1_LOCAL if version is ProxyProtocol.V1 else V2_LOCAL


#: For connections that are nobody's but the proxy's: health checks (sections 2.1 and 2.2).
V1_LOCAL: Final = b"PROXY UNKNOWN\r\n"
V2_LOCAL: Final = SIGNATURE + bytes((_LOCAL, _UNSPECIFIED, 0, 0))


def _of_one_family(source: End, destination: End) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
    """A header has room for one family: where they differ, IPv4 is written as IPv6 (RFC 4291 section 2.5.5.2)."""
    here, there = ip_address(source[0]), ip_address(destination[0])
    if here.version == there.version:
        return here, there
    return _as_v6(here), _as_v6(there)


def _as_v6(address: IPv4Address | IPv6Address) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC32C_TABLE: Final = _crc32c_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720 appendix B.4), which the standard library does not have."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
