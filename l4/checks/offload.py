"""What the interface does to packets before or after the program sees them: merged frames, unfinished checksums."""

from collections.abc import Iterator
from dataclasses import dataclass

from pyroute2 import IPRoute
from pyroute2.ethtool.ioctl import IoctlEthtool, NotSupportedError

from l4.attachment import XdpMode, attached_program
from l4.checks.check import Check, Subject
from orchestrator.contract.checkup import CheckResult

CHECKSUM = Check(
    "checksum_offload",
    "checksum offload",
    "frames that a virtual interface takes over within the machine carry checksums that nobody has finished yet; "
    "encapsulated by XDP they are out of everybody's reach, and the receiver drops them",
)
RECEIVE = Check(
    "receive_offload",
    "LRO and GRO",
    "merged frames are larger than any path: the program cannot send them on, and what it reads from them is not "
    "what was on the wire",
)

#: Interfaces whose frames never see a wire, so that nothing ever finishes a checksum (`IFLA_INFO_KIND`).
_WITHIN_THE_MACHINE = frozenset({"veth"})

_TRANSMIT_CHECKSUMS = ("tx-checksum-ipv4", "tx-checksum-ip-generic", "tx-checksum-ipv6")


@dataclass(frozen=True, slots=True)
class Offloads:
    """What is switched on, in the words of ethtool(8)."""

    kind: str | None
    """Of a virtual interface; None of a card."""
    tx: bool
    gro: bool
    lro: bool


def read_offloads(interface: str) -> Offloads:
    """Asks the kernel. Raises OSError."""
    with IPRoute() as netlink:
        link = netlink.get_links(netlink.link_lookup(ifname=interface)[0])[0]
        kind = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")
    try:
        features = IoctlEthtool(interface).get_features()
    except NotSupportedError as error:
        raise OSError(f"{interface} does not tell its offloads: {error}") from error
    known = set(features.keys())

    def is_on(*names: str) -> bool:
        return any(name in known and bool(features[name]) for name in names)

    return Offloads(kind, tx=is_on(*_TRANSMIT_CHECKSUMS), gro=is_on("rx-gro"), lro=is_on("rx-lro"))


def look(subject: Subject) -> Iterator[CheckResult]:
    interface = subject.interface
    offloads = read_offloads(interface)
    attached = attached_program(interface)
    is_virtual = offloads.kind in _WITHIN_THE_MACHINE
    if offloads.tx and is_virtual:
        yield CHECKSUM.failure(
            f"tx-checksumming is on; {interface} is a {offloads.kind}",
            "off",
            mend=f"ethtool -K {interface} tx off",
            fixable=True,
        )
    else:
        yield CHECKSUM.ok("off" if not offloads.tx else "on: the card finishes what this host itself sends")
    # Native programs run before GRO, but for a veth with GRO on, whose frames wait in its queue to be merged.
    merges = offloads.gro and (is_virtual or (attached is not None and attached.mode is XdpMode.GENERIC))
    wrong = [name for name, is_wrong in (("lro", offloads.lro), ("gro", merges)) if is_wrong]
    if wrong:
        yield RECEIVE.failure(
            f"{' and '.join(wrong)} on for {interface}"
            + (f", a {offloads.kind}" if is_virtual else ", whose program runs after it" if merges else ""),
            "off",
            mend=f"ethtool -K {interface} " + " ".join(f"{name} off" for name in wrong),
            fixable=True,
        )
    else:
        yield RECEIVE.ok("LRO off, GRO " + ("on: the program runs before it" if offloads.gro else "off"))
