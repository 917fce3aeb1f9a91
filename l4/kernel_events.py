"""What the kernel tells of changes to addresses, routes, links and settings, as it happens (rtnetlink(7), multicast).

Only what an agent looks after is passed on: a host may have thousands of routes and containers that come and go.
"""

import errno
import socket
import struct
from collections.abc import Callable
from enum import Flag, auto
from typing import Final, NoReturn

import trio
from pyroute2.netlink import NETLINK_ADD_MEMBERSHIP, SOL_NETLINK, rtnl

from l4.loopback_requests import LOOPBACK_INDEX
from l4.rtnetlink import ADDRESS, ROUTE, attributes_of, messages

GROUPS: Final = (
    rtnl.RTNLGRP_LINK,
    rtnl.RTNLGRP_IPV4_IFADDR,
    rtnl.RTNLGRP_IPV6_IFADDR,
    rtnl.RTNLGRP_IPV4_ROUTE,
    rtnl.RTNLGRP_IPV6_ROUTE,
    rtnl.RTNLGRP_IPV4_NETCONF,
)
_LINKS = frozenset({rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK})
_ADDRESSES = frozenset({rtnl.RTM_NEWADDR, rtnl.RTM_DELADDR})
_ROUTES = frozenset({rtnl.RTM_NEWROUTE, rtnl.RTM_DELROUTE})
_NETCONFS = frozenset({rtnl.RTM_NEWNETCONF, rtnl.RTM_DELNETCONF})
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, mask of flags
_LOCAL_TABLE, _MAIN_TABLE = 255, 254
# include/uapi/linux/netconf.h: the family, and then attributes. Of all interfaces together: -1.
_NETCONF_SIZE, _NETCONFA_IFINDEX = 4, 1
_U32 = struct.Struct("=I")
_ALL = _U32.pack(0xFFFFFFFF)

_RECEIVE_SIZE = 256 * 1024


class Heard(Flag):
    """What was told of."""

    NOTHING = 0
    HOST = auto()
    """`lo`, its addresses and local routes; default routes; settings of IPv4."""
    INTERFACE = auto()
    """The interface that traffic arrives on: its program, MTU or MAC address."""

    @classmethod
    def anything(cls) -> "Heard":
        return cls.HOST | cls.INTERFACE


class KernelEvents:
    """A subscription, from the moment it is made, in this network namespace."""

    def __init__(self, interface: str) -> None:
        """Raises OSError."""
        self._interface = interface
        channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        channel.bind((0, 0))
        for group in GROUPS:
            channel.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        self._channel = trio.socket.from_stdlib_socket(channel)

    async def pass_on(self, tell: Callable[[Heard], None]) -> NoReturn:
        """Task: tells of everything that was heard."""
        with self._channel:
            while True:
                try:
                    received = await self._channel.recv(_RECEIVE_SIZE)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    tell(Heard.anything())  # more came than there was room for
                    continue
                heard = what_was_heard(received, self._index())
                if heard:
                    tell(heard)

    def _index(self) -> int:
        """The interface may be another one of the same name by now; 0: there is none."""
        try:
            return socket.if_nametoindex(self._interface)
        except OSError:
            return 0


def what_was_heard(received: bytes, interface: int) -> Heard:
    """Of messages that were received at once, what an agent looks after that takes traffic by this interface.

    If there is no such interface (0), any link may be the one that was it.
    """
    heard = Heard.NOTHING
    for kind, _, payload in messages(received):
        if kind in _LINKS:
            index = _LINK.unpack_from(payload)[2]
            if index == LOOPBACK_INDEX:
                heard |= Heard.HOST
            elif index == interface or not interface:
                heard |= Heard.anything()  # the MTU decides on the MSS, too
        elif kind in _ADDRESSES:
            if ADDRESS.unpack_from(payload)[4] == LOOPBACK_INDEX:
                heard |= Heard.HOST
        elif kind in _ROUTES:
            _, length, _, _, table, _, _, _, _ = ROUTE.unpack_from(payload)
            if table == _LOCAL_TABLE or (table == _MAIN_TABLE and length == 0):
                heard |= Heard.HOST
        elif kind in _NETCONFS:
            index = _U32.unpack(attributes_of(payload, _NETCONF_SIZE).get(_NETCONFA_IFINDEX, _ALL))
            if index in (_U32.unpack(_ALL), (interface,)):
                heard |= Heard.HOST
    return heard
