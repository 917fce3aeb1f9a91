"""What the kernel is asked and told about `lo`: the rtnetlink(7) messages for VIPs' addresses and routes."""

import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE

from l4.interface_addresses import Network
from l4.rtnetlink import ADDRESS, ROUTE, Request, Rtnetlink

#: Our mark, of addresses and of routes. 0 to 3 are the kernel's addresses (`IFAPROT_*` in `linux/if_addr.h`), up to 4
#: its routes (`RTPROT_*`), the rest is for user space.
OUR_PROTOCOL: Final = 0xEF

LOOPBACK_INDEX: Final = 1

# include/uapi/linux/rtnetlink.h, if_addr.h and if.h
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 16, 20, 21, 24, 25, 26
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_PROTO = 1, 2, 6, 8, 11
_RTA_DST, _RTA_OIF, _RTA_CACHEINFO, _RTA_EXPIRES = 1, 4, 12, 23
_LOCAL_TABLE, _SCOPE_UNIVERSE, _SCOPE_LINK, _PROTOCOL_KERNEL = 255, 0, 253, 2
_LOCAL, _BROADCAST = 2, 3
_IFF_UP = 1
_SIOCGIFFLAGS = 0x8913

#: An address on loopback is nobody else's: duplicate address detection would only delay it (`IFA_F_NODAD`). An IPv6
#: block has a route of ours, and needs none of the kernel's, which would not make it local (`IFA_F_NOPREFIXROUTE`).
_NO_DAD = 0x02
_NO_PREFIX_ROUTE = 0x200

#: IPv4 blocks this long or longer have no broadcast address (RFC 3021).
_NO_BROADCAST_LENGTH = 31

_U32 = struct.Struct("=I")
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, mask of flags
_LIFETIMES = struct.Struct("=IIII")  # struct ifa_cacheinfo: preferred, valid; two time stamps
_ROUTE_EXPIRY = struct.Struct("=8xi")  # struct rta_cacheinfo: the third field, in hundredths of a second; 0: never
_INTERFACE_FLAGS = struct.Struct("=16sh14x")  # struct ifreq
_TICKS_PER_S = 100


def is_up() -> bool:
    """Whether `lo` is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        _, flags = _INTERFACE_FLAGS.unpack(fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _INTERFACE_FLAGS.pack(b"lo", 0)))
    return bool(flags & _IFF_UP)


def block_routes(netlink: Rtnetlink) -> Iterator[tuple[Network, float | None]]:
    """Our local routes of IPv6 blocks, with the seconds that they have left; None: for ever. Raises OSError."""
    head = ROUTE.pack(socket.AF_INET6, 0, 0, 0, _LOCAL_TABLE, OUR_PROTOCOL, 0, _LOCAL, 0)
    for found, attributes in netlink.dump(_RTM_GETROUTE, head):
        _, length, _, _, _, protocol, _, _, _ = ROUTE.unpack(found)
        if protocol == OUR_PROTOCOL and _RTA_DST in attributes:
            (ticks,) = _ROUTE_EXPIRY.unpack_from(attributes.get(_RTA_CACHEINFO, bytes(_ROUTE_EXPIRY.size)))
            yield IPv6Network((attributes[_RTA_DST], length)), ticks / _TICKS_PER_S if ticks else None


def broadcast_routes(netlink: Rtnetlink) -> Iterator[Network]:
    """Addresses that the kernel takes for broadcasts on `lo`. Raises OSError."""
    head = ROUTE.pack(socket.AF_INET, 0, 0, 0, _LOCAL_TABLE, 0, 0, _BROADCAST, 0)
    for found, attributes in netlink.dump(_RTM_GETROUTE, head):
        kind = ROUTE.unpack(found)[7]
        if kind == _BROADCAST and attributes.get(_RTA_OIF) == _U32.pack(LOOPBACK_INDEX) and _RTA_DST in attributes:
            yield IPv4Network(attributes[_RTA_DST])


def has_broadcast(network: Network) -> bool:
    """Whether the kernel makes the last address of this block, once it is on `lo`, a broadcast address."""
    return network.version == 4 and network.prefixlen < _NO_BROADCAST_LENGTH


def up_request() -> Request:
    return Request(_RTM_NEWLINK, 0, _LINK.pack(0, 0, LOOPBACK_INDEX, _IFF_UP, _IFF_UP), {})


def address_request(
    network: Network,
    lifetime_s: int | None = None,
    *,
    replaces: bool = False,
    removes: bool = False,
    tolerated: int | None = None,
) -> Request:
    """A block's address is its last in IPv6, where an address can be on `lo` but once: its first may be that of a
    narrower block, or a VIP of its own."""
    is_ipv4 = network.version == 4
    octets = (network.network_address if is_ipv4 else network.broadcast_address).packed
    attributes = {_IFA_LOCAL: octets, _IFA_ADDRESS: octets}
    if not removes:
        seconds = 0xFFFFFFFF if lifetime_s is None else lifetime_s
        attributes[_IFA_FLAGS] = _U32.pack(_NO_DAD if is_ipv4 else _NO_DAD | _NO_PREFIX_ROUTE)
        attributes[_IFA_CACHEINFO] = _LIFETIMES.pack(seconds, seconds, 0, 0)
        attributes[_IFA_PROTO] = bytes([OUR_PROTOCOL])
    return Request(
        _RTM_DELADDR if removes else _RTM_NEWADDR,
        0 if removes else NLM_F_CREATE | (NLM_F_REPLACE if replaces else NLM_F_EXCL),
        ADDRESS.pack(_family(network), network.prefixlen, 0, _SCOPE_UNIVERSE, LOOPBACK_INDEX),
        attributes,
        frozenset() if tolerated is None else frozenset({tolerated}),
    )


def local_route_request(network: Network, lifetime_s: int | None = None, *, removes: bool = False) -> Request:
    """Of an IPv6 block: adds it, gives it another lifetime, or removes it."""
    attributes = {_RTA_DST: network.network_address.packed, _RTA_OIF: _U32.pack(LOOPBACK_INDEX)}
    if lifetime_s is not None and not removes:
        attributes[_RTA_EXPIRES] = _U32.pack(lifetime_s)
    head = ROUTE.pack(_family(network), network.prefixlen, 0, 0, _LOCAL_TABLE, OUR_PROTOCOL, _SCOPE_UNIVERSE, _LOCAL, 0)
    if removes:
        return Request(_RTM_DELROUTE, 0, head, attributes, frozenset({errno.ESRCH}))
    return Request(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, head, attributes)


def broadcast_route_request(network: Network) -> Request:
    """Removes the route that the kernel has made for this address."""
    attributes = {_RTA_DST: network.network_address.packed, _RTA_OIF: _U32.pack(LOOPBACK_INDEX)}
    head = ROUTE.pack(_family(network), 32, 0, 0, _LOCAL_TABLE, _PROTOCOL_KERNEL, _SCOPE_LINK, _BROADCAST, 0)
    return Request(_RTM_DELROUTE, 0, head, attributes, frozenset({errno.ESRCH}))


def _family(network: Network) -> int:
    return socket.AF_INET if network.version == 4 else socket.AF_INET6
