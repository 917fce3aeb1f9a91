"""The prober: thresholds, who speaks for a member, when it asks and how much of it, on a clock that is stepped."""

import itertools
import random
from collections import Counter
from ipaddress import ip_address
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from l4.entries import EncapsulationKind
from l4.probes.asking import NotAskedError
from l4.probes.mark import probe_mark
from l4.probes.prober import MAX_IN_FLIGHT, Prober
from l4.probes.targets import Target, targets
from l4.probes.verdicts import Answer, Asked, Lookout, Streak, worst
from orchestrator.contract.pool import Probe, ProbeKind
from orchestrator.contract.report import ProbeVerdict
from tests.l4.edge import ACTIVE, balancer_snapshot

HEALTHY, UNHEALTHY, UNREACHABLE = ProbeVerdict.HEALTHY, ProbeVerdict.UNHEALTHY, ProbeVerdict.UNREACHABLE
GOOD, BAD, NONE = (Asked(answer, answer.value) for answer in Answer)


def target(member: int = 1, pool: str = "edge", **probe: object) -> Target:
    return Target(
        pool=pool,
        member_id=member,
        address=ip_address("203.0.113.10"),
        port=443,
        source=None,
        mark=probe_mark(member, EncapsulationKind.GUE),
        probe=Probe.model_validate(probe),
    )


@given(st.lists(st.booleans(), min_size=1), st.integers(1, 4), st.integers(1, 4))
def test_a_streak_changes_after_so_many_equal_answers_and_not_before(
    answers: list[bool], up_after: int, down_after: int
) -> None:
    streak = Streak(up_after, down_after)
    value = None
    for n, answer in enumerate(answers):
        streak.saw(answer)
        needed = up_after if answer else down_after
        if n + 1 >= needed and all(one is answer for one in answers[n + 1 - needed : n + 1]):
            value = answer
        assert streak.value is value


def judged(kind: str, *answers: Asked, requests: tuple[Asked, ...] = ()) -> ProbeVerdict | None:
    lookout = Lookout(Probe.model_validate({"kind": kind}))
    for answer in answers:
        lookout.saw_connection(answer, 0)
    for answer in requests:
        lookout.saw_request(answer, 0)
    return lookout.verdict


@pytest.mark.parametrize(
    ("kind", "answers", "requests", "expected"),
    [
        ("tcp", [GOOD], [], None),
        ("tcp", [GOOD, GOOD], [], HEALTHY),
        ("tcp", [NONE, NONE], [], None),
        ("tcp", [NONE, NONE, NONE], [], UNREACHABLE),
        ("tcp", [BAD, BAD, BAD], [], UNHEALTHY),
        ("tcp", [NONE, BAD, NONE, BAD], [], UNHEALTHY),  # it answers now and then, and never accepts
        ("tcp", [GOOD, GOOD, NONE, NONE], [], HEALTHY),
        ("tcp", [NONE, NONE, NONE, GOOD, GOOD], [], HEALTHY),
        ("http", [GOOD, GOOD], [], None),
        ("http", [GOOD, GOOD], [GOOD, GOOD], HEALTHY),
        ("http", [GOOD, GOOD], [BAD, BAD, BAD], UNHEALTHY),
        ("http", [GOOD, GOOD], [NONE, NONE, NONE], UNHEALTHY),
        ("http", [NONE, NONE, NONE], [NONE, NONE, NONE], UNREACHABLE),
        ("http", [BAD, BAD, BAD], [GOOD, GOOD], UNHEALTHY),
    ],
)
def test_what_the_answers_say_of_a_member(
    kind: str, answers: list[Asked], requests: list[Asked], expected: ProbeVerdict | None
) -> None:
    assert judged(kind, *answers, requests=tuple(requests)) == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([None], None),
        ([None, HEALTHY], HEALTHY),
        ([HEALTHY, UNHEALTHY], UNHEALTHY),
        ([UNREACHABLE, UNREACHABLE], UNREACHABLE),
        ([UNREACHABLE, HEALTHY], UNHEALTHY),
        ([UNREACHABLE, UNHEALTHY], UNHEALTHY),
    ],
)
def test_a_member_of_several_pools_is_as_well_as_in_the_worst_but_reachable_if_any_reaches_it(
    verdicts: list[ProbeVerdict | None], expected: ProbeVerdict | None
) -> None:
    speaker = worst([Lookout(Probe(), verdict) for verdict in verdicts])
    assert (speaker and speaker.verdict) == expected


