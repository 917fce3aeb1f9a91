"""The arithmetic of forwarding tables, compiled from l4/native/table_build.c by `make setup`.

Numbers in buffers are 16 bits wide, in the machine's byte order, and aligned. Buffers must not be changed meanwhile:
the last two functions run without the interpreter's lock.
"""

from collections.abc import Sequence

from typing_extensions import Buffer

def siphash13(k0: int, k1: int, message: Buffer, /) -> int:
    """The 64-bit SipHash-1-3 of a message. OverflowError if half a key has more than 64 bits."""

def flow_hash(
    k0: int,
    k1: int,
    source: Buffer,
    destination: Buffer,
    source_port: int,
    destination_port: int,
    protocol: int,
    /,
) -> int:
    """The 64-bit hash of a flow between packed addresses of one family. Raises ValueError if they are not that."""

def owners_of_rows(ids: Buffer, weights: Buffer, k0: int, k1: int, rows: int, /) -> bytes:
    """Each row's owner by Maglev. Ids ascend. Raises ValueError if they do not, or `rows` is not prime."""

def merge_owners(columns: Sequence[Buffer], reachable: Buffer, owners_per_row: int, /) -> tuple[bytes, int]:
    """Chains of four ids a row, from columns of owners, newest first; and the number of rows whose owners do not fit.

    `reachable` lists the ids that may be in a chain. Raises ValueError if the columns differ in length.
    """
