"""Two hosts of one segment hold the same VIPs on `lo`: neither answers for them, nor claims them, on the wire."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from ipaddress import ip_network
from os import getpid
from typing import Any, TypeVar

import pytest
from pyroute2 import netns

from l4.host_policy import HostPolicy, carry_out, look_at_host, plan
from l4.interface_addresses import Network
from tests.l4.edge import eventually

T = TypeVar("T")

pytestmark = pytest.mark.kernel

V4: Network = ip_network("203.0.113.10")
V6: Network = ip_network("2001:db8:203::10")
HOLDERS = ("first", "second")
_ETH_P_ALL = 3


def shell(command: str) -> str:
    finished = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert finished.returncode == 0, f"{command}: {finished.stderr}"
    return finished.stdout


class Segment:
    """A bridge with a client and two holders, each in a namespace."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._space("bridge")
        self.within("bridge", "ip link add segment type bridge")
        self.within("bridge", "ip link set segment up")
        for number, host in enumerate(("client", *HOLDERS), start=1):
            self._space(host)
            self.within("bridge", f"ip link add {host} type veth peer name eth0 netns {self.name(host)}")
            self.within("bridge", f"ip link set {host} master segment up")
            self.within(host, "ip link set lo up")
            self.within(host, f"ip address add 198.18.9.{number}/24 dev eth0")
            self.within(host, f"ip address add 2001:db8:9::{number}/64 dev eth0 nodad")
            self.within(host, "ip link set eth0 up")
        # A client that takes the VIPs for neighbours asks for them on the wire.
        self.within("client", f"ip route add {V4} dev eth0")
        self.within("client", f"ip route add {V6} dev eth0")

    def name(self, host: str) -> str:
        return f"segment-{getpid()}-{host}"

    def within(self, host: str, command: str) -> str:
        return shell(f"ip netns exec {self.name(host)} {command}")

    def _space(self, host: str) -> None:
        netns.create(self.name(host))
        self._stack.callback(netns.remove, self.name(host))

    def inside(self, host: str, function: Callable[..., T], *arguments: Any) -> T:
        """Runs a function in a thread that lives in the host's namespace."""
        with ThreadPoolExecutor(1, initializer=netns.setns, initargs=(self.name(host),)) as thread:
            return thread.submit(function, *arguments).result()

    def hold_vips(self) -> None:
        policy = HostPolicy("eth0", {V4: None, V6: None})
        for host in HOLDERS:
            self.inside(host, lambda: carry_out(plan(policy, look_at_host(policy)).changes))

    def who_answers(self, address: str) -> list[str]:
        """Ethernet addresses that the client learns for the address when it sends there."""
        self.inside("client", send, address)

        def settled() -> str:
            told = self.within("client", f"ip neigh show to {address} dev eth0")
            return told if "lladdr" in told or "FAILED" in told else ""

        told = eventually(settled, f"the client knows who has {address}, or that nobody has")
        return [line.split("lladdr ")[1].split()[0] for line in told.splitlines() if "lladdr" in line]


def send(to: str, source: str | None = None) -> None:
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        if source is not None:
            sender.bind((source, 0))
        sender.sendto(b"anybody there?", (to, 9))


@pytest.fixture
def segment() -> Iterator[Segment]:
    with ExitStack() as stack:
        yield Segment(stack)


def test_no_holder_answers_for_a_vip_in_either_family(segment: Segment) -> None:
    segment.hold_vips()
    assert segment.who_answers(str(V4.network_address)) == []
    assert segment.who_answers(str(V6.network_address)) == []
    # The hosts' own addresses are answered: the segment carries ARP and neighbour discovery.
    assert len(segment.who_answers("198.18.9.2")) == 1
    assert len(segment.who_answers("2001:db8:9::2")) == 1


def test_without_the_policy_arp_is_answered_and_neighbour_discovery_is_not(segment: Segment) -> None:
    """Why IPv4 takes settings, and IPv6 none."""
    segment.hold_vips()
    for host in HOLDERS:
        segment.within(host, "sysctl -qw net.ipv4.conf.all.arp_ignore=0")
    assert len(segment.who_answers(str(V4.network_address))) == 1
    assert segment.who_answers(str(V6.network_address)) == []


def test_a_holder_that_sends_from_a_vip_asks_for_neighbours_in_its_own_name(segment: Segment) -> None:
    segment.hold_vips()
    with segment.inside("client", listen) as listener:
        for vip, target in ((V4, "198.18.9.77"), (V6, "2001:db8:9::77")):
            segment.inside("first", send, target, str(vip.network_address))
        frames = list(frames_until_both_asked(listener))
    questions, solicitations = [*filter(is_arp, frames)], [*filter(is_solicitation, frames)]
    assert not [frame for frame in questions if frame[28:32] == V4.network_address.packed]
    assert not [frame for frame in solicitations if frame[22:38] == V6.network_address.packed]


def listen() -> socket.socket:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))


def frames_until_both_asked(listener: socket.socket) -> Iterator[bytes]:
    """Those that the segment carries, until somebody asked for the targets in both families."""
    listener.settimeout(30)
    arp = solicitation = False
    while not (arp and solicitation):
        frame = listener.recv(2048)
        arp |= is_arp(frame) and frame[38:42] == bytes([198, 18, 9, 77])
        solicitation |= is_solicitation(frame) and frame[62:78] == ip_network("2001:db8:9::77").network_address.packed
        yield frame


def is_arp(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x06"


def is_solicitation(frame: bytes) -> bool:
    return frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 135
