"""QUIC: packets whose connection id names a member go there, wherever their client is now."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from l4.balancer_program import BalancerProgram
from l4.entries import PROTOCOL_UDP
from tests.bpf.balancing import Judgement, address_of, datagram, judge, members, one_owner
from tests.bpf.packets import FLOWS, Address, Ends, framed, host_vip, node_settings

pytestmark = pytest.mark.kernel

SLOT = 2
BY_ROW, NAMED, DEAD = 11, 0x0102, 33
SHORT, LONG = 0x40, 0xC0
MOVED: dict[str, Address] = {"ipv4": IPv4Address("192.0.2.77"), "ipv6": IPv6Address("2001:db8:77::1")}
BY_SERVER_ID = {"quic_by_server_id": 1, "forwarded": 1}


@pytest.fixture(autouse=True)
def _state(balancer: BalancerProgram) -> None:
    balancer.set_settings(node_settings(balancer.rows))
    balancer.set_members([*members(BY_ROW, NAMED), *members(DEAD, live=False)])
    one_owner(balancer, SLOT, BY_ROW)
    serve(balancer, quic=True)
    balancer.set_quic_servers({(SLOT, NAMED): NAMED, (SLOT, DEAD): DEAD, (SLOT + 1, 99): NAMED})


def serve(balancer: BalancerProgram, *, quic: bool, flow_table: bool = False) -> None:
    balancer.set_vips(
        [
            host_vip(ends.vip, 443, number, SLOT, protocol=PROTOCOL_UDP, quic=quic, flow_table=flow_table)
            for number, ends in enumerate(FLOWS.values(), 1)
        ]
    )


def sent(balancer: BalancerProgram, ends: Ends, payload: bytes) -> Judgement:
    return judge(balancer, framed(datagram(ends, payload)))


def short(server: int, rotation: int = 0) -> bytes:
    """A short header: flags, and a connection id of 8 octets that begins with rotation and server id."""
    return bytes([SHORT, rotation << 5 | 7]) + server.to_bytes(2, "big") + bytes(range(5)) + b"protected"


@pytest.mark.parametrize("rotation", range(7))
@pytest.mark.parametrize("family", FLOWS)
def test_named_member_is_found_whatever_address_the_client_has_moved_to(
    balancer: BalancerProgram, family: str, rotation: int
) -> None:
    for ends in (FLOWS[family], replace(FLOWS[family], client=MOVED[family], client_port=9)):
        judgement = sent(balancer, ends, short(NAMED, rotation))
        assert (judgement.owner, judgement.counted) == (NAMED, BY_SERVER_ID)
        assert judgement.frame[58:] == bytes(datagram(ends, short(NAMED, rotation)))


def test_named_member_is_found_although_the_flow_table_knows_another(balancer: BalancerProgram) -> None:
    serve(balancer, quic=True, flow_table=True)
    assert sent(balancer, FLOWS["ipv4"], bytes([LONG]) + bytes(40)).owner == BY_ROW
    assert sent(balancer, FLOWS["ipv4"], short(NAMED)).owner == NAMED


@pytest.mark.parametrize("family", FLOWS)
@pytest.mark.parametrize(
    ("payload", "counted"),
    [
        pytest.param(short(4242), {"quic_unknown_server": 1}, id="unknown server id"),
        pytest.param(short(99), {"quic_unknown_server": 1}, id="server id of another pool"),
        pytest.param(short(NAMED, rotation=7), {}, id="unroutable connection id"),
        pytest.param(bytes([LONG]) + short(NAMED)[1:], {}, id="long header"),
        pytest.param(short(DEAD), {}, id="member that is not live"),
        pytest.param(short(NAMED)[:3], {}, id="cut off within the server id"),
        pytest.param(b"", {}, id="empty"),
    ],
)
def test_others_go_by_their_row(
    balancer: BalancerProgram, family: str, payload: bytes, counted: dict[str, int]
) -> None:
    judgement = sent(balancer, FLOWS[family], payload)
    assert (judgement.owner, judgement.counted) == (BY_ROW, {"forwarded": 1, **counted})


def test_octets_past_the_datagram_name_nobody(balancer: BalancerProgram) -> None:
    packet = datagram(FLOWS["ipv4"], short(NAMED))
    packet["UDP"].len = 8 + 3
    judgement = judge(balancer, framed(packet))
    assert (judgement.owner, judgement.counted) == (BY_ROW, {"forwarded": 1})


def test_vips_that_do_not_speak_quic_are_not_searched_for_it(balancer: BalancerProgram) -> None:
    serve(balancer, quic=False)
    assert sent(balancer, FLOWS["ipv4"], short(NAMED)).owner == BY_ROW


def test_member_that_left_is_no_longer_found(balancer: BalancerProgram) -> None:
    balancer.set_quic_servers({})
    judgement = sent(balancer, FLOWS["ipv4"], short(NAMED))
    assert (judgement.owner, judgement.counted) == (BY_ROW, {"quic_unknown_server": 1, "forwarded": 1})
    assert address_of(BY_ROW).packed in judgement.frame
