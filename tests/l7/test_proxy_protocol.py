"""The PROXY protocol's headers, byte for byte: HAProxy's proxy-protocol.txt, by section."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l7 import limits
from l7.proxy_protocol import (
    ALPN,
    AUTHORITY,
    SIGNATURE,
    UNIQUE_ID,
    V1_LOCAL,
    V2_LOCAL,
    End,
    Incomplete,
    NotAProxyHeader,
    Told,
    crc32c,
    read_header,
    v1_header,
    v2_header,
)

CLIENT4, VIP4 = ("203.0.113.9", 4711), ("203.0.113.10", 443)
CLIENT6, VIP6 = ("2001:db8::9", 4711), ("2001:db8::10", 443)
V4_BODY = bytes((203, 0, 113, 9, 203, 0, 113, 10)) + (4711).to_bytes(2) + (443).to_bytes(2)


def v2(body: bytes, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    return SIGNATURE + bytes((command, family)) + (len(body) if length is None else length).to_bytes(2) + body


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2) + value


def checksummed(body: bytes) -> bytes:
    """Section 2.2.3: over the whole header, with zeros in the checksum's place."""
    whole = v2(body + tlv(3, bytes(4)))
    return whole[:-4] + crc32c(whole).to_bytes(4)


READ = {
    "2.1: TCP4": (b"PROXY TCP4 203.0.113.9 203.0.113.10 4711 443\r\n", CLIENT4, VIP4),
    "2.1: TCP6": (b"PROXY TCP6 2001:db8::9 2001:DB8::10 4711 443\r\n", CLIENT6, VIP6),
    "2.1: port 0": (b"PROXY TCP4 203.0.113.9 203.0.113.10 0 443\r\n", ("203.0.113.9", 0), VIP4),
    "2.1: UNKNOWN": (b"PROXY UNKNOWN\r\n", None, None),
    "2.1: UNKNOWN with more": (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None, None),
    "2.2: TCP over IPv4": (v2(V4_BODY), CLIENT4, VIP4),
    "2.2: LOCAL": (v2(b"", 0x20, 0x00), None, None),
    "2.2: LOCAL with addresses": (v2(V4_BODY, 0x20, 0x11), None, None),
    "2.2: LOCAL of another family": (v2(b"x" * 9, 0x20, 0x31), None, None),
    "2.2: UNSPEC": (v2(b"whatever", 0x21, 0x00), None, None),
    "2.2.1: TLVs that nobody knows": (v2(V4_BODY + tlv(0xEA, b"aws") + tlv(4, b"\0" * 9)), CLIENT4, VIP4),
    "2.2.1: an empty TLV": (v2(V4_BODY + tlv(2, b"")), CLIENT4, VIP4),
    "2.2.3: a checksum": (checksummed(V4_BODY), CLIENT4, VIP4),
    "2.2: as long as it may be": (
        v2(V4_BODY + tlv(4, b"\0" * (limits.MAX_PROXY_HEADER_BYTES - 16 - len(V4_BODY) - 3))),
        CLIENT4,
        VIP4,
    ),
}

REFUSED = {
    "2: no header": (b"GET / HTTP/1.1\r\n", "missing"),
    "2: a ClientHello": (b"\x16\x03\x01\x02\x00", "missing"),
    "2: lower case": (b"proxy TCP4 203.0.113.9 203.0.113.10 4711 443\r\n", "missing"),
    "2: an empty line": (b"\r\nPROXY UNKNOWN\r\n", "missing"),
    "2.1: LF alone": (b"PROXY TCP4 203.0.113.9 203.0.113.10 4711 443\n", "v1_line"),
    "2.1: two spaces": (b"PROXY  TCP4 203.0.113.9 203.0.113.10 4711 443\r\n", "v1_line"),
    "2.1: a space behind": (b"PROXY TCP4 203.0.113.9 203.0.113.10 4711 443 \r\n", "v1_line"),
    "2.1: UDP": (b"PROXY UDP4 203.0.113.9 203.0.113.10 4711 443\r\n", "v1_line"),
    "2.1: a port missing": (b"PROXY TCP4 203.0.113.9 203.0.113.10 4711\r\n", "v1_line"),
    "2.1: a port with a zero before": (b"PROXY TCP4 203.0.113.9 203.0.113.10 04711 443\r\n", "v1_line"),
    "2.1: a port with a sign": (b"PROXY TCP4 203.0.113.9 203.0.113.10 +4711 443\r\n", "v1_line"),
    "2.1: a port too large": (b"PROXY TCP4 203.0.113.9 203.0.113.10 65536 443\r\n", "v1_address"),
    "2.1: an address that is none": (b"PROXY TCP4 203.0.113.999 203.0.113.10 4711 443\r\n", "v1_address"),
    "2.1: an address with zeros before": (b"PROXY TCP4 203.0.113.009 203.0.113.10 4711 443\r\n", "v1_address"),
    "2.1: the other family": (b"PROXY TCP6 203.0.113.9 203.0.113.10 4711 443\r\n", "v1_address"),
    "2.1: two families": (b"PROXY TCP4 203.0.113.9 2001:db8::10 4711 443\r\n", "v1_address"),
    "2.1: CR inside": (b"PROXY UNKNOWN x\ry\r\n", "v1_line"),
    "2.1: NUL inside": (b"PROXY UNKNOWN \0\r\n", "v1_line"),
    "2.1: 108 octets": (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "v1_too_long"),
    "2.1: endless": (b"PROXY UNKNOWN " + b"x" * 500, "v1_too_long"),
    "2.2: version 1": (v2(V4_BODY, 0x11), "v2_version"),
    "2.2: version 3": (v2(V4_BODY, 0x31), "v2_version"),
    "2.2: another command": (v2(V4_BODY, 0x22), "v2_command"),
    "2.2: UDP": (v2(V4_BODY, 0x21, 0x12), "v2_family"),
    "2.2: a UNIX socket": (v2(b"\0" * 216, 0x21, 0x31), "v2_family"),
    "2.2: addresses cut short": (v2(V4_BODY[:-1]), "v2_too_short"),
    "2.2: IPv6 with IPv4's length": (v2(V4_BODY, 0x21, 0x21), "v2_too_short"),
    "2.2: too long": (v2(b"", length=limits.MAX_PROXY_HEADER_BYTES), "v2_too_long"),
    "2.2: LOCAL, too long": (v2(b"", 0x20, 0, length=65535), "v2_too_long"),
    "2.2.1: half a TLV": (v2(V4_BODY + b"\x02\x00"), "v2_tlv"),
    "2.2.1: a TLV longer than the header": (v2(V4_BODY + b"\x02\x00\x05abcd"), "v2_tlv"),
    "2.2.3: a wrong checksum": (checksummed(V4_BODY)[:-1] + b"\0", "v2_checksum"),
    "2.2.3: a checksum of three octets": (v2(V4_BODY + tlv(3, b"\0\0\0")), "v2_checksum"),
}


