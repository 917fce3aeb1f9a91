"""Random changes are possible ones, and reach everything; what has grown is told. No root needed."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.lab.configuration import platform
from orchestrator.lab.soak.accounts import Account, growth
from orchestrator.lab.soak.changes import (
    EXTRA_VIPS,
    LEAST_ACTIVE,
    MOST_BLOCKED,
    Kind,
    Wish,
    configured,
    draw,
    usual,
)
from orchestrator.lab.spec import LabSpec
from orchestrator.lab.topology import topology_of

PROXIES = ("proxy-1", "proxy-2", "proxy-3")


@given(seed=st.integers(0, 2**32), changes=st.integers(1, 300))
def test_whatever_is_drawn_leaves_a_fleet_that_serves(seed: int, changes: int) -> None:
    random, wish = Random(seed), usual(PROXIES)
    for _ in range(changes):
        before = str(wish)
        change = draw(random, wish)
        assert str(wish) == before, "a change that is refused changes nothing"
        wish = change.wish
        assert str(wish) != before
        assert len(wish.active) >= LEAST_ACTIVE
        assert wish.weights.keys() | wish.outside == set(PROXIES)
        assert not wish.weights.keys() & wish.outside
        assert wish.drained <= wish.weights.keys(), "who has left the configuration cannot be undrained"
        assert len(wish.vips) <= EXTRA_VIPS
        assert len(wish.blocked) <= MOST_BLOCKED


def test_every_kind_of_change_comes_often() -> None:
    random, wish, kinds = Random(1), usual(PROXIES), Counter[Kind]()
    for _ in range(1000):
        change = draw(random, wish)
        wish = change.wish
        kinds[change.kind] += 1
    assert kinds.keys() == set(Kind)
    assert min(kinds.values()) > 20


def test_the_same_seed_makes_the_same_changes() -> None:
    def drawn(seed: int) -> list[str]:
        random, wish, seen = Random(seed), usual(PROXIES), []
        for _ in range(50):
            change = draw(random, wish)
            wish = change.wish
            seen.append(f"{change.kind} {change.what}")
        return seen

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_a_wish_is_written_as_configuration_and_leaves_the_labs_own_alone() -> None:
    spec = LabSpec()
    own = platform(spec, topology_of(spec))
    before = str(own)
    wish = Wish({"proxy-1": 3, "proxy-3": 1}, outside={"proxy-2"}, vips={20_000, 20_003})
    written = configured(own, wish)
    assert str(own) == before
    assert written["pools"][0]["members"] == [{"node": "proxy-1", "weight": 3}, {"node": "proxy-3", "weight": 1}]
    assert written["vips"][: len(own["vips"])] == own["vips"], "the load's VIPs stay"
    tcp, udp = written["vips"][len(own["vips"]) :]
    assert (tcp["address"], tcp["port"], tcp["mode"]) == ("203.0.113.10", 20_000, "terminate")
    assert (udp["address"], udp["port"], udp["protocol"]) == ("2001:db8:203::10", 20_003, "udp")


def account(resident_kib: int = 50_000, descriptors: int = 20, map_entries: int = 100) -> Account:
    return Account(resident_kib=resident_kib, descriptors=descriptors, map_entries=map_entries)


@pytest.mark.parametrize(
    ("last", "found"),
    [
        (account(), []),
        (account(resident_kib=52_500), []),
        (account(resident_kib=52_600), ["resident_kib grew from 50000 to 52600"]),
        (account(resident_kib=30_000, descriptors=5, map_entries=0), []),
        (account(descriptors=22), []),
        (account(descriptors=23), ["descriptors grew from 20 to 23"]),
        (account(map_entries=106), ["map_entries grew from 100 to 106"]),
    ],
)
def test_five_percent_more_is_too_much(last: Account, found: list[str]) -> None:
    assert growth(account(), last) == found


def test_a_connection_in_passing_is_no_growth() -> None:
    assert growth(account(descriptors=4), account(descriptors=6)) == []
