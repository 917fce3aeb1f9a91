"""Which VIP a flow is for, by the address and port that it has on this host.

By the balancer's rule (`l4.vip_sets`): of the VIPs whose addresses and ports fit, the one with the most specific
addresses; of these the one with the fewest ports, and of these the one with the smallest id. TCP only.
"""

from bisect import bisect_right
from collections.abc import Iterable

from orchestrator.contract.vip import Protocol, Vip


class VipIndex:
    """VIPs by local address and port. A search costs a dictionary look-up and a bisection for each length of prefix."""

    def __init__(self, vips: Iterable[Vip]) -> None:
        tcp = [vip for vip in vips if vip.protocol is Protocol.TCP]
        in_network: dict[tuple[int, int, int], list[Vip]] = {}
        for vip in tcp:
            in_network.setdefault(_block(vip), []).append(vip)
        self._ports = {block: _PortMap(vips) for block, vips in in_network.items()}
        # By octets of an address: (bits that do not count, of how many), longest prefix first.
        self._shifts = {size: sorted({shift for octets, shift, _ in in_network if octets == size}) for size in (4, 16)}

    def __repr__(self) -> str:
        return f"<VipIndex of {len(self._ports)} blocks>"

    def find(self, address: bytes, port: int) -> Vip | None:
        """`address` is packed: 4 or 16 octets. None: no VIP's."""
        number = int.from_bytes(address)
        size = len(address)
        for shift in self._shifts[size]:
            ports = self._ports.get((size, shift, number >> shift))
            vip = ports.find(port) if ports is not None else None
            if vip is not None:
                return vip
        return None


class _PortMap:
    """The VIPs of one block of addresses: for each port at most one."""

    def __init__(self, vips: Iterable[Vip]) -> None:
        # Painted one over another, so that what shall win comes last.
        self._starts = [0]
        self._owners: list[Vip | None] = [None]
        for vip in sorted(vips, key=lambda vip: (vip.ports[0] - vip.ports[1], -vip.id)):
            first, last = vip.ports
            begin, end = self._boundary(first), self._boundary(last + 1)
            self._starts[begin:end] = [first]
            self._owners[begin:end] = [vip]

    def _boundary(self, port: int) -> int:
        """Index of the stretch that begins with `port`, made if there is none."""
        at = bisect_right(self._starts, port)
        if self._starts[at - 1] == port:
            return at - 1
        self._starts.insert(at, port)
        self._owners.insert(at, self._owners[at - 1])
        return at

    def find(self, port: int) -> Vip | None:
        return self._owners[bisect_right(self._starts, port) - 1]


def _block(vip: Vip) -> tuple[int, int, int]:
    """Octets of an address, bits that do not count, and the bits that do."""
    network = vip.network
    shift = network.max_prefixlen - network.prefixlen
    return network.max_prefixlen // 8, shift, int(network.network_address) >> shift
