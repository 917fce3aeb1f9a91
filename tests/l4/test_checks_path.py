"""The way to fellow members, over a real wire whose other end is a namespace of its own."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from pyroute2 import IPRoute, netns

from l4.checks import tunnel
from l4.checks.echo import Echo, answered
from orchestrator.contract.checkup import CheckResult, Severity
from orchestrator.contract.pool import Member, MemberState
from orchestrator.contract.report import MemberProbe, ProbeVerdict
from tests.l4.checkups import (
    L4_ADDRESS,
    MEMBERS,
    THERE,
    balancer,
    balancer_snapshot,
    balancer_status,
    make_uplink,
    redirector,
    seen,
)

pytestmark = pytest.mark.kernel

Inside = Callable[..., Any]
FAR = f"l4-far-test-{os.getpid()}"


@pytest.fixture
def fellow(inside: Inside) -> Iterator[Callable[..., Any]]:
    """Runs in the fellow's namespace, at the other end of the wire: 198.18.2.12."""
    netns.create(FAR)
    try:
        inside(make_uplink)
        inside(_move_far_end)
        with ThreadPoolExecutor(1, initializer=netns.setns, initargs=(FAR,)) as thread:

            def run(function: Callable[..., Any], *arguments: Any) -> Any:
                return thread.submit(function, *arguments).result()

            run(_address_far_end)
            yield run
    finally:
        netns.remove(FAR)


def _move_far_end() -> None:
    with IPRoute() as netlink:
        netlink.link("set", index=netlink.link_lookup(ifname="far")[0], net_ns_fd=FAR)
        netlink.addr("add", index=netlink.link_lookup(ifname="eth0")[0], address=str(L4_ADDRESS), prefixlen=24)


def _address_far_end() -> None:
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname="far")[0]
        netlink.link("set", index=index, state="up")
        netlink.addr("add", index=index, address=str(THERE), prefixlen=24)


def set_mtu(interface: str, mtu: int) -> None:
    with IPRoute() as netlink:
        netlink.link("set", index=netlink.link_lookup(ifname=interface)[0], mtu=mtu)


def test_a_fellow_who_answers_full_sized_packets_is_fine(inside: Inside, fellow: Inside) -> None:
    found = inside(seen, tunnel.look, redirector())
    assert found["tunnel"].severity is Severity.OK
    assert found["path_mtu"].seen == "1500 octets reach 1 members"


def test_a_path_that_loses_full_sized_packets_is_named_with_what_fits(inside: Inside, fellow: Inside) -> None:
    fellow(set_mtu, "far", 1400)
    found: CheckResult = inside(seen, tunnel.look, redirector())["path_mtu"]
    assert found.severity is Severity.FAILURE
    assert found.seen == "proxy-2 (198.18.2.12) answers packets of 1400 octets, and none of 1500"


def test_a_jumbo_interface_is_asked_for_what_clients_send_and_no_more(inside: Inside, fellow: Inside) -> None:
    inside(set_mtu, "eth0", 9000)
    fellow(set_mtu, "far", 1544)
    assert inside(seen, tunnel.look, redirector())["path_mtu"].seen == "1544 octets reach 1 members"


def test_echoes_tell_apart_who_answers_and_what_cannot_be_sent(inside: Inside, fellow: Inside) -> None:
    there, nobody = Echo(THERE), Echo(MEMBERS[0].address.__class__("198.18.2.77"))
    too_large = Echo(THERE, 1501)
    assert inside(answered, [there, nobody, too_large, Echo(THERE, 1500)], ()) == {there, Echo(THERE, 1500)}


def probed(verdict: ProbeVerdict, detail: str) -> dict[int, MemberProbe]:
    return {2: MemberProbe(verdict=verdict, detail=detail, since_s=1.0)}


def test_a_member_whose_tunnel_is_dead_while_its_host_answers_is_told_from_a_dead_host(
    inside: Inside, fellow: Inside
) -> None:
    status = balancer_status(probed(ProbeVerdict.UNREACHABLE, "no answer within 200 ms"))
    found: CheckResult = inside(seen, tunnel.look, balancer(status=status))["tunnel"]
    assert found.severity is Severity.FAILURE
    assert found.seen == (
        "proxy-2 (198.18.2.12) answers pings, and nothing through the tunnel: no answer within 200 ms"
    )
    assert "UDP to port 6080" in found.expected
    assert "between 198.18.2.9 and 198.18.2.12" in (found.advice or "")
    fellow(lambda: IPRoute().link("set", index=IPRoute().link_lookup(ifname="far")[0], state="down"))
    found = inside(seen, tunnel.look, balancer(status=status))["tunnel"]
    assert "answers neither pings nor probes" in found.seen


def test_a_member_that_does_not_serve_is_a_warning_and_one_that_does_is_fine(inside: Inside, fellow: Inside) -> None:
    status = balancer_status(probed(ProbeVerdict.UNHEALTHY, "connection refused"))
    found: CheckResult = inside(seen, tunnel.look, balancer(status=status))["tunnel"]
    assert (found.severity, "connection refused" in found.seen) == (Severity.WARNING, True)
    status = balancer_status(probed(ProbeVerdict.HEALTHY, "connected in 1 ms"))
    assert inside(seen, tunnel.look, balancer(status=status))["tunnel"].severity is Severity.OK


def test_a_drained_member_may_be_gone(inside: Inside, fellow: Inside) -> None:
    gone = replace_member(state=MemberState.DRAINED)
    status = balancer_status(probed(ProbeVerdict.UNREACHABLE, "no answer"))
    subject = balancer(status=status, snapshot=balancer_snapshot(gone))
    assert inside(seen, tunnel.look, subject) == {}


def test_nobody_is_blamed_where_pings_are_filtered(inside: Inside, fellow: Inside) -> None:
    silent = replace_member(id=3, address="198.18.2.77")
    assert inside(seen, tunnel.look, balancer(snapshot=balancer_snapshot(silent)))["tunnel"].severity is (
        Severity.UNKNOWN
    )
    both = balancer(snapshot=balancer_snapshot(MEMBERS[1], silent))
    assert inside(seen, tunnel.look, both)["tunnel"].severity is Severity.WARNING, "others answer"
    assert replace(both, snapshot=None).snapshot is None
    assert inside(seen, tunnel.look, replace(both, snapshot=None)) == {}


def replace_member(**changes: Any) -> Member:
    return Member.model_validate(MEMBERS[1].model_dump() | changes)
