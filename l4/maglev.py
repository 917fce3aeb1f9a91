"""Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4).

Every member has a permutation of the table's rows, drawn from its id and the fleet's key alone. Members take turns;
a turn is worth the first row of one's permutation that is still free. So members get nearly equal shares, and a change
of membership moves few rows that it need not move.

Weights give more turns, spread evenly over a period, so that they mean what they say: 1:1:10 is 8, 8 and 83 % of rows.
The heaviest take part in every round; the others when their due share of rounds has come up to a whole turn.
"""

from array import array
from collections.abc import Sequence
from math import isqrt

from l4 import table_build
from l4.flow_hash import HashKey
from orchestrator.contract.pool import GenerationMember

#: Owner of no row.
NOBODY = 0


def owners_of_rows(members: Sequence[GenerationMember], key: HashKey, rows: int) -> "array[int]":
    """Each row's owner: `rows` member ids (u16), all `NOBODY` if there are no members.

    A pure function: the order of `members` does not matter. About `rows × ln rows` steps, outside the interpreter's
    lock. Raises ValueError if `rows` is not prime, as permutations would not reach every row then, or if two members
    have one id.
    """
    if not is_prime(rows):
        raise ValueError(f"a forwarding table needs a prime number of rows, and {rows} is not: try {prime_from(rows)}")
    ranked = sorted(members, key=lambda member: member.id)
    ids = array("H", [member.id for member in ranked])
    weights = array("H", [member.weight for member in ranked])
    return array("H", table_build.owners_of_rows(ids, weights, key.k0, key.k1, rows))


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))


def prime_from(number: int) -> int:
    """The smallest prime that is at least `number`."""
    while not is_prime(number):
        number += 1
    return number
