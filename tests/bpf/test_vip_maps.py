"""VIP sets in real maps: what the kernel finds is what the rule says, at every step of a change."""

import struct
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest

from l4.balancer_program import BalancerProgram
from l4.bpf_map import Map
from l4.entries import PROTOCOL_TCP, PROTOCOL_UDP, VipEntry, mapped, vip_id_of
from l4.pins import prepare_pins
from l4.program_error import ProgramError
from l4.vip_index_table import place_of
from l4.vip_maps import VipMaps

pytestmark = pytest.mark.kernel

ROWS = 101
PORTS = (1, 79, 80, 85, 90, 91, 443, 65535)
ADDRESSES = tuple(map(ip_address, ("203.0.113.9", "203.0.113.10", "203.0.113.200", "2001:db8::1", "192.0.2.1")))


class Kernel:
    """The maps, and what the balancer would find in them."""

    def __init__(self, bpffs: Path) -> None:
        BalancerProgram(bpffs, rows=ROWS)
        self.pins = prepare_pins(bpffs, "balancer", {"tables": ROWS})
        self.maps = VipMaps(self.pins, 1024)
        self._exact, self._index, self._prefixes, self._ports = (
            self.pins.open(name) for name in ("vips", "vip_index", "vip_prefixes", "vip_ports")
        )

    def find(self, address: IPv4Address | IPv6Address, protocol: int, port: int | None) -> int:
        """Id of the VIP; 0 if there is none. `port` is None for a fragment."""
        octets = (port or 0).to_bytes(2, "big")
        service = struct.pack("=16s2sBx", mapped(address), octets, protocol)
        value = (self._indexed(service) or self._exact.lookup(service)) if port else None
        if value is None and (number := self._prefixes.lookup(struct.pack("=I16s", 128, mapped(address)))) is not None:
            value = self._ports.lookup(struct.pack("=I4sBB2s", 64, number, protocol, port is None, octets))
        return vip_id_of(value) if value else 0

    def _indexed(self, service: bytes) -> bytes | None:
        inner = self._index.lookup(bytes(4))
        if inner is None:
            return None
        with Map.by_id(int.from_bytes(inner, sys.byteorder)) as index:
            found = index.lookup(struct.pack("=I", place_of(service))) or b""
        return found[20:28] if found[:20] == service else None

    def view(self) -> dict[tuple[object, ...], int]:
        return {
            (address, protocol, port): self.find(address, protocol, port)
            for address in ADDRESSES
            for protocol in (PROTOCOL_TCP, PROTOCOL_UDP)
            for port in (*PORTS, None)
        }

    def sizes(self) -> tuple[int, int]:
        return len(list(self._prefixes.items())), len(list(self._ports.items()))


@pytest.fixture(scope="module")
def loaded(bpffs: Path) -> Kernel:
    return Kernel(bpffs)


@pytest.fixture
def kernel(loaded: Kernel) -> Iterator[Kernel]:
    """Without VIPs, before and after."""
    yield loaded
    loaded.maps.set_vips(())


def vip(vip_id: int, network: str, first: int, last: int | None = None, protocol: int = PROTOCOL_TCP) -> VipEntry:
    return VipEntry(ip_network(network), first, last or first, vip_id, vip_id, protocol)


BLOCK = vip(1, "203.0.113.0/24", 1, 65535)
RANGE = vip(2, "203.0.113.0/25", 80, 90)
SINGLE = vip(3, "203.0.113.10", 443)
WIDENED = vip(3, "203.0.113.10", 443, 444)
SIX = vip(4, "2001:db8::/64", 80, 443)
DATAGRAMS = vip(5, "203.0.113.10", 443, protocol=PROTOCOL_UDP)
STATES = {
    "nothing": (),
    "a block": (BLOCK,),
    "all": (BLOCK, RANGE, SINGLE, SIX, DATAGRAMS),
    "wider": (BLOCK, RANGE, WIDENED, SIX),
    "single": (SINGLE, DATAGRAMS),
    "without the block": (RANGE, SINGLE, SIX),
}


