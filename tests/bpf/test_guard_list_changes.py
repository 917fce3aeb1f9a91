"""How the guard's lists change: as a whole, from one half of the array to the other, and not at all if that fails."""

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l4.balancer_program import BalancerProgram
from l4.balancer_settings import SettingsMap
from l4.bpf_map import Map
from l4.guard_lists import HALF_OCTETS, Listing, Network, compile_lists
from tests.bench.sandbox import own_bpffs
from tests.bpf.guarding import serve_all
from tests.bpf.packets import framed, node_settings
from tests.bpf.program_run import Verdict, run
from tests.bpf.test_guard_lists import IPV4, is_blocked, lists, oracle, packet_from

pytestmark = pytest.mark.kernel

ROWS = 997
BLOCKED, ALLOWED = Listing.BLOCKED, Listing.ALLOWED
ONE, OTHER = IPv4Address("198.51.100.7"), IPv4Address("192.0.2.7")
ONE_LISTED, OTHER_LISTED = lists({f"{ONE}/32": BLOCKED}), lists({f"{OTHER}/32": BLOCKED})


@pytest.fixture
def fresh() -> Iterator[BalancerProgram]:
    """A balancer whose maps are empty."""
    with own_bpffs() as bpffs:
        yield BalancerProgram(bpffs, rows=ROWS)


def half_in_use(balancer: BalancerProgram) -> int:
    half = SettingsMap(balancer.pins).lists_half()
    assert half is not None
    return half


def content_in_use(balancer: BalancerProgram) -> bytes:
    start = half_in_use(balancer) * HALF_OCTETS
    with balancer.pins.open("guard_ipv4") as halves, halves.mapped(start, HALF_OCTETS) as half:
        return half[:]


def written_out(listed: dict[Network, Listing]) -> bytes:
    """A half that holds these lists, and nothing else."""
    half = bytearray(HALF_OCTETS)
    for word, octets, count in compile_lists(listed).ipv4:
        half[word * 8 : word * 8 + len(octets) * count] = octets * count
    return bytes(half)


def who_is_blocked(balancer: BalancerProgram) -> set[IPv4Address]:
    return {source for source in (ONE, OTHER) if is_blocked(balancer, packet_from(source))}


PREFIXES = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    IPV4,
    st.sampled_from((0, 1, 8, 15, *range(20, 33))),
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    changes=st.lists(
        st.dictionaries(PREFIXES, st.sampled_from((BLOCKED, ALLOWED)), max_size=8), min_size=2, max_size=4
    ),
    sources=st.lists(IPV4, max_size=6),
)
def test_each_change_leaves_what_is_listed_now_and_nothing_of_what_was(
    balancer: BalancerProgram, changes: list[dict[Network, Listing]], sources: list[IPv4Address]
) -> None:
    serve_all(balancer)
    edges = [edge for listed in changes for one in listed for edge in (one.network_address, one.broadcast_address)]
    for listed in changes:
        balancer.guard.set_lists(listed)
        assert content_in_use(balancer) == written_out(listed)
        for source in (*sources, *edges[:8]):
            assert is_blocked(balancer, packet_from(source)) == (oracle(listed, source) is BLOCKED), source


def test_changes_go_from_half_to_half(balancer: BalancerProgram) -> None:
    serve_all(balancer)
    balancer.guard.set_lists(ONE_LISTED)
    first = half_in_use(balancer)
    balancer.guard.set_lists(OTHER_LISTED)
    assert half_in_use(balancer) == 1 - first
    balancer.guard.set_lists(ONE_LISTED)
    assert half_in_use(balancer) == first


def test_other_settings_and_the_tap_leave_the_half_that_is_in_use(balancer: BalancerProgram) -> None:
    serve_all(balancer)
    for listed, source in ((ONE_LISTED, ONE), (OTHER_LISTED, OTHER)):
        balancer.guard.set_lists(listed)
        balancer.set_settings(node_settings(balancer.rows, lists_ipv4=True, mtu=1400))
        assert who_is_blocked(balancer) == {source}
        for is_tapped in (True, False):
            balancer.show_to_tap(is_tapped)
            assert who_is_blocked(balancer) == {source}


def test_lists_are_emptied_and_filled_again(balancer: BalancerProgram) -> None:
    serve_all(balancer)
    for _ in range(2):
        balancer.guard.set_lists(ONE_LISTED)
        assert who_is_blocked(balancer) == {ONE}
        balancer.guard.set_lists({})
        assert who_is_blocked(balancer) == set()
        balancer.guard.set_lists(lists({"0.0.0.0/0": BLOCKED}))
        assert who_is_blocked(balancer) == {ONE, OTHER}
        balancer.guard.set_lists({})
        assert who_is_blocked(balancer) == set()


