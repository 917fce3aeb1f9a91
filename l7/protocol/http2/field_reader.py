"""Reading header blocks (HPACK, RFC 7541).

A block is a row of fields: an index into the table, or a literal whose name may be an index. The static table's 61
fields come first, then those that the peer has put into the dynamic table, the newest first.

Written here because a request has five to fifteen fields, nearly all of them indices, and each is one look into a
tuple; the library hpack takes five times as long. It gives the Huffman code, and is the oracle of the tests.
"""

from collections import deque
from typing import Final

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from l7 import limits
from l7.protocol.http2.frames import DEFAULT_TABLE_BYTES, ConnectionBroken, ErrorCode
from l7.protocol.message import Headers

#: Appendix A; nothing has index 0.
_STATIC: Final = ((b"", b""), *HeaderTable.STATIC_TABLE)
_STATIC_FIELDS: Final = len(_STATIC)
#: Nobody speaks of SETTINGS_HEADER_TABLE_SIZE here.
_MOST_TABLE_BYTES: Final = DEFAULT_TABLE_BYTES
#: What a field counts for beyond its bytes (section 4.1).
_FIELD_OVERHEAD: Final = 32
#: Continuation octets of an integer: 28 bits, far more than a block can hold.
_MOST_OCTETS: Final = 4

#: Bits of the first octet of each representation (section 6).
_INDEXED: Final = 0x80
_INCREMENTAL: Final = 0x40
_SIZE_UPDATE: Final = 0x20
_HUFFMAN: Final = 0x80


def _broken() -> ConnectionBroken:
    return ConnectionBroken(ErrorCode.COMPRESSION_ERROR, "header_block")


class FieldReader:
    """Decodes the header blocks of one connection, in order."""

    __slots__ = ("_capacity", "_dynamic", "_size")

    def __init__(self) -> None:
        self._dynamic: deque[tuple[bytes, bytes]] = deque()
        self._size = 0
        self._capacity = _MOST_TABLE_BYTES

    def __repr__(self) -> str:
        return f"<FieldReader: {len(self._dynamic)} fields, {self._size} of {self._capacity} bytes>"

    def read(self, block: bytes) -> Headers:
        """Give the fields of one block.

        Raises:
            ConnectionBroken: it cannot be decoded, and so no later one could be either, or it unfolds to more than
                anybody has use for.
        """
        try:
            return self._read(block)
        except (IndexError, HPACKError):
            # The block ended in the middle of something, or named a field that is not there.
            raise _broken() from None

    def _read(self, block: bytes) -> Headers:
        found: Headers = []
        dynamic = self._dynamic
        total = 0
        at = 0
        end = len(block)
        while at < end:
            first = block[at]
            at += 1
            if first & _INDEXED:
                index = first & 0x7F
                if index == 0x7F:
                    index, at = self._integer(block, at, 0x7F)
                if not index:
                    raise _broken()
                field = _STATIC[index] if index < _STATIC_FIELDS else dynamic[index - _STATIC_FIELDS]
            elif first & _INCREMENTAL:
                field, at = self._literal(block, at, first & 0x3F, 0x3F)
                self._insert(field)
            elif first & _SIZE_UPDATE:
                at = self._resize(block, at, first & 0x1F, is_first=not found)
                continue
            else:
                field, at = self._literal(block, at, first & 0x0F, 0x0F)
            total += len(field[0]) + len(field[1]) + _FIELD_OVERHEAD
            if total > limits.H2_MAX_HEADER_LIST_BYTES:
                raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "header_list_too_large")
            found.append(field)
        return found

    def _literal(self, block: bytes, at: int, index: int, most: int) -> tuple[tuple[bytes, bytes], int]:
        """Sections 6.2.1 to 6.2.3."""
        if index == most:
            index, at = self._integer(block, at, most)
        if not index:
            name, at = self._string(block, at)
        elif index < _STATIC_FIELDS:
            name = _STATIC[index][0]
        else:
            name = self._dynamic[index - _STATIC_FIELDS][0]
        value, at = self._string(block, at)
        return (name, value), at

    def _string(self, block: bytes, at: int) -> tuple[bytes, int]:
        """Section 5.2."""
        first = block[at]
        at += 1
        length = first & 0x7F
        if length == 0x7F:
            length, at = self._integer(block, at, 0x7F)
        stop = at + length
        if stop > len(block):
            raise _broken()
        text = block[at:stop]
        return (bytes(decode_huffman(text)) if first & _HUFFMAN else text), stop

    def _integer(self, block: bytes, at: int, prefix: int) -> tuple[int, int]:
        """The rest of an integer whose prefix was all ones (section 5.1)."""
        value = prefix
        for octet in range(_MOST_OCTETS):
            more = block[at]
            at += 1
            value += (more & 0x7F) << (7 * octet)
            if more < 0x80:
                return value, at
        raise _broken()

    def _resize(self, block: bytes, at: int, size: int, *, is_first: bool) -> int:
        """Section 6.3; section 4.2 has it before all fields."""
        if size == 0x1F:
            size, at = self._integer(block, at, 0x1F)
        if size > _MOST_TABLE_BYTES or not is_first:
            raise _broken()
        self._capacity = size
        self._evict(size)
        return at

    def _insert(self, field: tuple[bytes, bytes]) -> None:
        """Section 4.4: what is too large for the table empties it."""
        size = len(field[0]) + len(field[1]) + _FIELD_OVERHEAD
        self._evict(self._capacity - size)
        if size <= self._capacity:
            self._dynamic.appendleft(field)
            self._size += size

    def _evict(self, room: int) -> None:
        dynamic = self._dynamic
        while dynamic and self._size > room:
            name, value = dynamic.pop()
            self._size -= len(name) + len(value) + _FIELD_OVERHEAD
