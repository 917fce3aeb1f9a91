"""A rehearsal: one of the programs once more, beside the running one, to see what it would do with a frame.

The copy is compiled from the same source and takes up the same maps, so it decides by what the kernel holds now. Only
the maps that a packet changes are its own, made for the rehearsal and gone with it: counters, open flows, rate limits,
the tap. So nothing that it does is seen by traffic or by anybody who counts, and its own counters tell what the frame
would have moved.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from l4.bpf_call import MapType
from l4.bpf_map import Map
from l4.pins import ProgramPins
from l4.program_loader import LoadedProgram, counter_names
from l4.program_run import ProgramRun, run_once
from l4.shared_maps import U32, total

#: Maps that packets only read, by program: what the agents feed.
SHARED = {
    "balancer": frozenset(
        {
            *("settings", "vips", "vip_index", "vip_prefixes", "vip_ports", "quic_servers", "members", "tables"),
            *("guard_ipv4", "guard_ipv6", "guard_ipv6_filter", "guard_limits"),
        }
    ),
    "redirector": frozenset({"settings", "tunnel_sources", "members"}),
}

#: Maps that packets change. A rehearsal has its own, empty but for what is put in; also of a map that neither names.
WRITTEN_BY_PACKETS = {
    "balancer": frozenset(
        {
            *("counters", "vip_traffic", "vip_drops", "vip_refusals", "member_packets"),
            *("flow_table_ipv4", "flow_table_ipv6", "source_buckets", "vip_buckets", "node_buckets", "refusals"),
            *("tap_note", "tap_programs"),
        }
    ),
    "redirector": frozenset({"counters", "ingress"}),
}

#: Of these, arrays that decide: each frame is rehearsed on a copy of what they hold then.
COPIED = {
    "balancer": frozenset({"source_buckets", "vip_buckets", "node_buckets", "refusals"}),
    "redirector": frozenset[str](),
}

_KEYED = frozenset({MapType.HASH, MapType.LRU_HASH, MapType.PERCPU_HASH})
_INDEXED = frozenset({MapType.ARRAY, MapType.PERCPU_ARRAY})
#: Entries of an array that `forget` empties. Larger ones only count, by identifier, and nobody reads them here.
_FEW = 4096


class Rehearsal:
    """A program on the live maps, with counters of its own that begin at zero. It ends with the context."""

    def __init__(
        self, program: str, source: str, function: str, pins: ProgramPins, definitions: Mapping[str, str | int]
    ) -> None:
        """`pins` are the running program's. Raises ProgramError, OSError."""
        self._names = counter_names(program.upper())
        self._running = pins
        self._copied = COPIED[program]
        scratch = Path(tempfile.mkdtemp(prefix=_prefix(pins), dir=pins.directory.parent))
        try:
            shared = SHARED[program]
            own = ProgramPins(scratch, {name: str(pins.path(name)) if name in shared else name for name in pins.files})
            self._program = LoadedProgram(source, function, own, {**definitions, "REHEARSAL": 1})
            self._maps = {name: own.open(name) for name in pins.files if (scratch / name).exists()}
        finally:
            shutil.rmtree(scratch)  # the maps live on as long as they are open here

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for own in self._maps.values():
            own.close()
        self._program.close()

    def map(self, name: str) -> Map:
        """One of the rehearsal's own maps: to put in what the frame should find there."""
        return self._maps[name]

    def forget(self) -> None:
        """As if no frame had been run before, and with the limits as they stand now."""
        for name, own in self._maps.items():
            if name in self._copied:
                with self._running.open(name) as running:
                    own.write_array(running.read_array())
            elif own.shape.type in _KEYED:
                for key in list(own.keys()):
                    own.delete(key)
            elif own.shape.type in _INDEXED and own.shape.max_entries <= _FEW:
                none = bytes(own.value_octets)
                for index in range(own.shape.max_entries):
                    own.update(U32.pack(index), none)

    def run(self, frame: bytes, interface: int) -> ProgramRun:
        """What would become of the frame if it came in on the interface of that index."""
        try:
            return run_once(self._program.descriptor, frame, interface)
        except OSError:
            return run_once(self._program.descriptor, frame)  # an interface without receive queues for XDP

    def counters(self) -> dict[str, int]:
        """Those that the frames so far would have moved."""
        counters = self._maps["counters"]
        values = {name: total(counters.lookup(U32.pack(index))) for index, name in enumerate(self._names)}
        return {name: value for name, value in values.items() if value}


def remove_leftovers(pins: ProgramPins) -> None:
    """Forgets what rehearsals of this program left whose agent died in the middle of one."""
    for scratch in pins.directory.parent.glob(f"{_prefix(pins)}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _prefix(pins: ProgramPins) -> str:
    return f"rehearsal-{pins.directory.name}-"
