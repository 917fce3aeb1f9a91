"""The balancer's limits on its own answers, as a test needs them: never reached, or reached for a while."""

import ctypes
import struct
import time

from l4.balancer_program import BalancerProgram
from l4.bpf_call import Command, attributes, bpf, information, possible_cpus
from l4.bpf_map import Map

#: `enum answer` of answer.h.
TOO_BIG, ECHO = 0, 1

_U32 = struct.Struct("=I")
_MAP = "answer_limits"
_MOST_MAPS = 64
#: Offsets in `struct bpf_prog_info` and `struct bpf_map_info` (include/uapi/linux/bpf.h).
_MAP_IDS = 52
_MAP_NAME = 24


def _maps_of(descriptor: int) -> list[int]:
    """Ids of the maps that a program uses."""
    ids = (ctypes.c_uint32 * _MOST_MAPS)()
    info = ctypes.create_string_buffer(80)
    struct.pack_into("=IQ", info, _MAP_IDS, _MOST_MAPS, ctypes.addressof(ids))
    bpf(Command.OBJ_GET_INFO_BY_FD, attributes(struct.pack("=IIQ", descriptor, len(info), ctypes.addressof(info))))
    (count,) = _U32.unpack_from(info, _MAP_IDS)
    return list(ids[:count])


def _set(balancer: BalancerProgram, answer: int, full_at: int) -> None:
    for map_id in _maps_of(balancer.descriptor):
        with Map.by_id(map_id) as found:
            if information(found.descriptor, 40)[_MAP_NAME:].startswith(_MAP.encode()):
                found.update(_U32.pack(answer), struct.pack("=Q", full_at) * possible_cpus())
                return
    raise AssertionError(f"the program has no map {_MAP}")


def unlimited(balancer: BalancerProgram) -> None:
    """All buckets are full: as many answers as one burst has."""
    for answer in (TOO_BIG, ECHO):
        _set(balancer, answer, 0)


def limit_until(balancer: BalancerProgram, answer: int, *, seconds: int) -> None:
    """The bucket is empty, and will not be full before that."""
    _set(balancer, answer, time.monotonic_ns() + seconds * 1_000_000_000)