@pytest.mark.parametrize("changes", [1, 2])
def test_a_restart_goes_on_in_either_half(fresh: BalancerProgram, changes: int) -> None:
    balancer = fresh
    serve_all(balancer)
    for listed in (OTHER_LISTED, ONE_LISTED)[-changes:]:
        balancer.guard.set_lists(listed)
    half = half_in_use(balancer)
    assert half == changes % 2
    successor = BalancerProgram(balancer.pins.directory.parent.parent, rows=balancer.rows)
    assert who_is_blocked(successor) == {ONE}
    successor.set_settings(node_settings(successor.rows, lists_ipv4=True, mtu=1400))
    assert (who_is_blocked(successor), half_in_use(successor)) == ({ONE}, half)
    successor.guard.set_lists(OTHER_LISTED)
    assert (who_is_blocked(successor), half_in_use(successor)) == ({OTHER}, 1 - half)
    assert content_in_use(successor) == written_out(OTHER_LISTED)


def test_lists_that_come_before_the_first_settings_hold_with_these(fresh: BalancerProgram) -> None:
    balancer = fresh
    balancer.guard.set_lists(OTHER_LISTED)
    balancer.guard.set_lists(ONE_LISTED)
    serve_all(balancer)
    assert who_is_blocked(balancer) == {ONE}


def fail(*_: object) -> NoReturn:
    raise OSError("no memory")


def test_a_change_that_cannot_be_brought_into_use_changes_nothing(
    balancer: BalancerProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_all(balancer)
    balancer.guard.set_lists(ONE_LISTED)
    before = content_in_use(balancer)
    with monkeypatch.context() as broken, pytest.raises(OSError, match="no memory"):
        broken.setattr(SettingsMap, "name_lists_half", fail)
        balancer.guard.set_lists(OTHER_LISTED)
    assert (who_is_blocked(balancer), content_in_use(balancer)) == ({ONE}, before)
    balancer.set_settings(node_settings(balancer.rows, lists_ipv4=True))
    assert who_is_blocked(balancer) == {ONE}, "half a change is not made up for by other settings"
    balancer.guard.set_lists(OTHER_LISTED)
    assert who_is_blocked(balancer) == {OTHER}


def test_a_change_that_fails_half_way_changes_nothing_and_leaves_nothing(
    balancer: BalancerProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_all(balancer)
    balancer.guard.set_lists(ONE_LISTED)
    before = content_in_use(balancer)
    mapped = Map.mapped

    def not_far(array: Map, start: int, size: int) -> object:
        return mapped(array, start, size) if start % HALF_OCTETS < HALF_OCTETS // 2 else fail()

    with monkeypatch.context() as broken, pytest.raises(OSError, match="no memory"):
        broken.setattr(Map, "mapped", not_far)
        balancer.guard.set_lists(lists({"0.0.0.0/0": BLOCKED}))
    assert (who_is_blocked(balancer), content_in_use(balancer)) == ({ONE}, before)
    balancer.guard.set_lists(OTHER_LISTED)
    assert who_is_blocked(balancer) == {OTHER}
    assert content_in_use(balancer) == written_out(OTHER_LISTED)


def test_going_back_after_a_change_that_failed_in_between_is_a_change(
    balancer: BalancerProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_all(balancer)
    balancer.guard.set_lists(ONE_LISTED)
    with monkeypatch.context() as broken, pytest.raises(OSError, match="no memory"):
        broken.setattr(Map, "write_array", fail_unless_one_entry(Map.write_array))
        balancer.guard.set_lists(OTHER_LISTED)
    assert who_is_blocked(balancer) == {OTHER}, "IPv4 comes first"
    balancer.guard.set_lists(ONE_LISTED)
    assert who_is_blocked(balancer) == {ONE}


def fail_unless_one_entry(write: Callable[[Map, bytes], None]) -> Callable[[Map, bytes], None]:
    """The settings can be written; the filter of IPv6 cannot."""
    return lambda array, values: write(array, values) if array.shape.max_entries == 1 else fail()


@contextmanager
def packets_from(source: IPv4Address, balancer: BalancerProgram) -> Iterator[list[int]]:
    """Packets that another process sends meanwhile; afterwards, how many there were and how many passed."""
    frame = framed(packet_from(source))
    reading, writing = os.pipe()
    until, end = os.pipe()
    if (child := os.fork()) == 0:
        try:
            sent = passed = 0
            os.close(end)
            while not select.select([until], [], [], 0)[0]:
                sent += 1
                passed += run(balancer.descriptor, frame).verdict is not Verdict.DROP
            os.write(writing, f"{sent} {passed}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    told: list[int] = []
    try:
        yield told
    finally:
        os.close(end)
        told += map(int, os.read(reading, 100).split())
        os.waitpid(child, 0)
        for descriptor in (reading, until):
            os.close(descriptor)


def test_who_is_blocked_by_the_old_lists_and_the_new_is_blocked_meanwhile(balancer: BalancerProgram) -> None:
    serve_all(balancer)
    crowd: dict[Network, Listing] = {IPv4Network((0x0A000000 + 997 * number, 32)): BLOCKED for number in range(300)}
    both: list[dict[Network, Listing]] = [
        {**ONE_LISTED, **crowd},
        {**OTHER_LISTED, **lists({"198.51.0.0/16": BLOCKED})},
    ]
    balancer.guard.set_lists(both[1])
    with packets_from(ONE, balancer) as told:
        for number in range(40):
            balancer.guard.set_lists(both[number % 2])
    sent, passed = told
    assert sent > 40
    assert passed == 0
