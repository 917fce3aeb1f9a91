"""The interface that carries a node's traffic, and what encapsulation takes of its MTU."""

from collections.abc import Mapping
from dataclasses import dataclass

from pyroute2 import IPRoute

from orchestrator.contract.pool import Encapsulation

_IP_HEADER = {4: 20, 6: 40}
_GUE_AND_UDP = 8 + 4 + 12
"""UDP header, GUE header, GUE private data."""

#: Octets that encapsulation puts before an inner packet, by the version of the outer IP header.
OVERHEADS: Mapping[tuple[Encapsulation, int], int] = {
    **{(Encapsulation.GUE, version): header + _GUE_AND_UDP for version, header in _IP_HEADER.items()},
    **{(Encapsulation.IPIP, version): header for version, header in _IP_HEADER.items()},
    **{(Encapsulation.L2, version): 0 for version in _IP_HEADER},
}


class InterfaceError(Exception):
    """The interface does not exist."""


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface at the moment it was looked at."""

    name: str
    mtu: int
    """Octets of the largest IP packet."""
    mac: bytes
    """Six octets; all zero if the interface has none."""


def look_up_interface(name: str) -> Interface:
    """Asks the kernel. Raises InterfaceError."""
    with IPRoute() as netlink:
        indexes = netlink.link_lookup(ifname=name)
        if not indexes:
            raise InterfaceError(f"no interface {name} in this network namespace: `ip link` lists those that there are")
        link = netlink.get_links(indexes[0])[0]
        mac = bytes.fromhex((link.get("IFLA_ADDRESS") or "").replace(":", ""))
        return Interface(name=name, mtu=link.get("IFLA_MTU"), mac=mac if len(mac) == 6 else bytes(6))