def test_packets_find_blocks_ranges_and_single_ports(kernel: Kernel) -> None:
    kernel.maps.set_vips(STATES["all"])
    v4, v6 = ip_address("203.0.113.10"), ip_address("2001:db8::1")
    tcp = {port: kernel.find(v4, PROTOCOL_TCP, port) for port in PORTS}
    assert tcp == {1: 1, 79: 1, 80: 2, 85: 2, 90: 2, 91: 1, 443: 3, 65535: 1}
    assert kernel.find(v4, PROTOCOL_TCP, None) == 0, "a fragment could be for three pools"
    assert kernel.find(v4, PROTOCOL_UDP, None) == kernel.find(v4, PROTOCOL_UDP, 443) == 5
    assert [kernel.find(v6, PROTOCOL_TCP, port) for port in (79, 80, 443, None)] == [0, 4, 4, 4]
    assert kernel.find(ip_address("203.0.113.200"), PROTOCOL_TCP, None) == 1
    assert kernel.find(ip_address("192.0.2.1"), PROTOCOL_TCP, 443) == 0
    assert kernel.maps.ids == [1, 2, 3, 4, 5]


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """Calls what is put into the list after every single change of a map."""
    watchers: list[Callable[[], None]] = []

    def watch() -> None:
        for watcher in watchers:
            watcher()

    def update_many(self: Map, entries: Mapping[bytes, bytes]) -> None:
        for key, value in entries.items():
            self.update(key, value)
            watch()

    def delete_many(self: Map, keys: Collection[bytes]) -> None:
        for key in keys:
            self.delete(key)
            watch()

    monkeypatch.setattr(Map, "update_many", update_many)
    monkeypatch.setattr(Map, "delete_many", delete_many)
    yield watchers


@pytest.mark.parametrize("after", STATES)
@pytest.mark.parametrize("before", STATES)
def test_no_packet_sees_half_a_change(
    kernel: Kernel, one_at_a_time: list[Callable[[], None]], before: str, after: str
) -> None:
    kernel.maps.set_vips(STATES[after])
    new = kernel.view()
    kernel.maps.set_vips(STATES[before])
    old = kernel.view()

    def check() -> None:
        for packet, found in kernel.view().items():
            assert found in (old[packet], new[packet]), packet

    one_at_a_time.append(check)
    kernel.maps.set_vips(STATES[after])
    one_at_a_time.clear()
    assert kernel.view() == new
    other = VipMaps(kernel.pins, 1024)
    assert other.ids == kernel.maps.ids


def test_equal_vips_are_left_as_they_are(kernel: Kernel, one_at_a_time: list[Callable[[], None]]) -> None:
    kernel.maps.set_vips(STATES["all"])
    changes: list[None] = []
    one_at_a_time.append(lambda: changes.append(None))
    VipMaps(kernel.pins, 1024).set_vips(STATES["all"][::-1])
    assert not changes


def test_a_set_that_was_begun_and_never_used_is_cleared_up(
    kernel: Kernel, one_at_a_time: list[Callable[[], None]]
) -> None:
    kernel.maps.set_vips(STATES["a block"])
    sizes = kernel.sizes()

    def die() -> None:
        raise InterruptedError

    one_at_a_time.append(die)
    with pytest.raises(InterruptedError):
        kernel.maps.set_vips(STATES["all"])
    one_at_a_time.clear()
    assert kernel.sizes() > sizes
    VipMaps(kernel.pins, 1024).set_vips(STATES["a block"])
    assert kernel.sizes() == sizes


def of_a_thousand(change: int) -> Sequence[VipEntry]:
    """1024 VIPs: single ports, ranges on addresses of a block that has any port, and blocks."""
    return [
        vip(1, "198.51.100.0/24", 1, 65535),
        *(vip(2 + n, f"198.51.100.{n}", 1000 + n + change, 3000 + 2 * n) for n in range(255)),
        *(vip(300 + n, f"2001:db8:{n:x}::{change}", 443) for n in range(512)),
        *(vip(900 + n, f"2001:db9:{n:x}::/48", 80 + change, 90) for n in range(256)),
    ]


def test_a_thousand_vips_are_exchanged_for_a_thousand_others(kernel: Kernel) -> None:
    for change in (1, 2, 2):
        vips = of_a_thousand(change)
        start = time.perf_counter()
        kernel.maps.set_vips(vips)
        print(f"{len(vips)} VIPs set in {time.perf_counter() - start:.3f} s, {kernel.sizes()} entries")
        for entry in vips[::50]:
            address = entry.network.network_address + (5 if entry.network.prefixlen == 48 else 0)
            assert kernel.find(address, PROTOCOL_TCP, entry.first_port) == entry.vip_id
    with pytest.raises(ProgramError, match="1025 VIPs, and the balancer was loaded for 1024"):
        kernel.maps.set_vips([*of_a_thousand(1), vip(2000, "192.0.2.1", 443)])
    with pytest.raises(ProgramError, match="VIPs 1 and 2 have the same addresses"):
        kernel.maps.set_vips([vip(1, "192.0.2.1", 443), vip(2, "192.0.2.1", 443)])
    assert len(kernel.maps.ids) == 1024


def test_quic_servers_are_those_given(kernel: Kernel) -> None:
    kernel.maps.set_quic_servers({(3, 7): 7, (4, 7): 7})
    kernel.maps.set_quic_servers({(3, 8): 8, (4, 7): 7})
    with kernel.pins.open("quic_servers") as servers:
        assert dict(servers.items()) == {
            struct.pack("=II", slot, member): struct.pack("=I", member) for slot, member in ((3, 8), (4, 7))
        }
