"""A host is kept as its policy wants it, in a real namespace: what is ours comes back, what is not stays as it is."""

import subprocess
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

from l4.direct_return import IPV4_CONF
from l4.host_keeper import RENEWALS_PER_LIFETIME, SAFETY_LOOK_S, HostKeeper
from l4.host_policy import HostPolicy, carry_out, look_at_host, plan
from l4.interface import OVERHEADS
from l4.interface_addresses import Network
from l4.restorations import Concern
from l4.vips import vips_on_loopback
from orchestrator.contract.pool import Encapsulation
from tests.l4.test_direct_return import make_uplink
from tests.l4.test_pace import Clock

pytestmark = pytest.mark.kernel

Inside = Callable[..., Any]

V4: Network = ip_network("203.0.113.10")
V6: Network = ip_network("2001:db8:203::10")
V4_BLOCK: Network = ip_network("203.0.113.64/28")
V6_BLOCK: Network = ip_network("2001:db8:203:64::/64")
EVERYTHING = (V4, V6, V4_BLOCK, V6_BLOCK)
MEMBERS_HOST = HostPolicy(
    "eth0", dict.fromkeys(EVERYTHING, None), takes_clients_packets=True, overhead=OVERHEADS[Encapsulation.GUE, 4]
)
L4_NODE = HostPolicy("eth0", dict.fromkeys(EVERYTHING, 60), takes_own_addresses=True)


def shell(command: str) -> str:
    finished = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert finished.returncode == 0, f"{command}: {finished.stderr}"
    return finished.stdout


def to_do(policy: HostPolicy) -> list[str]:
    return [change.words for change in plan(policy, look_at_host(policy), renews=False).changes]


def everything() -> list[str]:
    """All that a policy is about and all around it, but for what comes by itself when a link goes up."""
    addresses = shell("ip -o address show").replace("forever", "")
    routes = shell("ip -4 route show table all") + shell("ip -6 route show table all")
    settings = [
        f"{conf.parent.name} {conf.name} {conf.read_text()}"
        for name in ("arp_ignore", "arp_announce", "rp_filter", "accept_local")
        for conf in sorted(IPV4_CONF.glob(f"*/{name}"))
    ]
    lines = [*addresses.splitlines(), *routes.splitlines(), *settings]
    return sorted(line for line in lines if "fe80:" not in line and "ff00:" not in line)


@pytest.fixture
def host(inside: Inside) -> Inside:
    inside(make_uplink)
    return inside


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts() -> Counter[str]:
    return Counter()


@pytest.fixture
def keeper(counts: Counter[str], clock: Clock) -> HostKeeper:
    return HostKeeper(counts, clock)


@pytest.mark.parametrize("policy", [MEMBERS_HOST, L4_NODE], ids=["member", "l4"])
def test_a_plan_touches_nothing_and_is_what_is_then_done(host: Inside, policy: HostPolicy) -> None:
    before = host(everything)
    planned = host(to_do, policy)
    assert host(everything) == before
    assert any("VIP 203.0.113.10: put on lo" in words for words in planned)
    present = host(look_at_host, policy)
    host(carry_out, plan(policy, present).changes)
    after = host(everything)
    assert after != before
    assert host(to_do, policy) == []
    assert host(everything) == after


def test_a_host_that_is_in_order_is_not_touched(host: Inside, keeper: HostKeeper, counts: Counter[str]) -> None:
    host(keeper.keep, MEMBERS_HOST)
    before = host(everything)
    host(keeper.keep, MEMBERS_HOST, heard=True, is_beat=True)
    assert host(everything) == before
    assert not +counts


