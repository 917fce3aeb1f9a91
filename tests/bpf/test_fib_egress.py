"""The way out by the kernel's own routes and neighbours: real interfaces, whole frames, every refusal by its name."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from l4.attachment import XdpMode
from l4.balancer_program import BalancerProgram
from l4.entries import EncapsulationKind
from l4.program_run import run_once
from tests.bpf.answer_limits import unlimited
from tests.bpf.conftest import ip
from tests.bpf.packets import FLOWS, NODE_MAC, framed, inner_packet
from tests.bpf.program_run import Verdict
from tests.bpf.sending import MEMBER, MEMBER_MAC, feed
from tests.bpf.test_encapsulations import expected
from tests.bpf.tunnel_frames import TAGGINGS, UNDERLAYS, in_frame
from tests.bpf.veth import NODE

pytestmark = pytest.mark.kernel

OTHER, FAR = "other0", "far0"
OTHER_MAC = "02:00:00:00:00:0e"
GATEWAY_MAC = "02:00:00:00:00:99"
GATEWAYS = {"over-ipv4": "198.18.9.1", "over-ipv6": "2001:db8:9::1"}
OWN = {"over-ipv4": "198.18.9.2/24", "over-ipv6": "2001:db8:9::2/64"}
NETWORKS = {"over-ipv4": "198.18.2.0/24", "over-ipv6": "2001:db8:2::/64"}
KINDS = [EncapsulationKind.GUE, EncapsulationKind.IPIP]


def forwarding(underlay: str, enabled: bool) -> None:
    family = "ipv4" if underlay == "over-ipv4" else "ipv6"
    Path(f"/proc/sys/net/{family}/conf/{NODE}/forwarding").write_text(str(int(enabled)))


@pytest.fixture
def node(pair: None, balancer: BalancerProgram) -> Iterator[int]:
    """The index of the node's interface, which forwards. A second interface leads to gateways."""
    ip(f"link add {OTHER} address {OTHER_MAC} type veth peer name {FAR}")
    for name in (OTHER, FAR):
        ip(f"link set {name} up")
    for underlay, own in OWN.items():
        ip(f"address add {own} dev {OTHER} {'nodad' if ':' in own else ''}")
        ip(f"neighbor replace {GATEWAYS[underlay]} lladdr {GATEWAY_MAC} dev {OTHER} nud permanent")
        forwarding(underlay, True)
    balancer.attach(NODE, XdpMode.NATIVE)
    unlimited(balancer)
    with IPRoute() as netlink:
        yield netlink.link_lookup(ifname=NODE)[0]
    balancer.detach(NODE)
    ip(f"link del {OTHER}")


def outcome_on(balancer: BalancerProgram, node: int, frame: bytes) -> tuple[Verdict, bytes, dict[str, int]]:
    before = balancer.counters()
    run = run_once(balancer.descriptor, frame, node)
    after = balancer.counters()
    return (
        Verdict(run.verdict),
        run.frame,
        {name: after[name] - before[name] for name in after if after[name] != before[name]},
    )


def addressed(frame: bytes, source: str, destination: str) -> bytes:
    macs = (bytes.fromhex(mac.replace(":", "")) for mac in (destination, source))
    return b"".join(macs) + frame[12:]


