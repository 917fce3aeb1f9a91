"""HPACK: the library hpack is the oracle in both directions."""

import hpack
import pytest
from hpack.exceptions import HPACKError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from l7 import limits
from l7.protocol.http2 import fields
from l7.protocol.http2.field_reader import FieldReader
from l7.protocol.http2.frames import ConnectionBroken, ErrorCode
from l7.protocol.message import Headers

NAMES = st.one_of(
    st.sampled_from([b":method", b":path", b":authority", b"cookie", b"accept", b"user-agent", b"x-a", b"x-b"]),
    st.binary(min_size=1, max_size=12),
)
FIELDS = st.lists(
    st.tuples(NAMES, st.one_of(st.sampled_from([b"GET", b"/", b""]), st.binary(max_size=300))), max_size=12
)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(FIELDS, st.booleans(), st.one_of(st.none(), st.sampled_from([0, 64, 200, 1000, 4096]))), max_size=12
    )
)
def test_whatever_the_library_writes_is_read(blocks: list[tuple[Headers, bool, int | None]]) -> None:
    encoder, reader = hpack.Encoder(), FieldReader()
    for sent, huffman, table in blocks:
        if table is not None:
            encoder.header_table_size = table
        assert reader.read(bytes(encoder.encode(sent, huffman=huffman))) == sent


@settings(deadline=None)
@given(st.lists(FIELDS, max_size=5))
def test_the_library_reads_whatever_is_written(blocks: list[Headers]) -> None:
    decoder = hpack.Decoder()
    for sent in blocks:
        got = decoder.decode(fields.STATUS_LINES[200] + fields.write(sent), raw=True)
        assert [tuple(field) for field in got] == [(b":status", b"200"), *sent]


@pytest.mark.parametrize("status", [100, 103, 200, 204, 301, 404, 500, 503, 999])
def test_a_status_is_the_first_field(status: int) -> None:
    assert [tuple(each) for each in hpack.Decoder().decode(fields.STATUS_LINES[status], raw=True)] == [
        (b":status", b"%d" % status)
    ]


@settings(deadline=None, max_examples=2000)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_both_judge_garbage_alike(blocks: list[bytes]) -> None:
    decoder, reader = hpack.Decoder(), FieldReader()
    for block in blocks:
        # Integers of more octets than ours takes say nothing that a shorter one would not.
        assume(
            not any(set(block[at : at + 4]) and all(octet >= 0x80 for octet in block[at : at + 4]) for at in range(37))
        )
        expected: Headers | None
        try:
            expected = [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
        except HPACKError:
            expected = None
        if expected is None:
            with pytest.raises(ConnectionBroken) as caught:
                reader.read(block)
            assert caught.value.code is ErrorCode.COMPRESSION_ERROR
            return
        assert reader.read(block) == expected


@pytest.mark.parametrize(
    ("section", "block"),
    [
        ("2.3.3", b"\xbe"),
        ("2.3.3", b"\xff\xff\x00"),
        ("4.2", b"\x82\x20"),
        ("5.1", b"\xff\x80\x80\x80\x80\x80\x80\x80\x00"),
        ("5.1", b"\xff"),
        ("5.2", b"\x40\x01"),
        ("5.2", b"\x40\x01a\x05b"),
        ("5.2", b"\x40\x81\xff\x00"),
        ("5.2", b"\x40"),
        ("6.1", b"\x80"),
        ("6.3", b"\x3f\xe2\x1f"),
    ],
)
def test_what_cannot_be_decoded_ends_the_connection(section: str, block: bytes) -> None:
    with pytest.raises(ConnectionBroken) as caught:
        FieldReader().read(block)
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR, section


def test_a_bomb_is_not_unfolded() -> None:
    reader = FieldReader()
    reader.read(bytes(hpack.Encoder().encode([(b"x", b"y" * 4000)], huffman=False)))
    most = limits.H2_MAX_HEADER_LIST_BYTES // 4033
    assert len(reader.read(b"\xbe" * most)) == most
    with pytest.raises(ConnectionBroken) as caught:
        reader.read(b"\xbe" * (most + 1))
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_the_table_stays_within_its_bytes() -> None:
    reader = FieldReader()
    for number in range(1000):
        reader.read(b"\x40\x05x-%03d" % number + b"\x7f\x00" + b"v" * 127)
    assert "of 4096 bytes" in repr(reader)
    assert int(repr(reader).split(", ")[1].split()[0]) <= 4096
