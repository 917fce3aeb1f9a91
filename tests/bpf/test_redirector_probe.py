"""An L4 node's own connection is taken in like a flow, and not counted as one: drains listen for new flows."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from l4.redirector_program import RedirectorProgram
from tests.bpf.packets import FLOWS, inner_packet
from tests.bpf.program_run import Verdict
from tests.bpf.redirecting import judge, prepare
from tests.bpf.tunnel_frames import UNDERLAYS, Kind, Tunnel

pytestmark = pytest.mark.kernel


@pytest.fixture
def taking(redirector: RedirectorProgram) -> Iterator[RedirectorProgram]:
    """It knows the L4 nodes among those who may write to the tunnel."""
    prepare(redirector)
    nodes = [underlay.node for underlay in UNDERLAYS.values()]
    redirector.set_tunnel_sources([underlay.member(22) for underlay in UNDERLAYS.values()], nodes)
    yield redirector
    prepare(redirector)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("over", UNDERLAYS)
@pytest.mark.parametrize("flow", FLOWS)
def test_a_probe_is_handed_up_and_no_new_flow(taking: RedirectorProgram, flow: str, over: str, kind: Kind) -> None:
    node = UNDERLAYS["over-ipv6" if FLOWS[flow].is_ipv6 else "over-ipv4"].node
    tunnel = replace(Tunnel.to_here(UNDERLAYS[over]), kind=kind)
    probe = inner_packet(replace(FLOWS[flow], client=node), "S")
    assert judge(taking, tunnel.arriving(probe)) == (
        Verdict.PASS,
        tunnel.handed_up(probe),
        {"local_probe": 1},
    )
    assert judge(taking, tunnel.arriving(inner_packet(FLOWS[flow], "S"))).counted == {"local_syn": 1}


@pytest.mark.parametrize("over", UNDERLAYS)
def test_a_member_as_a_client_is_a_client(taking: RedirectorProgram, over: str) -> None:
    flow = FLOWS["ipv4" if over == "over-ipv4" else "ipv6"]
    inner = inner_packet(replace(flow, client=UNDERLAYS[over].member(22)), "S")
    assert judge(taking, Tunnel.to_here(UNDERLAYS[over]).arriving(inner)).counted == {"local_syn": 1}