def test_everybody_whom_a_chain_may_name_is_probed_from_this_nodes_own_address() -> None:
    pool = ACTIVE.model_copy(update={"probe": Probe(vip="web-v4")})
    found = list(targets(balancer_snapshot(1, pool)))
    assert [(one.member_id, one.mark & 0xFFFF, str(one.source)) for one in found] == [
        (1, 1, "198.18.1.11"),
        (2, 2, "198.18.1.11"),
    ]
    assert list(targets(balancer_snapshot(1, ACTIVE))) == []
    over_v6 = pool.model_copy(update={"probe": Probe(vip="web-v6")})
    assert [one.source for one in targets(balancer_snapshot(1, over_v6))] == [None, None]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time that jumps to when something is to happen."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Members:
    """What members answer, and when they were asked."""

    def __init__(self) -> None:
        self.answers: dict[int, Asked] = {}
        self.takes_s = 0.001
        self.asked: list[tuple[float, int, ProbeKind]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.cannot_ask = False

    async def connect(self, target: Target, _interface: str) -> Asked:
        return await self._answer(target, ProbeKind.TCP)

    async def request(self, target: Target, _interface: str) -> Asked:
        return await self._answer(target, ProbeKind.HTTP)

    async def _answer(self, target: Target, kind: ProbeKind) -> Asked:
        if self.cannot_ask:
            raise NotAskedError("no route to host")
        self.asked.append((trio.current_time(), target.member_id, kind))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await trio.sleep(self.takes_s)
        self.under_way -= 1
        return self.answers.get(target.member_id, GOOD)


def prober(members: Members, max_per_second: int = 500) -> Prober:
    return Prober(
        "eth0",
        chance=random.Random(7),
        connect=members.connect,
        request=members.request,
        max_per_second=max_per_second,
    )


async def test_verdicts_change_and_say_since_when_and_why() -> None:
    members = Members()
    probing = prober(members)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probing.run)
        probing.aim([target(1), target(2)])
        await probing.changed()
        assert probing.verdicts() == {}
        await trio.sleep(3)
        assert {number: probe.verdict for number, probe in probing.verdicts().items()} == {1: HEALTHY, 2: HEALTHY}
        await probing.changed()
        members.answers[2] = NONE
        began = trio.current_time()
        await probing.changed()
        assert trio.current_time() - began < 1.0
        assert probing.unreachable == {2}
        assert probing.reached == set(probing.verdicts()) - {2}
        await trio.sleep(5)
        probe = probing.verdicts()[2]
        assert (probe.verdict, probe.detail) == (UNREACHABLE, "none")
        assert 4.9 < probe.since_s < 5.1
        probing.aim([target(1)])
        assert probing.unreachable == frozenset()
        assert set(probing.verdicts()) == {1}
        nursery.cancel_scope.cancel()


async def test_who_is_aimed_at_again_keeps_its_verdict_and_who_is_asked_otherwise_does_not() -> None:
    members = Members()
    probing = prober(members)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probing.run)
        probing.aim([target(1), target(2)])
        await trio.sleep(3)
        probing.aim([target(1), target(2, interval_ms=2000)])
        members.asked.clear()
        await trio.sleep(2)
        assert probing.verdicts()[1].since_s > 3
        times = [at for at, member, _ in members.asked if member == 1]
        assert 8 <= len(times) <= 13, "it is asked once each time, not twice"
        nursery.cancel_scope.cancel()


async def test_intervals_vary_by_a_fifth_and_requests_are_less_often() -> None:
    members = Members()
    probing = prober(members)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probing.run)
        probing.aim([target(1, kind="http")])
        await trio.sleep(3)  # at first it is in doubt, and asked sooner
        members.asked.clear()
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    for kind, interval in ((ProbeKind.TCP, 0.2), (ProbeKind.HTTP, 1.0)):
        times = [at for at, _, asked in members.asked if asked is kind]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert min(gaps) >= interval * 0.79
        assert max(gaps) <= interval * 1.21
        assert max(gaps) - min(gaps) > interval * 0.2


async def test_four_thousand_members_are_asked_in_turn_no_faster_than_this_node_can_spare() -> None:
    members = Members()
    probing = prober(members)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probing.run)
        probing.aim([target(number) for number in range(1, 4097)])
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert 29 * 500 <= len(members.asked) <= 31 * 500
    times = Counter(member for _, member, _ in members.asked)
    assert set(times) == set(range(1, 4097))
    assert max(times.values()) - min(times.values()) <= 2, "none waits much longer than the others"
    assert probing.counts["probes_late"] > 4096


async def test_only_so_many_are_under_way_while_nobody_answers() -> None:
    members = Members()
    members.takes_s = 10.0
    probing = prober(members, max_per_second=5000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probing.run)
        probing.aim([target(number) for number in range(1, 1001)])
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert members.most_under_way == MAX_IN_FLIGHT


async def test_what_this_host_could_not_ask_says_nothing() -> None:
    members = Members()
    probing = prober(members)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probing.run)
        probing.aim([target(1)])
        await trio.sleep(3)
        members.cannot_ask = True
        await trio.sleep(5)
        assert probing.verdicts()[1].verdict is HEALTHY
        assert probing.counts["probes_not_asked"] > 10
        nursery.cancel_scope.cancel()


async def test_a_member_in_doubt_is_asked_again_sooner_and_once() -> None:
    members = Members()
    probing = prober(members)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probing.run)
        probing.aim([target(1)])
        await trio.sleep(3)
        await probing.changed()
        members.answers[1] = BAD
        members.asked.clear()
        await probing.changed()
        times = [at for at, _, _ in members.asked]
        assert len(times) == 3, "as many as the verdict takes"
        assert all(0.09 < later - earlier < 0.12 for earlier, later in itertools.pairwise(times))
        members.asked.clear()
        await trio.sleep(10)
        assert 42 <= len(members.asked) <= 60, "and as often as before when there is no doubt"
        nursery.cancel_scope.cancel()
