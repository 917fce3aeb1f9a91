"""What a host needs on `lo` and around it, as one policy: what is wanted, what is there, and what is to be done.

`plan` is a pure function of the first two and gives a list of changes, each in words; `carry_out` does them. So what a
dry run tells is what would be done.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from l4.announcement import Decision
from l4.direct_return import (
    DefaultRoute,
    Ipv4Settings,
    MssChange,
    SettingChange,
    plan_mss,
    plan_settings,
    read_default_routes,
)
from l4.interface import OVERHEADS, look_up_interface
from l4.interface_addresses import Network
from l4.rtnetlink import Rtnetlink
from l4.vips import Loopback, LoopbackChange, look_at_loopback, plan_loopback
from l4.vips import carry_out as carry_out_on_loopback
from orchestrator.contract.snapshot import BalancerSnapshot, RedirectorSnapshot

Change = LoopbackChange | SettingChange | MssChange


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """What is wanted."""

    interface: str
    """That traffic arrives on."""
    vips: Mapping[Network, int | None] = field(default_factory=dict)
    """On `lo`; for how many seconds unless renewed; None: for ever."""
    takes_clients_packets: bool = False
    """Whether packets that others forwarded are handed up here."""
    takes_own_addresses: bool = False
    """Whether packets from VIPs arrive that are on `lo` as well: answers to probes."""
    overhead: int = 0
    """Octets of the largest encapsulation that clients' packets come here with."""


@dataclass(frozen=True, slots=True)
class HostState:
    """What is there."""

    loopback: Loopback
    settings: Ipv4Settings
    default_routes: tuple[DefaultRoute, ...]
    """Empty if the policy does not ask for an MSS."""
    mtu: int


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What is to be done."""

    changes: tuple[Change, ...]
    """In this order: a host hides VIPs before it holds them."""
    obstacles: tuple[str, ...]
    """What the policy asks for, and no change of ours can bring about."""


def balancer_policy(snapshot: BalancerSnapshot, interface: str, decision: Decision) -> HostPolicy:
    """Of an L4 node that announces what was decided."""
    return HostPolicy(
        interface=interface,
        vips=decision.networks,
        takes_own_addresses=any(pool.probe is not None for pool in snapshot.pools),
    )


def redirector_policy(snapshot: RedirectorSnapshot, interface: str) -> HostPolicy:
    """Of a member's host. Its VIPs have no time: nobody else could serve its flows."""
    return HostPolicy(
        interface=interface,
        vips=dict.fromkeys((vip.network for vip in snapshot.vips), None),
        takes_clients_packets=True,
        overhead=max((OVERHEADS[pool.encapsulation, snapshot.address.version] for pool in snapshot.pools), default=0)
        if snapshot.vips
        else 0,
    )


def look_at_host(policy: HostPolicy) -> HostState:
    """Reads what the policy is about. Raises InterfaceError, DirectReturnError, OSError."""
    with Rtnetlink() as netlink:
        return HostState(
            loopback=look_at_loopback(netlink),
            settings=Ipv4Settings.read(policy.interface),
            default_routes=tuple(read_default_routes()) if policy.overhead else (),
            mtu=look_up_interface(policy.interface).mtu if policy.overhead else 0,
        )


def plan(policy: HostPolicy, present: HostState, *, renews: bool = True) -> HostPlan:
    """What is to be done so that the host is as the policy wants it; with `renews`, so that it stays so."""
    mss, obstacles = plan_mss(present.default_routes, present.mtu, policy.overhead)
    settings = plan_settings(
        policy.interface,
        present.settings,
        takes_clients_packets=policy.takes_clients_packets,
        takes_own_addresses=policy.takes_own_addresses,
    )
    loopback = plan_loopback(policy.vips, present.loopback, renews=renews)
    return HostPlan((*settings, *mss, *loopback), tuple(obstacles))


def carry_out(changes: tuple[Change, ...]) -> None:
    """Does what was planned. Raises DirectReturnError, VipError, OSError."""
    for change in changes:
        if not isinstance(change, LoopbackChange):
            change.carry_out()
    if on_loopback := [change for change in changes if isinstance(change, LoopbackChange)]:
        with Rtnetlink() as netlink:
            carry_out_on_loopback(on_loopback, netlink)
