"""The maps by which the balancer finds a packet's VIP, and how they are changed under traffic.

No packet sees half a change. A set of ports that changes is filled aside, under a number that no packet knows, and each
block of addresses is pointed to its new set by one update. What is added or changed comes first, what is gone goes
last, so that each packet finds its VIP as it was before or as it is now. Sets that are no longer used are removed when
no packet that found their number can be under way any more.
"""

import itertools
import struct
from collections.abc import Mapping, Sequence

from l4.bpf_call import MapType
from l4.bpf_map import MAPPABLE, Map
from l4.entries import VipEntry, mapped, vip_id_of
from l4.pins import ProgramPins
from l4.program_error import ProgramError
from l4.shared_maps import U32, swap_inner_map, wait_for_packets
from l4.vip_index_table import PLACE_OCTETS, index_of
from l4.vip_sets import BITS_BEFORE_PORT, Network, PortSet, VipsRefused, compile_vips

_SERVICE = struct.Struct("=16s2sBx")
_VIP_PREFIX = struct.Struct("=I16s")
_VIP_PORT = struct.Struct("=IIBB2s")
_QUIC_SERVER = struct.Struct("=II")

_IPV4_IN_IPV6_BITS = 96

_Ports = dict[bytes, bytes]
"""A set's entries as they are in the map, but for their set's number, which is 0."""


class VipMaps:
    """`vips`, `vip_index`, `vip_prefixes`, `vip_ports` and `quic_servers`. Not to be used by two threads at once."""

    def __init__(self, pins: ProgramPins, max_vips: int) -> None:
        self._max_vips = max_vips
        self._exact = pins.open("vips")
        self._index = pins.open("vip_index")
        self._index_present: bytes | None = None
        self._prefixes = pins.open("vip_prefixes")
        self._ports = pins.open("vip_ports")
        self._quic_servers = pins.open("quic_servers")
        self._ids = {vip_id_of(value) for table in (self._exact, self._ports) for _, value in table.items()}

    @property
    def ids(self) -> list[int]:
        """Of the present VIPs, in order."""
        return sorted(self._ids)

    def set_vips(self, vips: Sequence[VipEntry]) -> None:
        """Makes the VIPs those given. Raises ProgramError, before anything is changed."""
        if len(vips) > self._max_vips:
            raise ProgramError(f"{len(vips)} VIPs, and the balancer was loaded for {self._max_vips}: raise max_vips")
        try:
            compiled = compile_vips(vips)
        except VipsRefused as error:
            raise ProgramError(str(error)) from error
        exact = {
            _SERVICE.pack(mapped(address), port.to_bytes(2, "big"), protocol): vip.packed
            for (address, port, protocol), vip in compiled.exact.items()
        }
        number_of_set = self._fill_sets({*compiled.sets.values()})
        # The narrowest block first when it comes and last when it goes: its addresses are never those of a wider one
        # meanwhile.
        by_length = sorted(compiled.sets.items(), key=lambda item: -item[0].prefixlen)
        prefixes = {_prefix(network): U32.pack(number_of_set[ports]) for network, ports in by_length}
        add(self._exact, exact)
        add(self._prefixes, prefixes)
        self._set_index(exact)
        remove_all_but(self._prefixes, prefixes)
        remove_all_but(self._exact, exact)
        self._remove_unused_sets()
        self._ids = {vip.vip_id for vip in vips}

    def _set_index(self, exact: Mapping[bytes, bytes]) -> None:
        index = index_of(exact)
        if index != self._index_present:
            swap_inner_map(self._index, 0, "vip_index", index, PLACE_OCTETS, MAPPABLE)
            self._index_present = index

    def set_quic_servers(self, servers: Mapping[tuple[int, int], int]) -> None:
        """Makes the members that QUIC connection ids can name those given, by slot and server id."""
        desired = {_QUIC_SERVER.pack(*key): U32.pack(member) for key, member in servers.items()}
        add(self._quic_servers, desired)
        remove_all_but(self._quic_servers, desired)

    def _fill_sets(self, sets: set[PortSet]) -> dict[PortSet, int]:
        """Numbers of sets that hold these entries: of present ones where there are such, else of new ones."""
        present = self._remove_unused_sets()
        number_of_content = {frozenset(ports.items()): number for number, ports in present.items()}
        unknown = itertools.count(max(present, default=0) + 1)
        number_of_set = {}
        fresh: _Ports = {}
        for ports in sets:
            content = _packed(ports)
            number = number_of_content.get(frozenset(content.items()))
            if number is None:
                number = next(unknown)
                fresh |= {_numbered(key, number): value for key, value in content.items()}
            number_of_set[ports] = number
        self._ports.update_many(fresh)
        return number_of_set

    def _remove_unused_sets(self) -> dict[int, _Ports]:
        """Removes sets that no address is pointed to. Returns the others, by number."""
        present: dict[int, _Ports] = {U32.unpack(number)[0]: {} for _, number in self._prefixes.items()}
        unused = []
        for key, value in self._ports.items():
            number = _VIP_PORT.unpack(key)[1]
            if number in present:
                present[number][_numbered(key, 0)] = value
            else:
                unused.append(key)
        if unused:
            wait_for_packets()
            self._ports.delete_many(unused)
        return present


def add(target: Map, desired: Mapping[bytes, bytes]) -> None:
    """Adds and changes what a map does not hold like this already."""
    present = dict(target.items())
    target.update_many({key: value for key, value in desired.items() if present.get(key) != value})


def remove_all_but(target: Map, desired: Mapping[bytes, bytes]) -> None:
    """Removes what is not desired from a map; of prefixes, the widest first."""
    gone = [key for key, _ in target.items() if key not in desired]
    target.delete_many(sorted(gone, key=_length) if target.shape.type == MapType.LPM_TRIE else gone)


def _length(key: bytes) -> int:
    """Of a prefix in bits, as the key of any longest-prefix map begins with."""
    return int(U32.unpack_from(key)[0])


def _prefix(network: Network) -> bytes:
    length = network.prefixlen + (_IPV4_IN_IPV6_BITS if network.version == 4 else 0)
    return _VIP_PREFIX.pack(length, mapped(network.network_address))


def _packed(ports: PortSet) -> _Ports:
    return {
        _VIP_PORT.pack(
            BITS_BEFORE_PORT + prefix.length, 0, prefix.protocol, prefix.portless, prefix.port.to_bytes(2, "big")
        ): vip.packed
        for prefix, vip in ports
    }


def _numbered(key: bytes, number: int) -> bytes:
    length, _, *rest = _VIP_PORT.unpack(key)
    return _VIP_PORT.pack(length, number, *rest)
