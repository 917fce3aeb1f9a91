"""What the redirector notes of a flow's first packet, for the proxy to ask at accept."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from l4.bpf_map import Map
from l4.ingress import IngressMap, IngressUnavailable
from l4.pins import pin_path
from l4.redirector_program import RedirectorProgram
from tests.bpf.open_flows import FlowState, add_addresses, flow_in
from tests.bpf.packets import FLOWS, Ends, inner_packet
from tests.bpf.redirecting import judge, prepare
from tests.bpf.tunnel_frames import L4_NODE, UNDERLAYS, Kind, Tunnel

pytestmark = pytest.mark.kernel

TUNNEL = Tunnel.to_here(UNDERLAYS["over-ipv4"])
OTHER_NODE = 0x0304


@pytest.fixture(scope="module", autouse=True)
def _host(redirector: RedirectorProgram) -> None:
    add_addresses()
    prepare(redirector)


@pytest.fixture
def view(redirector: RedirectorProgram, bpffs: Path) -> Iterator[IngressMap]:
    opened = IngressMap.open(bpffs)
    yield opened
    opened.close()


def syn_frame(ends: Ends, tunnel: Tunnel = TUNNEL, *, sequence: int = 1, node_id: int = L4_NODE) -> bytes:
    packet = inner_packet(ends, "S")
    packet["TCP"].seq = sequence
    frame = bytearray(tunnel.arriving(packet))
    if tunnel.kind is Kind.GUE:
        place = frame.index(L4_NODE.to_bytes(2, "big"), 46)
        frame[place : place + 2] = node_id.to_bytes(2, "big")
    return bytes(frame)


def forget_all(bpffs: Path) -> None:
    with Map.pinned(pin_path(bpffs, "redirector", "ingress")) as ingress:
        for key in list(ingress.keys()):
            ingress.delete(key)


@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("family", FLOWS)
def test_syn_tells_the_proxy_which_node_brought_it_and_when(
    redirector: RedirectorProgram, view: IngressMap, family: str, over: str
) -> None:
    ends = replace(FLOWS[family], client_port=50001 if over == "over-ipv4" else 50002)
    assert view.lookup(ends.client, ends.client_port, ends.vip, ends.vip_port) is None
    earliest = time.monotonic_ns()
    judge(redirector, syn_frame(ends, Tunnel.to_here(UNDERLAYS[over])))
    for form in (str, lambda address: address, lambda address: address.packed):
        record = view.lookup(form(ends.client), ends.client_port, form(ends.vip), ends.vip_port)
        assert record is not None
        assert record.node_id == L4_NODE
        assert earliest <= record.arrived_ns <= time.monotonic_ns()


def test_syn_sent_again_leaves_the_first_ones_record_and_a_new_flow_does_not(
    redirector: RedirectorProgram, view: IngressMap
) -> None:
    ends = replace(FLOWS["ipv4"], client_port=50003)
    judge(redirector, syn_frame(ends, sequence=7))
    first = view.lookup(ends.client, ends.client_port, ends.vip, ends.vip_port)
    judge(redirector, syn_frame(ends, sequence=7, node_id=OTHER_NODE))
    assert view.lookup(ends.client, ends.client_port, ends.vip, ends.vip_port) == first
    judge(redirector, syn_frame(ends, sequence=8, node_id=OTHER_NODE))
    anew = view.lookup(ends.client, ends.client_port, ends.vip, ends.vip_port)
    assert first
    assert anew
    assert anew.node_id == OTHER_NODE
    assert anew.arrived_ns > first.arrived_ns


def test_ip_in_ip_names_no_node(redirector: RedirectorProgram, view: IngressMap) -> None:
    ends = replace(FLOWS["ipv6"], client_port=50004)
    judge(redirector, syn_frame(ends, replace(TUNNEL, kind=Kind.IPIP)))
    record = view.lookup(ends.client, ends.client_port, ends.vip, ends.vip_port)
    assert record
    assert record.node_id == 0


@pytest.mark.parametrize("family", FLOWS)
@pytest.mark.parametrize("state", [FlowState.SYN_RECEIVED, FlowState.COOKIE])
def test_end_of_a_handshake_is_noted_if_a_flood_pushed_its_syn_out(
    redirector: RedirectorProgram, view: IngressMap, bpffs: Path, family: str, state: FlowState
) -> None:
    """Otherwise the flows that get through a flood would be those of which nobody knows whence they came."""
    with flow_in(state, family) as flow:
        ends = flow.ends
        where = (ends.client, ends.client_port, ends.vip, ends.vip_port)
        judge(redirector, syn_frame(ends, node_id=OTHER_NODE))
        first = view.lookup(*where)
        judge(redirector, TUNNEL.arriving(flow.packet))
        assert view.lookup(*where) == first, "its SYN says more"
        forget_all(bpffs)
        assert view.lookup(*where) is None
        judge(redirector, TUNNEL.arriving(flow.packet))
        noted = view.lookup(*where)
        assert noted
        assert noted.node_id == L4_NODE


def test_packet_of_an_established_flow_is_not_noted(redirector: RedirectorProgram, view: IngressMap) -> None:
    with flow_in(FlowState.ESTABLISHED, "ipv4") as flow:
        judge(redirector, TUNNEL.arriving(flow.packet))
        ends = flow.ends
        assert view.lookup(ends.client, ends.client_port, ends.vip, ends.vip_port) is None


def test_proxy_may_read_the_map_and_not_write_it(redirector: RedirectorProgram, view: IngressMap) -> None:
    with pytest.raises(PermissionError):
        view._map.update(bytes(40), bytes(16))


def test_ingress_is_unavailable_where_no_redirector_ran(tmp_path: Path) -> None:
    with pytest.raises(IngressUnavailable, match="is a redirector running"):
        IngressMap.open(tmp_path)
