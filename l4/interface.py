"""What the kernel says of the interface that carries a node's traffic."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from pyroute2 import IPRoute

#: Octets that encapsulation puts before an inner packet: IPv4 header, UDP header, GUE header, GUE private data.
ENCAPSULATION_OVERHEAD = 20 + 8 + 4 + 12


class InterfaceError(Exception):
    """The interface does not exist, or cannot be used."""


class _XdpAttached(IntEnum):
    """`XDP_ATTACHED_*` of `linux/if_link.h`."""

    NONE = 0
    NATIVE = 1
    GENERIC = 2
    OFFLOADED = 3
    SEVERAL = 4


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface at the moment it was looked at."""

    name: str
    index: int
    mtu: int
    xdp_mode: Literal["native", "generic", "detached"]


def look_up_interface(name: str) -> Interface:
    """Asks the kernel. Raises InterfaceError."""
    with IPRoute() as netlink:
        indexes = netlink.link_lookup(ifname=name)
        if not indexes:
            raise InterfaceError(f"no interface {name} here: `ip link` lists those of this network namespace")
        link = netlink.get_links(indexes[0])[0]
    xdp = link.get("IFLA_XDP")
    attached = _XdpAttached(xdp.get("IFLA_XDP_ATTACHED") or 0 if xdp is not None else 0)
    mode: Literal["native", "generic", "detached"] = "detached"
    if attached is _XdpAttached.GENERIC:
        mode = "generic"
    elif attached is not _XdpAttached.NONE:
        mode = "native"
    return Interface(name=name, index=indexes[0], mtu=link.get("IFLA_MTU"), xdp_mode=mode)
