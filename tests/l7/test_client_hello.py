"""The ClientHello is read before anybody answers it: whatever the cuts, one verdict, and never two names."""

import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l7.limits import MAX_HELLO_BYTES, MAX_HELLO_RECORDS
from l7.protocol.client_hello import (
    ClientHello,
    Incomplete,
    NotAClientHello,
    read_client_hello,
)

GREASE = 0x2A2A


def hello_of(context: ssl.SSLContext, name: str | None) -> bytes:
    """What OpenSSL sends."""
    out = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return out.read()


def vector(size: int, content: bytes) -> bytes:
    return len(content).to_bytes(size, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, content)


def named(name: bytes) -> bytes:
    return extension(0, vector(2, b"\0" + vector(2, name)))


def message(extensions: bytes | None, *, ciphers: bytes = b"\x13\x01", after: bytes = b"") -> bytes:
    body = b"\x03\x03" + bytes(32) + vector(1, b"") + vector(2, ciphers) + vector(1, b"\0")
    if extensions is not None:
        body += vector(2, extensions)
    return b"\x01" + vector(3, body + after)


def records(content: bytes, size: int = 1 << 14) -> bytes:
    parts = (content[at : at + size] for at in range(0, len(content), size))
    return b"".join(b"\x16\x03\x01" + vector(2, part) for part in parts)


def verdict(data: bytes) -> ClientHello | str | None:
    """The hello, or the reason of the refusal, or None while it is not whole."""
    try:
        return read_client_hello(data)
    except NotAClientHello as refused:
        return refused.reason
    except Incomplete as incomplete:
        assert incomplete.needed > len(data), "a caller that waits for no more would wait for ever"
        return None


def server_name(extensions: bytes) -> str | None:
    return read_client_hello(records(message(extensions))).server_name


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_openssl_sends_is_understood(newest: ssl.TLSVersion) -> None:
    context = ssl.create_default_context()
    context.maximum_version = newest
    context.set_alpn_protocols(["h2", "http/1.1"])
    hello = read_client_hello(hello_of(context, "WWW.Example.com"))
    assert (hello.server_name, hello.protocols) == ("www.example.com", (b"h2", b"http/1.1"))
    assert newest.value in hello.versions
    assert not hello.encrypted
    context.check_hostname = False
    assert read_client_hello(hello_of(context, None)).server_name is None


@given(st.integers(1, 700), st.integers(40, 1 << 14))
def test_any_cut_and_any_records_give_the_same_verdict(cut: int, record: int) -> None:
    content = message(extension(GREASE, b"x" * 300) + named(b"a.example") + extension(GREASE + 0x1010, b""))
    whole = records(content, record)
    assert verdict(whole[: min(cut, len(whole) - 1)]) is None
    found = verdict(whole)
    assert isinstance(found, ClientHello)
    assert found.server_name == "a.example"
    assert verdict(whole + b"\x17\x03\x03\0\1x") == found  # early data


@given(st.binary(max_size=200), st.booleans(), st.data())
def test_a_refusal_of_a_part_stands_for_the_whole(noise: bytes, in_record: bool, data: st.DataObject) -> None:
    whole = records(message(noise)) if in_record else noise
    final = verdict(whole)
    part = verdict(whole[: data.draw(st.integers(0, len(whole)))])
    assert part in (None, final)


@given(st.data())
def test_a_byte_changed_anywhere_never_raises_anything_else(data: st.DataObject) -> None:
    whole = bytearray(records(message(named(b"a.example") + extension(16, vector(2, vector(1, b"h2"))))))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    verdict(bytes(whole))


def test_names_are_lower_case_and_unknown_extensions_are_passed_over() -> None:
    assert (
        server_name(extension(GREASE, b"") + named(b"WWW.Example.COM") + extension(0xFFFF, b"abc")) == "www.example.com"
    )
    assert read_client_hello(records(message(None))).server_name is None


def test_versions_come_from_the_extension_that_has_them() -> None:
    with_grease = extension(43, vector(1, struct.pack("!3H", GREASE, 0x0304, 0x0303)))
    assert read_client_hello(records(message(with_grease))).versions == (GREASE, 0x0304, 0x0303)
    assert read_client_hello(records(message(b""))).versions == (0x0303,)


def test_an_encrypted_hello_is_known_by_its_outer_name() -> None:
    hello = read_client_hello(records(message(named(b"public.example") + extension(0xFE0D, b"\0" * 40))))
    assert (hello.server_name, hello.encrypted) == ("public.example", True)


MALFORMED = {
    "two server names": (named(b"a.example") + named(b"b.example"), "malformed"),
    "two entries in one list": (extension(0, vector(2, (b"\0" + vector(2, b"a.example")) * 2)), "server_name"),
    "empty name": (named(b""), "server_name"),
    "name with a NUL": (named(b"a.example\0b"), "server_name"),
    "name with a final dot": (named(b"a.example."), "server_name"),
    "name that is not ASCII": (named("ä.example".encode()), "server_name"),
    "name of another type": (extension(0, vector(2, b"\1" + vector(2, b"a"))), "server_name"),
    "name too long": (named(b"a" * 256), "server_name"),
    "empty list of names": (extension(0, vector(2, b"")), "malformed"),
    "extension that is longer than its content": (b"\0\0\0\x09\0", "malformed"),
    "empty protocol": (extension(16, vector(2, b"\0")), "malformed"),
    "protocol beyond its list": (extension(16, vector(2, b"\x09h2")), "malformed"),
    "half a version": (extension(43, vector(1, b"\3")), "malformed"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_two_readers_could_read_in_two_ways_is_refused(name: str) -> None:
    extensions, reason = MALFORMED[name]
    assert verdict(records(message(extensions))) == reason


def test_what_is_not_tls_is_known_by_its_first_bytes() -> None:
    assert verdict(b"G") == "not_tls"
    assert verdict(b"\x16\x02") == "not_tls"
    assert verdict(b"\x16\x03\x01\xff\xff") == "not_tls"  # records have 2^14 bytes at most
    assert verdict(b"\x80\x2e\x01\x03\x01") == "not_tls"  # SSL 2.0


def test_other_messages_are_no_client_hello() -> None:
    assert verdict(records(b"\x02" + vector(3, b"x" * 40))) == "malformed"
    assert verdict(records(message(b"") + b"\x0b\0\0\0")) == "malformed"  # a second message behind it
    assert verdict(records(message(b"", after=b"x"))) == "malformed"
    assert verdict(records(message(b"", ciphers=b""))) == "malformed"


def test_size_and_records_are_bounded() -> None:
    large = message(extension(GREASE, bytes(MAX_HELLO_BYTES)))
    assert verdict(records(large, 1 << 13)) == "oversized"
    assert verdict(records(message(extension(GREASE, bytes(MAX_HELLO_BYTES - 100))), 1 << 13)) is not None
    fits = records(message(extension(GREASE, bytes(MAX_HELLO_BYTES - 200))))
    assert isinstance(verdict(fits), ClientHello)
    content = message(named(b"a.example"))
    assert verdict(records(content, 1)) == "oversized"
    assert isinstance(verdict(records(content, -(-len(content) // MAX_HELLO_RECORDS))), ClientHello)
