"""Addresses of an interface with their protocol marks and lifetimes, by rtnetlink(7)."""

import functools
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from l4.rtnetlink import ADDRESS, Rtnetlink
from orchestrator.contract.vip import MAX_VIPS

Network = IPv4Network | IPv6Network

# include/uapi/linux/rtnetlink.h and if_addr.h
_RTM_GETADDR = 22
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_PROTO = 1, 2, 6, 11
_FOR_EVER = 0xFFFFFFFF

_CACHE_INFO = struct.Struct("=IIII")  # struct ifa_cacheinfo: preferred and valid, in seconds; two time stamps


@dataclass(frozen=True, slots=True)
class HeldAddress:
    """An address that an interface has."""

    network: Network
    """The block that its prefix length makes of it."""
    mark: int
    """`IFA_PROTO`; 0 for none."""
    valid_s: int | None
    """Seconds until the kernel takes it away; None: never."""


def addresses_of(interface: int, netlink: Rtnetlink) -> Iterator[HeldAddress]:
    """Each address of the interface with that index. Raises OSError."""
    for head, attributes in netlink.dump(_RTM_GETADDR, ADDRESS.pack(0, 0, 0, 0, interface)):
        family, prefix_length, _, _, index = ADDRESS.unpack(head)
        if index != interface or family not in (socket.AF_INET, socket.AF_INET6):
            continue
        # The address itself is IFA_LOCAL in IPv4, where IFA_ADDRESS may be that of a peer.
        octets = attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]
        _, valid, _, _ = _CACHE_INFO.unpack_from(attributes[_IFA_CACHEINFO])
        yield HeldAddress(
            network=_network(family, octets, prefix_length),
            mark=attributes.get(_IFA_PROTO, b"\0")[0],
            valid_s=None if valid == _FOR_EVER else valid,
        )


@functools.lru_cache(maxsize=2 * MAX_VIPS)
def _network(family: int, octets: bytes, prefix_length: int) -> Network:
    if family == socket.AF_INET:
        return IPv4Network((octets, prefix_length), strict=False)
    return IPv6Network((octets, prefix_length), strict=False)
