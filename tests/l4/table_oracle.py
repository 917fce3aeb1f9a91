"""What `l4.table_build` computes, said a second time in plain Python: the oracle of its tests.

SipHash-1-3 after Aumasson and Bernstein (2012), owners of rows after Eisenbud et al. (NSDI 2016, section 3.4) with
weights as turns, owner chains as docs/architecture.md defines them.
"""

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import gcd

from l4.flow_hash import HashKey

_MASK = 0xFFFF_FFFF_FFFF_FFFF


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _MASK
    v1 = ((v1 << 13) & _MASK | v1 >> 51) ^ v0
    v0 = (v0 << 32) & _MASK | v0 >> 32
    v2 = (v2 + v3) & _MASK
    v3 = ((v3 << 16) & _MASK | v3 >> 48) ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = ((v3 << 21) & _MASK | v3 >> 43) ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = ((v1 << 17) & _MASK | v1 >> 47) ^ v2
    v2 = (v2 << 32) & _MASK | v2 >> 32
    return v0, v1, v2, v3


def siphash13(key: HashKey, message: bytes) -> int:
    """The 64-bit SipHash-1-3 of a message."""
    v0 = key.k0 ^ 0x736F6D6570736575
    v1 = key.k1 ^ 0x646F72616E646F6D
    v2 = key.k0 ^ 0x6C7967656E657261
    v3 = key.k1 ^ 0x7465646279746573
    whole_words = len(message) // 8
    rest = int.from_bytes(message[8 * whole_words :], "little")
    for word in (*struct.unpack_from(f"<{whole_words}Q", message), (len(message) & 0xFF) << 56 | rest):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def hash_of_flow(
    key: HashKey, source: bytes, destination: bytes, source_port: int, destination_port: int, protocol: int
) -> int:
    """The flow hash: of the words that the packet bears, in the order in which it bears them."""
    message = source + destination + struct.pack("!HHB3x", source_port, destination_port, protocol)
    return siphash13(key, message)


@dataclass(frozen=True, slots=True)
class Permutation:
    """Rows `offset, offset + skip, offset + 2 skip, ...` modulo the table's size: all rows, as the size is prime."""

    offset: int
    skip: int

    @classmethod
    def of_member(cls, member_id: int, key: HashKey, rows: int) -> "Permutation":
        drawn = siphash13(key, b"maglev" + member_id.to_bytes(2, "big"))
        return cls(offset=(drawn & 0xFFFF_FFFF) % rows, skip=(drawn >> 32) % (rows - 1) + 1)


def owners_of_rows(weight_of: Mapping[int, int], key: HashKey, rows: int) -> list[int]:
    """Each row's owner; 0 where nobody takes part."""
    owners = [0] * rows
    ids = sorted(member for member, weight in weight_of.items() if weight)
    if not ids:
        return owners
    permutations = [Permutation.of_member(member, key, rows) for member in ids]
    candidates = [permutation.offset for permutation in permutations]
    free = rows
    for turn in cycle(turns([weight_of[member] for member in ids])):
        row = candidates[turn]
        while owners[row]:
            row = (row + permutations[turn].skip) % rows
        owners[row] = ids[turn]
        candidates[turn] = row
        free -= 1
        if not free:
            break
    return owners


def turns(weights: Sequence[int]) -> list[int]:
    """One period of turns, as indices of `weights`: each index as often as its weight says, evenly spread.

    The heaviest take part in every round; the others when their due share of rounds has come up to a whole turn.
    """
    divisor = gcd(*weights)
    shares = [weight // divisor for weight in weights]
    heaviest = max(shares)

    def spread() -> Iterator[int]:
        for done in range(heaviest):
            for index, share in enumerate(shares):
                if (done + 1) * share // heaviest > done * share // heaviest:
                    yield index

    return list(spread())


def chain(owners: Sequence[int], reachable: Collection[int], places: int) -> tuple[tuple[int, ...], bool]:
    """A row's chain, from its owners in the live generations, newest first; and whether it overflowed."""
    entitled = list(dict.fromkeys(owner for owner in owners if owner in reachable))
    return tuple(entitled[:places]), len(entitled) > places