LOSSES = {
    "an IPv4 VIP": ("ip address del 203.0.113.10/32 dev lo", "vips_restored", 1),
    "an IPv6 VIP": ("ip address del 2001:db8:203::10/128 dev lo", "vips_restored", 1),
    "an IPv4 block": ("ip address del 203.0.113.64/28 dev lo", "vips_restored", 2),
    "an IPv6 block": ("ip address del 2001:db8:203:64:ffff:ffff:ffff:ffff/64 dev lo", "vips_restored", 1),
    "an IPv6 block's route": ("ip -6 route del local 2001:db8:203:64::/64 dev lo table local", "vips_restored", 1),
    "lo": ("ip link set lo down", "vips_restored", None),
    "the MSS": ("ip route replace default via 198.18.2.1 proto static", "mss_restored", 1),
    "an MSS that is another": ("ip route replace default via 198.18.2.1 proto static advmss 1460", "mss_restored", 1),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_somebody_takes_away_comes_back(
    host: Inside, keeper: HostKeeper, counts: Counter[str], loss: str, clock: Clock
) -> None:
    command, counter, restored = LOSSES[loss]
    host(keeper.keep, MEMBERS_HOST)
    before = host(everything)
    host(shell, command)
    assert host(to_do, MEMBERS_HOST)
    host(keeper.keep, MEMBERS_HOST, heard=True)
    clock.now += 1
    host(keeper.keep, MEMBERS_HOST, heard=True)  # the kernel tells of what was done then, too
    assert host(to_do, MEMBERS_HOST) == []
    if loss != "lo":  # on which the kernel makes routes in another order
        assert host(everything) == before
    assert counts[counter] == restored if restored else counts[counter] >= len(EVERYTHING)
    concern = Concern.MSS if counter == "mss_restored" else Concern.VIPS
    assert concern in {one.concern for one in keeper.restorations.recent()}, "doctor can name it"


@pytest.mark.parametrize(("name", "value"), [("arp_ignore", "0"), ("arp_announce", "1")])
def test_settings_of_which_the_kernel_tells_nobody_come_back_on_a_beat(
    host: Inside, keeper: HostKeeper, counts: Counter[str], name: str, value: str
) -> None:
    host(keeper.keep, MEMBERS_HOST)
    host((IPV4_CONF / "all" / name).write_text, value)
    host(keeper.keep, MEMBERS_HOST)
    assert host(to_do, MEMBERS_HOST)
    host(keeper.keep, MEMBERS_HOST, is_beat=True)
    assert host(to_do, MEMBERS_HOST) == []
    assert +counts == {"settings_restored": 1}
    (noted,) = keeper.restorations.recent()
    assert noted.concern is Concern.ARP
    assert name in noted.words


def test_what_is_wanted_anew_is_not_counted_as_restored(host: Inside, keeper: HostKeeper, counts: Counter[str]) -> None:
    host(keeper.keep, HostPolicy("eth0", {V4: 60}))
    host(keeper.keep, HostPolicy("eth0", {V4: 60, V6: 60}))
    host(keeper.keep, HostPolicy("eth0", {V6: None}))
    assert not +counts
    assert host(vips_on_loopback).lifetimes == {V6: None}


def test_what_others_put_there_stays_and_what_they_took_over_is_theirs(host: Inside, keeper: HostKeeper) -> None:
    host(shell, "ip address add 203.0.113.77/32 dev lo")
    host(shell, "ip address add 203.0.113.10/32 dev lo")
    host(shell, "ip -6 route add local 2001:db8:99::/64 dev lo table local")
    host(shell, "ip address add 203.0.114.0/24 dev lo")
    host(keeper.keep, MEMBERS_HOST)
    host(keeper.keep, HostPolicy("eth0"))
    present = host(vips_on_loopback)
    assert present.ours == set()
    assert {V4, ip_network("203.0.113.77"), ip_network("203.0.114.0/24")} <= present.foreign
    assert "2001:db8:99::/64" in host(shell, "ip -6 route show table local")
    assert "broadcast 203.0.114.255" in host(shell, "ip route show table local")


def test_a_fight_is_answered_with_growing_pauses_and_departures_wait_for_none(
    host: Inside, keeper: HostKeeper, counts: Counter[str], clock: Clock
) -> None:
    policy = HostPolicy("eth0", {V4: 60, V6: 60})
    host(keeper.keep, policy)
    for _ in range(40):
        if V4 in host(vips_on_loopback).ours:
            host(shell, "ip address del 203.0.113.10/32 dev lo")
        again_s = host(keeper.keep, policy, heard=True)
        clock.now += 0.05
    assert 3 <= counts["vips_restored"] <= 8
    assert counts["restorations_postponed"] >= counts["vips_restored"] - 3
    if V4 in host(vips_on_loopback).ours:
        host(shell, "ip address del 203.0.113.10/32 dev lo")
    again_s = host(keeper.keep, policy, heard=True)
    assert 0 < again_s <= 1
    host(keeper.keep, HostPolicy("eth0", {}))
    assert host(vips_on_loopback).ours == set(), "who may not announce does not wait"


def test_lifetimes_are_renewed_when_a_third_of_them_is_over(host: Inside, keeper: HostKeeper, clock: Clock) -> None:
    policy = HostPolicy("eth0", dict.fromkeys(EVERYTHING, 60))
    assert host(keeper.keep, policy) == min(60 / RENEWALS_PER_LIFETIME, SAFETY_LOOK_S)
    # As they would be twenty seconds later.
    host(HostKeeper(Counter()).keep, HostPolicy("eth0", dict.fromkeys(EVERYTHING, 40)))
    assert host(to_do, policy) == [], "that is no change of policy"
    clock.now += 19.9
    host(keeper.keep, policy)
    assert host(vips_on_loopback).lifetimes[V4] <= 40
    clock.now += 0.2
    host(keeper.keep, policy)
    present = host(vips_on_loopback)
    assert set(present.lifetimes.values()) <= {59, 60}
    assert present.routes[V6_BLOCK] > 58


def test_blocks_routes_have_the_lifetime_of_their_address(host: Inside, keeper: HostKeeper) -> None:
    host(keeper.keep, HostPolicy("eth0", {V6_BLOCK: 60}))
    assert 58 < host(vips_on_loopback).routes[V6_BLOCK] <= 60
    host(keeper.keep, HostPolicy("eth0", {V6_BLOCK: None}))
    assert host(vips_on_loopback).routes == {V6_BLOCK: None}
    assert host(vips_on_loopback).lifetimes == {V6_BLOCK: None}


def test_whoever_starts_later_finds_them_and_gives_them_its_own_lifetime(
    host: Inside, keeper: HostKeeper, counts: Counter[str]
) -> None:
    host(HostKeeper(Counter()).keep, HostPolicy("eth0", {V4: 60, V6: 60}))
    host(keeper.keep, HostPolicy("eth0", {V4: None, V6: 30}))
    lifetimes = host(vips_on_loopback).lifetimes
    assert lifetimes[V4] is None
    assert lifetimes[V6] <= 30
    assert not +counts


def test_without_a_snapshot_what_is_left_is_prolonged(host: Inside, keeper: HostKeeper) -> None:
    host(keeper.keep, HostPolicy("eth0", {V4: 5, V6: None, V6_BLOCK: 3600}))
    host(keeper.prolong)
    lifetimes = host(vips_on_loopback).lifetimes
    assert 28 < lifetimes[V4] <= 30
    assert lifetimes[V6] is None
    assert lifetimes[V6_BLOCK] > 3500


def test_a_failure_is_told_and_tried_again(host: Inside, keeper: HostKeeper, clock: Clock) -> None:
    policy = HostPolicy("eth9", {V4: 60})
    with pytest.raises(Exception, match="eth9"):
        host(keeper.keep, policy)
    assert "something to restore" in repr(keeper)
    host(shell, "ip link set eth0 down")
    host(shell, "ip link set eth0 name eth9")
    clock.now += 1
    host(keeper.keep, policy)
    assert host(vips_on_loopback).ours == {V4}
