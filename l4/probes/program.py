"""`probe.c` as the balancer agent sees it: load, attach to the interface's way out, read what became of packets.

A classifier in the interface's `clsact` queueing discipline (tc-bpf(8)), under a preference and handle of its own:
filters of others are left alone, and so is the discipline if it was there. It stays when the agent ends, and does
nothing then, since nobody sends marked packets.
"""

import contextlib
import errno
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from l4.pins import ProgramPins
from l4.program_error import ProgramError
from l4.program_loader import LoadedProgram, ProgramKind
from l4.shared_maps import U32, total

FUNCTION = "edge_probe"

#: `enum probe_outcome`.
OUTCOMES = ("sent", "no_settings", "member_unknown", "no_source", "no_mac", "no_route", "not_ip", "no_room")

#: Our place among the filters of the interface's way out.
PREFERENCE = 60800
_HANDLE = 1
_EGRESS = 0xFFFFFFF3
_ALL_PROTOCOLS = 0x0003
"""ETH_P_ALL."""


class ProbeProgram:
    """`probe.c`, on the maps of a loaded balancer."""

    def __init__(self, pins: ProgramPins, definitions: Mapping[str, str | int]) -> None:
        """Compiles and loads it. `definitions`: the balancer's. Raises ProgramError."""
        self._program = LoadedProgram("probe.c", FUNCTION, pins, definitions, ProgramKind.CLASSIFIER)
        self._outcomes = self._program.open_map("probe_outcomes")

    @property
    def descriptor(self) -> int:
        """Of the loaded program."""
        return self._program.descriptor

    def close(self) -> None:
        """Closes the descriptors; an attached program stays."""
        self._outcomes.close()
        self._program.close()

    def attach(self, interface: str) -> None:
        """Puts it on the interface's way out, in the place of an earlier one. Raises ProgramError."""
        with _netlink(interface) as (netlink, index):
            with _unless(errno.EEXIST):
                netlink.tc("add", "clsact", index)
            netlink.tc(
                "replace-filter",
                "bpf",
                index,
                handle=_HANDLE,
                parent=_EGRESS,
                prio=PREFERENCE,
                protocol=_ALL_PROTOCOLS,
                fd=self.descriptor,
                name=FUNCTION,
                direct_action=True,
            )

    @staticmethod
    def detach(interface: str) -> bool:
        """Takes it off again. False if it was not there. Raises ProgramError."""
        with _netlink(interface) as (netlink, index):
            was_attached = _stands_there(netlink, index)
            if was_attached:
                netlink.tc("del-filter", "bpf", index, parent=_EGRESS, prio=PREFERENCE, protocol=_ALL_PROTOCOLS)
        return was_attached

    @staticmethod
    def is_attached(interface: str) -> bool:
        """Whether a classifier of our name stands in our place. Raises ProgramError."""
        with _netlink(interface) as (netlink, index):
            return _stands_there(netlink, index)

    def outcomes(self) -> dict[str, int]:
        """Packets by what became of them, since this was loaded."""
        return {name: total(self._outcomes.lookup(U32.pack(index))) for index, name in enumerate(OUTCOMES)}


@contextlib.contextmanager
def _netlink(interface: str) -> Iterator[tuple[IPRoute, int]]:
    """A netlink socket and the interface's index; what the kernel refuses becomes a ProgramError."""
    try:
        with IPRoute() as netlink:
            yield netlink, socket.if_nametoindex(interface)
    except NetlinkError as error:
        raise ProgramError(
            f"the classifier of probes on {interface}: {error}; it takes a kernel with CONFIG_NET_CLS_BPF and "
            "CONFIG_NET_SCH_INGRESS"
        ) from error
    except OSError as error:
        raise ProgramError(f"the classifier of probes on {interface}: {error}") from error


@contextlib.contextmanager
def _unless(number: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != number:
            raise


def _stands_there(netlink: IPRoute, index: int) -> bool:
    return any(
        one["info"] >> 16 == PREFERENCE and _name(one) == FUNCTION
        for one in netlink.get_filters(index=index, parent=_EGRESS)
    )


def _name(one: Any) -> str | None:
    options = one.get("TCA_OPTIONS")
    return options.get("TCA_BPF_NAME") if options is not None else None
