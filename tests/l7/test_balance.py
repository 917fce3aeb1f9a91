"""Least requests by the power of two choices."""

import random
from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from l7.upstream.balance import LeastRequest


@dataclass(eq=False)
class Server:
    name: int
    healthy: bool = True
    active: int = 0


def balanced(servers: list[Server], seed: int = 1) -> LeastRequest[Server]:
    return LeastRequest(servers, random.Random(seed).randrange)


def test_the_less_busy_of_two_is_chosen() -> None:
    servers = [Server(1, active=3), Server(2, active=2)]
    balance = balanced(servers)
    assert {choice.name for _ in range(50) if (choice := balance.choose())} == {2}


def test_equals_share_evenly() -> None:
    balance = balanced([Server(n) for n in range(5)])
    shares = Counter(choice.name for _ in range(5000) if (choice := balance.choose()))
    assert len(shares) == 5
    assert max(shares.values()) < 1.2 * min(shares.values())


@given(st.integers(2, 20), st.integers(0, 2**32))
def test_the_busiest_is_never_chosen(count: int, seed: int) -> None:
    servers = [Server(n, active=n) for n in range(count)]
    balance = balanced(servers, seed)
    assert all(balance.choose() is not servers[-1] for _ in range(50))


def test_the_unhealthy_are_left_out_after_refresh() -> None:
    servers = [Server(1), Server(2), Server(3)]
    balance = balanced(servers)
    servers[0].healthy = servers[1].healthy = False
    balance.refresh()
    assert balance.choose() is servers[2]
    assert repr(balance) == "LeastRequest(1 of 3 healthy, 0 panics)"


def test_all_unhealthy_is_a_panic_that_serves_and_is_counted() -> None:
    servers = [Server(1, healthy=False), Server(2, healthy=False)]
    balance = balanced(servers)
    assert {choice.name for _ in range(50) if (choice := balance.choose())} == {1, 2}
    assert balance.panics == 50
    servers[0].healthy = True
    balance.refresh()
    assert balance.choose() is servers[0]
    assert balance.panics == 50


def test_no_server_is_no_choice() -> None:
    assert balanced([]).choose() is None
