"""Writing header blocks (HPACK, RFC 7541): without a dynamic table, as nginx does.

Names come from the static table, values go as they are. That costs some bytes on the wire and saves the state, its
memory, and two thirds of the time. What repeats is remembered as bytes.
"""

from typing import Final

from hpack.table import HeaderTable

from l7.protocol.message import Trailers

#: Lines that are remembered. Values that change (dates, lengths, ids) push the others out, so it is emptied when full.
_REMEMBERED: Final = 1024

_NAMES: Final[dict[bytes, int]] = {}
for _index, (_name, _) in enumerate(HeaderTable.STATIC_TABLE, start=1):
    _NAMES.setdefault(_name, _index)

#: In front of a block: there is no dynamic table (section 6.3).
TABLE_SIZE_ZERO: Final = b"\x20"

_STATUS_INDEX: Final = {b"200": 8, b"204": 9, b"206": 10, b"304": 11, b"400": 12, b"404": 13, b"500": 14}


def _integer(value: int, prefix_bits: int, first: int) -> bytes:
    """RFC 7541 section 5.1."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes((first | value,))
    value -= most
    octets = [first | most]
    while value >= 128:
        octets.append(value & 127 | 128)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _string(value: bytes) -> bytes:
    """Section 5.2, not Huffman coded: that would take longer than sending the bytes that it saves."""
    return _integer(len(value), 7, 0) + value


def line(header: tuple[bytes, bytes]) -> bytes:
    """A literal field without indexing (section 6.2.2), which is not remembered."""
    name, value = header
    index = _NAMES.get(name)
    start = _integer(index, 4, 0) if index is not None else b"\0" + _string(name)
    return start + _string(value)


_lines: Final[dict[tuple[bytes, bytes], bytes]] = {}


def write_line(header: tuple[bytes, bytes]) -> bytes:
    """One field, remembered for the next time."""
    written = _lines.get(header)
    if written is None:
        written = line(header)
        if len(written) <= 256:
            if len(_lines) >= _REMEMBERED:
                _lines.clear()
            _lines[header] = written
    return written


def _status_line(status: int) -> bytes:
    digits = b"%d" % status
    index = _STATUS_INDEX.get(digits)
    return bytes((0x80 | index,)) if index is not None else line((b":status", digits))


#: A response's first field.
STATUS_LINES: Final = {status: _status_line(status) for status in range(100, 1000)}


def write(headers: Trailers) -> bytes:
    """A whole block."""
    return b"".join(map(write_line, headers))
