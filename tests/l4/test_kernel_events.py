"""What the kernel tells of is told apart: what an agent looks after, and all else."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyroute2.netlink import NETLINK_ADD_MEMBERSHIP, SOL_NETLINK

from l4.kernel_events import GROUPS, Heard, what_was_heard
from tests.l4.test_direct_return import make_uplink

pytestmark = pytest.mark.kernel

Inside = Callable[..., Any]

EVENTS = {
    "ip address add 203.0.113.10/32 dev lo": Heard.HOST,
    "ip address add 2001:db8:203::10/128 dev lo": Heard.HOST,
    "ip -6 route add local 2001:db8:203::/64 dev lo table local": Heard.HOST,
    "ip link set lo down": Heard.HOST,
    "ip route change default via 198.18.2.1 advmss 1400": Heard.HOST,
    "sysctl -qw net.ipv4.conf.all.rp_filter=1": Heard.HOST,
    "ip link set eth0 mtu 1400": Heard.HOST | Heard.INTERFACE,
    "ip link set eth0 address 02:ed:9e:00:00:01": Heard.HOST | Heard.INTERFACE,
    "ip link set far mtu 1400": Heard.NOTHING,
    "ip link add other type veth peer name another": Heard.NOTHING,
    "ip route add 192.0.2.0/24 via 198.18.2.1": Heard.NOTHING,
    "ip route add default via 198.18.2.1 table 77": Heard.NOTHING,
}


@pytest.fixture
def subscription(inside: Inside) -> Iterator[socket.socket]:
    inside(make_uplink)

    def subscribe() -> socket.socket:
        channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        channel.bind((0, 0))
        for group in GROUPS:
            channel.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        channel.settimeout(0.2)
        return channel

    with inside(subscribe) as channel:
        everything_heard(channel, 0)  # of links that are just coming up
        yield channel


def everything_heard(channel: socket.socket, interface: int) -> Heard:
    """Until the kernel is silent."""
    heard = Heard.NOTHING
    try:
        while True:
            heard |= what_was_heard(channel.recv(256 * 1024), interface)
    except TimeoutError:
        return heard


@pytest.mark.parametrize("command", EVENTS)
def test_what_an_agent_looks_after_is_heard_and_nothing_else(
    inside: Inside, subscription: socket.socket, command: str
) -> None:
    interface = inside(socket.if_nametoindex, "eth0")
    inside(subprocess.run, command.split(), check=True)
    assert everything_heard(subscription, interface) == EVENTS[command]


def test_octets_that_are_cut_off_are_no_event() -> None:
    for octets in (b"", bytes(15), bytes(16), b"\xff" * 16):
        assert what_was_heard(octets, 2) is Heard.NOTHING