def read_in_pieces(data: bytes) -> Told:
    """As much as is asked for, each time."""
    size = 1
    while True:
        try:
            return read_header(data[:size])
        except Incomplete as incomplete:
            assert incomplete.needed > size
            size = incomplete.needed


@pytest.mark.parametrize(("header", "source", "destination"), READ.values(), ids=READ)
def test_a_header_is_read(header: bytes, source: End | None, destination: End | None) -> None:
    expected = Told(len(header), source, destination)
    assert read_header(header + b"GET / HTTP/1.1\r\n") == expected
    assert read_in_pieces(header) == expected
    for size in range(1, len(header)):
        with pytest.raises(Incomplete) as incomplete:
            read_header(header[:size])
        assert size < incomplete.value.needed <= len(header), "never more than there is"


@pytest.mark.parametrize(("header", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_breaks_a_rule_is_refused_by_name(header: bytes, reason: str) -> None:
    with pytest.raises(NotAProxyHeader) as refused:
        read_header(header)
    assert refused.value.reason == reason
    with pytest.raises(NotAProxyHeader) as refused:
        read_in_pieces(header)
    assert refused.value.reason == reason


PORTS = st.integers(0, 65535)
ENDS = st.tuples(st.ip_addresses().map(str), PORTS)


@given(ENDS, ENDS, st.binary(max_size=50))
def test_what_is_written_is_read_again(source: End, destination: End, name: bytes) -> None:
    one_family = (":" in source[0]) == (":" in destination[0])
    tlvs = {AUTHORITY: name, ALPN: b"h2", UNIQUE_ID: b"id"}
    for header in (v1_header(source, destination), v2_header(source, destination, tlvs)):
        told = read_header(header)
        assert told.size == len(header)
        if one_family:
            assert (told.source, told.destination) == (source, destination)


@given(st.binary(max_size=80), st.sampled_from([b"", SIGNATURE, b"PROXY TCP4 ", SIGNATURE + b"\x21\x11\x00\x0c"]))
def test_noise_is_refused_or_waited_for(noise: bytes, begin: bytes) -> None:
    data = begin + noise or b"\0"
    try:
        told = read_header(data)
    except Incomplete as incomplete:
        assert len(data) < incomplete.needed <= limits.MAX_PROXY_HEADER_BYTES
    except NotAProxyHeader as refused:
        assert refused.reason
    else:
        assert told.size <= len(data)


def test_version_2_byte_for_byte() -> None:
    header = v2_header(CLIENT4, VIP4, {AUTHORITY: b"www.example.com", ALPN: b"http/1.1"})
    assert header == v2(V4_BODY + tlv(2, b"www.example.com") + tlv(1, b"http/1.1"))
    header6 = v2_header(CLIENT6, VIP6, {})
    assert header6[12:16] == b"\x21\x21\x00\x24"


def test_ends_of_two_families_are_both_written_as_ipv6() -> None:
    assert v1_header(CLIENT4, VIP6) == b"PROXY TCP6 ::ffff:cb00:7109 2001:db8::10 4711 443\r\n"
    told = read_header(v2_header(CLIENT6, VIP4, {}))
    assert told.destination == ("::ffff:cb00:710a", 443)


def test_health_checks_speak_for_nobody() -> None:
    for header in (V1_LOCAL, V2_LOCAL):
        assert read_header(header) == Told(len(header), None, None)


def test_the_checksum_of_the_rfc() -> None:
    """RFC 3720 appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E
