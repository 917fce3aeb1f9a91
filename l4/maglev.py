"""Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4).

Every member has a permutation of the table's rows, drawn from its id and the fleet's key alone. Members take turns;
a turn is worth the first row of one's permutation that is still free. So members get nearly equal shares, and a change
of membership moves few rows that it need not move.

Weights give more turns, spread evenly over a period, so that they mean what they say: 1:1:10 is 8, 8 and 83 % of rows.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import gcd, isqrt

from l4.flow_hash import HashKey, siphash13
from orchestrator.contract.pool import GenerationMember

#: Owner of no row.
NOBODY = 0

#: Sets the hash that draws a member's permutation apart from hashes of flows.
_PERMUTATION = b"maglev"


@dataclass(frozen=True, slots=True)
class Permutation:
    """Rows `offset, offset + skip, offset + 2 skip, ...` modulo the table's size: all rows, as the size is prime."""

    offset: int
    skip: int

    @classmethod
    def of_member(cls, member_id: int, key: HashKey, rows: int) -> "Permutation":
        drawn = siphash13(key, _PERMUTATION + member_id.to_bytes(2, "big"))
        return cls(offset=(drawn & 0xFFFF_FFFF) % rows, skip=(drawn >> 32) % (rows - 1) + 1)


def owners_of_rows(members: Sequence[GenerationMember], key: HashKey, rows: int) -> "array[int]":
    """Each row's owner: `rows` member ids (u16), all `NOBODY` if there are no members.

    A pure function: the order of `members` does not matter. About `rows × ln rows` steps.
    Raises ValueError if `rows` is not prime, as permutations would not reach every row then.
    """
    if not is_prime(rows):
        raise ValueError(f"a forwarding table needs a prime number of rows, and {rows} is not: try {prime_from(rows)}")
    owners = [NOBODY] * rows
    if not members:
        return array("H", owners)
    ranked = sorted(members, key=lambda member: member.id)
    ids = [member.id for member in ranked]
    permutations = [Permutation.of_member(member_id, key, rows) for member_id in ids]
    candidates = [permutation.offset for permutation in permutations]
    skips = [permutation.skip for permutation in permutations]
    free = rows
    for turn in cycle(turns([member.weight for member in ranked])):
        row = candidates[turn]
        skip = skips[turn]
        while owners[row]:
            row += skip
            if row >= rows:
                row -= rows
        owners[row] = ids[turn]
        candidates[turn] = row
        free -= 1
        if not free:
            break
    return array("H", owners)


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


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))


def prime_from(number: int) -> int:
    """The smallest prime that is at least `number`."""
    while not is_prime(number):
        number += 1
    return number