@pytest.mark.parametrize("tagging", TAGGINGS)
@pytest.mark.parametrize("underlay", UNDERLAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_neighbour_on_the_same_interface(
    balancer: BalancerProgram, node: int, kind: EncapsulationKind, underlay: str, tagging: str
) -> None:
    addresses = feed(balancer, kind, underlay, fib=True)
    ip(f"route replace {NETWORKS[underlay]} dev {NODE}")
    ip(f"neighbor replace {addresses.member(MEMBER)} lladdr {MEMBER_MAC} dev {NODE} nud permanent")
    inner, tags = inner_packet(FLOWS["ipv4"], "A"), TAGGINGS[tagging]
    verdict, frame, counted = outcome_on(balancer, node, in_frame(bytes(inner), tags))
    assert (verdict, counted) == (Verdict.TX, {"forwarded": 1})
    wanted = expected(kind, addresses, tags, inner, FLOWS["ipv4"].hash())
    assert frame == addressed(wanted, NODE_MAC, MEMBER_MAC)


@pytest.mark.parametrize("underlay", UNDERLAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_gateway_on_another_interface(
    balancer: BalancerProgram, node: int, kind: EncapsulationKind, underlay: str
) -> None:
    addresses = feed(balancer, kind, underlay, fib=True)
    ip(f"route replace {NETWORKS[underlay]} via {GATEWAYS[underlay]} dev {OTHER}")
    inner = inner_packet(FLOWS["ipv6"], "PA", b"x" * 99)
    verdict, frame, counted = outcome_on(balancer, node, framed(inner))
    assert (verdict, counted) == (Verdict.REDIRECT, {"forwarded": 1})
    wanted = expected(kind, addresses, (), inner, FLOWS["ipv6"].hash())
    assert frame == addressed(wanted, OTHER_MAC, GATEWAY_MAC)


def test_l2_rewrite_does_not_ask(balancer: BalancerProgram, node: int) -> None:
    addresses = feed(balancer, EncapsulationKind.L2, "over-ipv4", fib=True)
    ip(f"route replace blackhole {NETWORKS['over-ipv4']}")
    inner = inner_packet(FLOWS["ipv4"], "A")
    verdict, frame, _ = outcome_on(balancer, node, framed(inner))
    assert verdict is Verdict.TX
    assert frame == expected(EncapsulationKind.L2, addresses, (), inner, 0)
    ip(f"route del blackhole {NETWORKS['over-ipv4']}")


@pytest.mark.parametrize("underlay", UNDERLAYS)
def test_mtu_is_that_of_the_route_and_the_client_is_told(balancer: BalancerProgram, node: int, underlay: str) -> None:
    feed(balancer, EncapsulationKind.IPIP, underlay, fib=True)
    ip(f"route replace {NETWORKS[underlay]} via {GATEWAYS[underlay]} dev {OTHER} mtu lock 1400")
    overhead = 20 if underlay == "over-ipv4" else 40
    headers = len(inner_packet(FLOWS["ipv4"], "A"))
    fits = inner_packet(FLOWS["ipv4"], "A", bytes(1400 - overhead - headers))
    assert outcome_on(balancer, node, framed(fits))[2] == {"forwarded": 1}
    large = inner_packet(FLOWS["ipv4"], "A", bytes(1400 - overhead - headers + 1))
    verdict, frame, counted = outcome_on(balancer, node, framed(large))
    assert (verdict, counted) == (Verdict.TX, {"packet_too_big": 1, "too_big_answered": 1})
    assert frame[40:42] == (1400 - overhead).to_bytes(2, "big")


REFUSALS = {
    "blackhole": ("route replace blackhole {network}", {"fib_blackhole"}),
    "unreachable": ("route replace unreachable {network}", {"fib_unreachable"}),
    "prohibit": ("route replace prohibit {network}", {"fib_prohibited"}),
    "no neighbour": ("route replace {network} dev {other}", {"fib_no_neighbour"}),
    "own address": ("address add {member} dev {other}{nodad}", {"fib_not_forwarded"}),
    "no route": ("route flush {network}", {"fib_not_forwarded"}),
}


@pytest.mark.parametrize("underlay", UNDERLAYS)
@pytest.mark.parametrize("case", REFUSALS)
def test_refusal_is_counted_by_its_name(balancer: BalancerProgram, node: int, case: str, underlay: str) -> None:
    addresses = feed(balancer, EncapsulationKind.GUE, underlay, fib=True)
    command, names = REFUSALS[case]
    version = "-6" if underlay == "over-ipv6" else "-4"
    network, member = NETWORKS[underlay], addresses.member(MEMBER)
    nodad = " nodad" if underlay == "over-ipv6" else ""
    subprocess.run(["ip", version, "route", "flush", network], check=False)
    ip(f"{version} " + command.format(network=network, other=OTHER, member=member, nodad=nodad))
    verdict, _, counted = outcome_on(balancer, node, framed(inner_packet(FLOWS["ipv4"], "A")))
    subprocess.run(["ip", version, "route", "flush", network], check=False)
    assert verdict is Verdict.DROP
    assert set(counted) <= names, counted
    assert list(counted.values()) == [1]


@pytest.mark.parametrize("underlay", UNDERLAYS)
def test_interface_that_does_not_forward_is_told_apart(balancer: BalancerProgram, node: int, underlay: str) -> None:
    feed(balancer, EncapsulationKind.GUE, underlay, fib=True)
    ip(f"route replace {NETWORKS[underlay]} via {GATEWAYS[underlay]} dev {OTHER}")
    forwarding(underlay, False)
    verdict, _, counted = outcome_on(balancer, node, framed(inner_packet(FLOWS["ipv4"], "A")))
    assert (verdict, counted) == (Verdict.DROP, {"fib_forwarding_disabled": 1})
