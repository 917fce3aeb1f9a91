"""VIPs as host addresses on `lo`.

On an L4 node BIRD announces what it finds there; on a member's host the kernel accepts packets to it. Every address
that is set here bears our mark in its `IFA_PROTO` (Linux 5.18), so that a later process, which knows nothing of an
earlier one, takes away what is ours and nothing else.
"""

import errno
import logging
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from pyroute2 import IPRoute, NetlinkError

log = logging.getLogger(__name__)

#: Our mark. 0 to 3 are the kernel's (`IFAPROT_*` in `linux/if_addr.h`), the rest is for user space.
OUR_PROTOCOL = 0xEF

LOOPBACK_INDEX = 1

#: An address on loopback is nobody else's: duplicate address detection would only delay it (`IFA_F_NODAD`).
_NO_DAD = 0x02

VirtualAddress = IPv4Address | IPv6Address


class VipError(Exception):
    """The kernel refused to set or remove an address."""


@dataclass(frozen=True, slots=True)
class AddressesOnLoopback:
    """What is on `lo`, told apart by our mark."""

    ours: frozenset[VirtualAddress]
    foreign: frozenset[VirtualAddress]

    @property
    def all(self) -> frozenset[VirtualAddress]:
        return self.ours | self.foreign


def addresses_on_loopback() -> AddressesOnLoopback:
    """Reads the addresses of `lo`."""
    with IPRoute() as netlink:
        return _read(netlink)


def reconcile(wanted: Collection[VirtualAddress]) -> AddressesOnLoopback:
    """Puts `wanted` on `lo` and takes off whatever else is ours. An address that someone else put there stays theirs.

    Idempotent; what is there already is not touched, not even for a moment. Brings `lo` up if it is down.
    Returns what is there now. Raises VipError.
    """
    with IPRoute() as netlink:
        present = _read(netlink)
        try:
            if netlink.get_links(LOOPBACK_INDEX)[0].get("state") != "up":
                netlink.link("set", index=LOOPBACK_INDEX, state="up")
            for address in sorted(present.ours.difference(wanted), key=_order):
                _change(netlink, "del", address)
                log.info("VIP %s taken off lo", address)
            for address in sorted(set(wanted) - present.all, key=_order):
                _change(netlink, "add", address)
                log.info("VIP %s put on lo", address)
        except NetlinkError as error:
            raise VipError(
                f"lo: the kernel refused a change of VIPs: {error}; the agent needs CAP_NET_ADMIN"
            ) from error
        return _read(netlink)


def _change(netlink: IPRoute, command: str, address: VirtualAddress) -> None:
    try:
        netlink.addr(
            command,
            index=LOOPBACK_INDEX,
            address=str(address),
            family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
            prefixlen=address.max_prefixlen,
            flags=_NO_DAD,
            proto=OUR_PROTOCOL,
        )
    except NetlinkError as error:
        if error.code not in (errno.EEXIST, errno.EADDRNOTAVAIL):  # somebody else was faster
            raise


def _read(netlink: IPRoute) -> AddressesOnLoopback:
    found = dict(_addresses(netlink))
    return AddressesOnLoopback(
        ours=frozenset(address for address, is_ours in found.items() if is_ours),
        foreign=frozenset(address for address, is_ours in found.items() if not is_ours),
    )


def _addresses(netlink: IPRoute) -> Iterator[tuple[VirtualAddress, bool]]:
    for message in netlink.get_addr(index=LOOPBACK_INDEX):
        yield (
            ip_address(message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")),
            message.get("IFA_PROTO") == OUR_PROTOCOL,
        )


def _order(address: VirtualAddress) -> tuple[int, int]:
    return address.version, int(address)
