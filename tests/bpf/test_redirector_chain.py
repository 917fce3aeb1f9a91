"""Second chances: whom the chain leads to, and where it ends."""

from dataclasses import replace

import pytest

from l4.entries import MemberEntry
from l4.redirector_program import RedirectorProgram
from tests.bpf.packets import FLOWS, inner_packet
from tests.bpf.program_run import Verdict
from tests.bpf.redirecting import OWNERS, judge, members_on, prepare
from tests.bpf.tunnel_frames import UNDERLAYS, Tunnel

pytestmark = pytest.mark.kernel

INNER = inner_packet(FLOWS["ipv4"], "A", b"of a flow that is not here")
OTHER = {"over-ipv4": "over-ipv6", "over-ipv6": "over-ipv4"}


@pytest.fixture(scope="module", autouse=True)
def _host(redirector: RedirectorProgram) -> None:
    prepare(redirector)


@pytest.mark.parametrize("over", UNDERLAYS)
def test_owners_unknown_or_unreachable_are_skipped_and_counted(redirector: RedirectorProgram, over: str) -> None:
    underlay = UNDERLAYS[over]
    redirector.set_members([*members_on(underlay, 33, live=False), *members_on(underlay, 44)])
    tunnel = Tunnel.to_here(underlay)
    assert judge(redirector, tunnel.arriving(INNER)) == (
        Verdict.TX,
        tunnel.passed_on(underlay.here, underlay.member(44), 3).leaving(INNER),
        {"member_unknown": 1, "owner_not_live": 1, "second_chance": 1},
    )


@pytest.mark.parametrize("over", UNDERLAYS)
def test_owner_whose_address_has_another_family_is_skipped_and_counted(
    redirector: RedirectorProgram, over: str
) -> None:
    underlay, other = UNDERLAYS[over], UNDERLAYS[OTHER[over]]
    redirector.set_members([*members_on(other, 22), *members_on(underlay, 33)])
    tunnel = replace(Tunnel.to_here(underlay), hops=(22, 33))
    assert judge(redirector, tunnel.arriving(INNER)) == (
        Verdict.TX,
        tunnel.passed_on(underlay.here, underlay.member(33), 2).leaving(INNER),
        {"owner_of_other_family": 1, "second_chance": 1},
    )


@pytest.mark.parametrize("over", UNDERLAYS)
def test_chain_of_which_nobody_can_be_reached_ends_here(redirector: RedirectorProgram, over: str) -> None:
    redirector.set_members([*members_on(UNDERLAYS[OTHER[over]], 22), *members_on(UNDERLAYS[over], 33, live=False)])
    tunnel = Tunnel.to_here(UNDERLAYS[over])
    assert judge(redirector, tunnel.arriving(INNER)) == (
        Verdict.PASS,
        tunnel.handed_up(INNER),
        {"owner_of_other_family": 1, "owner_not_live": 1, "member_unknown": 1, "chain_spent": 1},
    )


@pytest.mark.parametrize("over", UNDERLAYS)
def test_owners_before_the_next_hop_and_behind_the_count_are_not_asked(
    redirector: RedirectorProgram, over: str
) -> None:
    underlay = UNDERLAYS[over]
    redirector.set_members(members_on(underlay, *OWNERS))
    tunnel = replace(Tunnel.to_here(underlay), next_hop=1)
    assert judge(redirector, tunnel.arriving(INNER))[1] == tunnel.passed_on(
        underlay.here, underlay.member(33), 2
    ).leaving(INNER)
    redirector.set_members(members_on(underlay, 22, 33))
    spent = replace(tunnel, next_hop=2)
    assert judge(redirector, spent.arriving(INNER))[::2] == (Verdict.PASS, {"member_unknown": 1, "chain_spent": 1})


@pytest.mark.parametrize("over", UNDERLAYS)
def test_packet_may_not_travel_for_ever(redirector: RedirectorProgram, over: str) -> None:
    redirector.set_members(members_on(UNDERLAYS[over], *OWNERS))
    tunnel = Tunnel.to_here(UNDERLAYS[over])
    for ttl, outcome in (
        (0, (Verdict.DROP, {"ttl_expired": 1})),
        (1, (Verdict.DROP, {"ttl_expired": 1})),
        (2, (Verdict.TX, {"second_chance": 1})),
    ):
        assert judge(redirector, replace(tunnel, ttl=ttl).arriving(INNER))[::2] == outcome
    last = replace(tunnel, ttl=1, hops=())
    assert judge(redirector, last.arriving(INNER))[::2] == (Verdict.PASS, {"chain_spent": 1}), "here it has arrived"


@pytest.mark.parametrize("over", UNDERLAYS)
def test_checksum_over_the_old_addresses_does_not_travel_on(redirector: RedirectorProgram, over: str) -> None:
    underlay = UNDERLAYS[over]
    redirector.set_members(members_on(underlay, 22))
    tunnel = Tunnel.to_here(underlay)
    checksummed = tunnel.packet(INNER)
    checksummed["UDP"].chksum = 0xBEEF
    frame = tunnel.arriving(INNER)
    frame = frame[: len(frame) - len(checksummed)] + bytes(checksummed)
    passed_on = tunnel.passed_on(underlay.here, underlay.member(22), 1)
    assert judge(redirector, frame)[:2] == (Verdict.TX, passed_on.leaving(INNER))


def test_last_member_id_is_as_good_as_the_first(redirector: RedirectorProgram) -> None:
    underlay = UNDERLAYS["over-ipv4"]
    redirector.set_members([MemberEntry(65535, underlay.member(50), live=True)])
    tunnel = replace(Tunnel.to_here(underlay), hops=(65535,))
    assert judge(redirector, tunnel.arriving(INNER))[0] is Verdict.TX
