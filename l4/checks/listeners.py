"""Whether somebody on a member's host takes the flows of its VIPs."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from l4.checks.check import Check, Subject
from orchestrator.contract.checkup import CheckResult
from orchestrator.contract.vip import Vip, VipMode

LISTENER = Check(
    "listener",
    "listening sockets",
    "the host's kernel answers clients that the L4 nodes send here with a reset",
)

#: State LISTEN of /proc/net/tcp (include/net/tcp_states.h).
_LISTEN = "0A"
_TABLES = {4: "tcp", 6: "tcp6"}

Endpoint = tuple[IPv4Address | IPv6Address, int]


def look(subject: Subject) -> Iterator[CheckResult]:
    vips = subject.snapshot.vips if subject.snapshot else ()
    terminated = [vip for vip in vips if vip.mode is VipMode.TERMINATE and vip.prefix_length is None]
    if not terminated:
        return
    listening = set(listening_sockets())
    deaf = [vip for vip in terminated if not _listens(vip, listening)]
    if deaf:
        yield LISTENER.failure(
            f"nobody listens on {', '.join(f'{vip.name} ({_endpoint(vip)})' for vip in deaf)}",
            "a socket for each VIP that this host terminates",
            advice="start edge-l7 on this host, or look in its log; drain the host if that takes long",
        )
    else:
        yield LISTENER.ok(f"{len(terminated)} VIPs")


def _listens(vip: Vip, listening: set[Endpoint]) -> bool:
    wildcards = (IPv4Address(0), IPv6Address(0)) if vip.address.version == 4 else (IPv6Address(0),)
    first, last = vip.ports
    return any((address, port) in listening for port in {first, last} for address in (vip.address, *wildcards))


def _endpoint(vip: Vip) -> str:
    return f"[{vip.address}]:{vip.port}" if vip.address.version == 6 else f"{vip.address}:{vip.port}"


def listening_sockets() -> Iterator[Endpoint]:
    """Addresses and ports of this network namespace's listening TCP sockets (proc(5), /proc/net/tcp)."""
    for version, table in _TABLES.items():
        for line in (Path("/proc/thread-self/net") / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                address, _, port = fields[1].partition(":")
                yield _address(version, address), int(port, 16)


def _address(version: int, text: str) -> IPv4Address | IPv6Address:
    """Words of 32 bits, each in the machine's order of octets."""
    words = [int(text[start : start + 8], 16).to_bytes(4, "little") for start in range(0, len(text), 8)]
    return IPv4Address(words[0]) if version == 4 else IPv6Address(b"".join(words))
