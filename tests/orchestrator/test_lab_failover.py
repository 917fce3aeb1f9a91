"""The failover is measured from what the router's kernel tells: `ip -o -ts monitor link route`, as captured."""

from datetime import datetime

import pytest

from orchestrator.lab.failover import FailoverWatch

# ruff: noqa: E501 - lines as they came
BOTH = {
    "v4": "203.0.113.10 proto bird metric 32 \\\tnexthop via 198.18.1.11 dev br-l4 weight 1 \\\tnexthop via 198.18.1.12 dev br-l4 weight 1",
    "v6": "2001:db8:203::10 proto bird metric 32 pref medium\\\tnexthop via 2001:db8:18:1::11 dev br-l4 weight 1 \\\tnexthop via 2001:db8:18:1::12 dev br-l4 weight 1",
}
OTHER_ONLY = {
    "v4": "203.0.113.10 via 198.18.1.12 dev br-l4 proto bird metric 32",
    "v6": "2001:db8:203::10 via 2001:db8:18:1::12 dev br-l4 proto bird metric 32 pref medium",
}
DEAD_ONLY = {
    "v4": "203.0.113.10 via 198.18.1.11 dev br-l4 proto bird metric 32",
    "v6": "2001:db8:203::10 via 2001:db8:18:1::11 dev br-l4 proto bird metric 32 pref medium",
}
STILL_ON_THE_BRIDGE = (
    "4: l4-1@x1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue master br-l4 state UP group default"
)
LEFT_THE_BRIDGE = (
    STILL_ON_THE_BRIDGE,
    "Deleted 4: l4-1@x1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 master br-l4 state UP",
    "4: l4-1@x1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP group default",
)


@pytest.fixture
def watch() -> FailoverWatch:
    return FailoverWatch(
        port="l4-1",
        gateways=frozenset({"198.18.1.11", "2001:db8:18:1::11"}),
        vips=frozenset({"203.0.113.10", "2001:db8:203::10"}),
    )


def at(milliseconds: int, event: str) -> str:
    return f"[2026-11-20T12:08:33.{milliseconds:03d}000] {event}"


def cut(watch: FailoverWatch, milliseconds: int) -> None:
    for event in LEFT_THE_BRIDGE:
        watch.take(at(milliseconds, event))


def test_the_slower_family_counts(watch: FailoverWatch) -> None:
    cut(watch, 100)
    watch.take(at(230, OTHER_ONLY["v4"]))
    assert watch.milliseconds is None
    watch.take(at(241, OTHER_ONLY["v6"]))
    assert watch.milliseconds == pytest.approx(141.0)


def test_the_cut_is_when_the_port_has_no_master_any_more(watch: FailoverWatch) -> None:
    watch.take(at(50, STILL_ON_THE_BRIDGE))
    assert watch.cut_at is None
    cut(watch, 100)
    assert watch.cut_at is not None


def test_routes_that_moved_before_the_cut_say_nothing(watch: FailoverWatch) -> None:
    watch.take(at(10, OTHER_ONLY["v4"]))
    watch.take(at(11, OTHER_ONLY["v6"]))
    cut(watch, 100)
    assert watch.milliseconds is None


def test_a_deleted_route_over_the_dead_node_is_a_failover(watch: FailoverWatch) -> None:
    cut(watch, 100)
    watch.take(at(200, f"Deleted {DEAD_ONLY['v4']}"))
    watch.take(at(210, f"Deleted {BOTH['v6']}"))
    assert watch.milliseconds == pytest.approx(110.0)


def test_a_deleted_route_over_the_other_node_is_none(watch: FailoverWatch) -> None:
    cut(watch, 100)
    for family in ("v4", "v6"):
        watch.take(at(200, f"Deleted {OTHER_ONLY[family]}"))
    assert watch.milliseconds is None


def test_a_route_that_leads_there_again_starts_the_wait_anew(watch: FailoverWatch) -> None:
    cut(watch, 100)
    watch.take(at(200, OTHER_ONLY["v4"]))
    watch.take(at(210, BOTH["v4"]))
    watch.take(at(220, OTHER_ONLY["v6"]))
    assert watch.milliseconds is None
    watch.take(at(300, OTHER_ONLY["v4"]))
    assert watch.milliseconds == pytest.approx(200.0)


@pytest.mark.parametrize("line", ["", "nonsense", "[2026-11-20T12:08:33.000000] "])
def test_lines_that_say_nothing_are_passed_over(watch: FailoverWatch, line: str) -> None:
    watch.take(line)
    cut(watch, 100)
    watch.take(line)
    assert watch.milliseconds is None


def test_a_fault_that_is_told_counts_from_its_own_moment() -> None:
    watch = FailoverWatch(gateways=frozenset({"198.18.1.11"}), vips=frozenset({"203.0.113.10"}))
    watch.take(at(90, OTHER_ONLY["v4"]))
    assert watch.milliseconds is None, "nothing has happened yet"
    watch.cut_at = datetime.fromisoformat("2026-11-20T12:08:33.100000").astimezone().timestamp()
    watch.take(at(95, OTHER_ONLY["v4"]))
    assert watch.milliseconds is None, "it was told before the fault, and read after"
    watch.take(at(130, OTHER_ONLY["v4"]))
    assert watch.milliseconds == pytest.approx(30.0)
