"""The interface that carries a node's traffic, and what encapsulation takes of its MTU."""

from dataclasses import dataclass

from pyroute2 import IPRoute

#: Octets that encapsulation puts before an inner packet: IPv4 header, UDP header, GUE header, GUE private data.
ENCAPSULATION_OVERHEAD = 20 + 8 + 4 + 12


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
