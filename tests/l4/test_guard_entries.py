"""What a snapshot's guard becomes on an L4 node."""

from ipaddress import ip_network

from l4.guard import RateLimit, VipLimits
from l4.guard_entries import guard_entries
from l4.guard_lists import Listing
from orchestrator.contract import guard as contract
from orchestrator.contract.guard import Guard, GuardLimits, GuardLists
from tests.l4.edge import VIPS

RATE = contract.RateLimit(per_second=5, burst=7)


def test_lists_and_limits_are_those_of_the_snapshot() -> None:
    block, allow, both = map(ip_network, ("192.0.2.0/24", "2001:db8:66::/48", "192.0.2.7/32"))
    guard = Guard(
        lists=GuardLists(block=(block, both), allow=(allow, both)),
        limits=GuardLimits(source=None, vip=RATE, new_flows=RATE, vips={"web-v6": None, "gone": RATE}),
    )
    entries = guard_entries(guard, VIPS)
    assert entries.listed == {block: Listing.BLOCKED, allow: Listing.ALLOWED, both: Listing.ALLOWED}
    assert entries.families == {4, 6}
    assert entries.limits == VipLimits(source=None, vip=RateLimit(5, 7), node=RateLimit(5, 7))
    assert entries.limits_of_vip == {2: VipLimits(source=None, vip=None, node=RateLimit(5, 7))}


def test_an_empty_list_is_of_no_family() -> None:
    assert guard_entries(Guard(), VIPS).families == frozenset()
