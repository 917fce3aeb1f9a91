"""Kernel maps: look-ups, updates and whole-table copies on a descriptor."""

import contextlib
import ctypes
import mmap
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from l4.bpf_call import (
    Command,
    MapType,
    attributes,
    bpf,
    information,
    open_pinned,
    possible_cpus,
)

#: BPF_F_MMAPABLE: a process may map the array's values into its memory (since Linux 5.5). They lie there without gaps
#: if their size is a multiple of 8.
MAPPABLE = 1 << 10

_PER_CPU = frozenset({MapType.PERCPU_ARRAY, MapType.PERCPU_HASH})

#: Entries that one call brings.
_BATCH = 4096


@dataclass(frozen=True, slots=True)
class MapShape:
    """What the kernel fixed when the map was made."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


class Map:
    """An open kernel map. Keys and values are octets as the C structures lay them out.

    Values of per-CPU maps are read as those of all possible CPUs, one after the other, each padded to 8 octets.
    """

    def __init__(self, descriptor: int) -> None:
        """Takes the descriptor over."""
        self.descriptor = descriptor
        kind, self._id, key_size, value_size, max_entries, flags = struct.unpack("=6I", information(descriptor, 24))
        self.shape = MapShape(kind, key_size, value_size, max_entries, flags)
        per_cpu = kind in _PER_CPU
        self.value_octets = (value_size + 7) // 8 * 8 * possible_cpus() if per_cpu else value_size
        # Buffers of the single look-up, made once: making them costs more than the system call.
        self._key = ctypes.create_string_buffer(key_size)
        self._value = ctypes.create_string_buffer(self.value_octets)
        self._element = attributes(
            struct.pack("=IIQQQ", descriptor, 0, ctypes.addressof(self._key), ctypes.addressof(self._value), 0)
        )

    @classmethod
    def pinned(cls, path: Path, flags: int = 0) -> Self:
        """Opens the map pinned at `path`. FileNotFoundError if there is none."""
        return cls(open_pinned(path, flags))

    @classmethod
    def create_array(cls, name: str, value_size: int, max_entries: int, flags: int = 0) -> Self:
        """A new array, as inner map: it lives while it is open or in an array of maps."""
        return cls.create(name, MapShape(MapType.ARRAY, 4, value_size, max_entries, flags))

    @classmethod
    def create_array_of_maps(cls, name: str, prototype: "Map", max_entries: int) -> Self:
        """A new array of maps of the prototype's shape."""
        return cls.create(name, MapShape(MapType.ARRAY_OF_MAPS, 4, 4, max_entries, 0), prototype.descriptor)

    @classmethod
    def create(cls, name: str, shape: MapShape, prototype: int = 0) -> Self:
        """A new map; it lives while it is open, pinned, or in an array of maps."""
        sizes = shape.type, shape.key_size, shape.value_size, shape.max_entries, shape.flags
        packed = struct.pack("=5III16s", *sizes, prototype, 0, name.encode()[:15])
        return cls(bpf(Command.MAP_CREATE, attributes(packed)))

    @classmethod
    def by_id(cls, map_id: int) -> Self:
        """Opens the map that an array of maps names by `map_id`."""
        return cls(bpf(Command.MAP_GET_FD_BY_ID, attributes(struct.pack("=III", map_id, 0, 0))))

    def __repr__(self) -> str:
        return f"<Map {self._id} {self.shape}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Closes the descriptor; a pinned or attached map lives on."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def lookup(self, key: bytes) -> bytes | None:
        """The value of `key`, None if the map has no such key. Not to be used by two threads at once."""
        self._key.raw = key
        try:
            bpf(Command.MAP_LOOKUP_ELEM, self._element)
        except FileNotFoundError:
            return None
        return self._value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Sets the value of `key`."""
        self._key.raw = key
        self._value.raw = value
        bpf(Command.MAP_UPDATE_ELEM, self._element)

    def delete(self, key: bytes) -> None:
        """Removes `key`, if it is there."""
        self._key.raw = key
        with contextlib.suppress(FileNotFoundError):
            bpf(
                Command.MAP_DELETE_ELEM,
                attributes(struct.pack("=IIQ", self.descriptor, 0, ctypes.addressof(self._key))),
            )

    def keys(self) -> Iterator[bytes]:
        """All keys. Keys that come or go meanwhile may or may not be seen."""
        following = ctypes.create_string_buffer(self.shape.key_size)
        call = attributes(struct.pack("=IIQQQ", self.descriptor, 0, 0, ctypes.addressof(following), 0))
        while True:
            try:
                bpf(Command.MAP_GET_NEXT_KEY, call)
            except FileNotFoundError:
                return
            key = following.raw
            yield key
            self._key.raw = key
            struct.pack_into("=Q", call, 8, ctypes.addressof(self._key))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys with their values, many with each call. Entries that come or go meanwhile may or may not be seen."""
        count = min(_BATCH, self.shape.max_entries)
        size = self.shape.key_size
        keys = ctypes.create_string_buffer(size * count)
        values = ctypes.create_string_buffer(self.value_octets * count)
        position = ctypes.create_string_buffer(max(size, 8))  # a key, or the number of a bucket
        following = ctypes.create_string_buffer(max(size, 8))
        has_more, begins_at = True, 0
        while has_more:
            call = self._batch(keys, values, count, ctypes.addressof(following), begins_at)
            try:
                bpf(Command.MAP_LOOKUP_BATCH, call)
            except FileNotFoundError:  # the kernel's way to say that this was the end
                has_more = False
            (copied,) = struct.unpack_from("=I", call, 32)
            all_keys, all_values = keys.raw, values.raw
            for n in range(copied):
                yield (
                    all_keys[n * size : (n + 1) * size],
                    all_values[n * self.value_octets : (n + 1) * self.value_octets],
                )
            position.raw = following.raw
            begins_at = ctypes.addressof(position)

    def update_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Sets many values in one call, one after the other."""
        if entries:
            keys = ctypes.create_string_buffer(b"".join(entries), len(entries) * self.shape.key_size)
            values = ctypes.create_string_buffer(b"".join(entries.values()), len(entries) * self.value_octets)
            bpf(Command.MAP_UPDATE_BATCH, self._batch(keys, values, len(entries), 0))

    def delete_many(self, keys: Collection[bytes]) -> None:
        """Removes many keys, which must all be there, in one call, one after the other."""
        if keys:
            joined = ctypes.create_string_buffer(b"".join(keys), len(keys) * self.shape.key_size)
            bpf(Command.MAP_DELETE_BATCH, self._batch(joined, None, len(keys), 0))

    def read_array(self) -> bytes:
        """All values of an array: of one that may be mapped at the price of a copy, else one by one in one call."""
        if self.shape.flags & MAPPABLE:
            with mmap.mmap(self.descriptor, self._octets, prot=mmap.PROT_READ) as values:
                return values[:]
        return self._read_batch()

    def write_array(self, values: bytes) -> None:
        """Sets all values of an array. Not atomic: fill it aside."""
        if len(values) != self._octets:
            raise ValueError(f"{len(values)} octets for {self.shape.max_entries} entries of {self.shape.value_size}")
        if self.shape.flags & MAPPABLE:
            with mmap.mmap(self.descriptor, self._octets) as mapped:
                mapped[:] = values
        else:
            self._write_batch(values)

    def mapped(self, start: int, size: int) -> mmap.mmap:
        """So many octets of the values of an array that may be mapped, in this process's memory; to be closed.

        `start` is a multiple of the page's size.
        """
        return mmap.mmap(self.descriptor, size, offset=start)

    @property
    def _octets(self) -> int:
        return int(self.value_octets * self.shape.max_entries)

    def _read_batch(self) -> bytes:
        entries = self.shape.max_entries
        keys = ctypes.create_string_buffer(4 * entries)
        values = ctypes.create_string_buffer(self._octets)
        position = ctypes.create_string_buffer(4)
        call = self._batch(keys, values, entries, ctypes.addressof(position))
        with contextlib.suppress(FileNotFoundError):  # the kernel's way to say that this was the end
            bpf(Command.MAP_LOOKUP_BATCH, call)
        (copied,) = struct.unpack_from("=I", call, 32)
        if copied != entries:
            raise OSError(f"kernel returned {copied} of {entries} entries of {self!r}")
        return values.raw

    def _write_batch(self, values: bytes) -> None:
        entries = self.shape.max_entries
        keys = ctypes.create_string_buffer(struct.pack(f"={entries}I", *range(entries)), 4 * entries)
        source = ctypes.create_string_buffer(values, len(values))
        bpf(Command.MAP_UPDATE_BATCH, self._batch(keys, source, entries, 0))

    def _batch(
        self,
        keys: ctypes.Array[ctypes.c_char],
        values: ctypes.Array[ctypes.c_char] | None,
        count: int,
        following: int,
        begins_at: int = 0,
    ) -> ctypes.Array[ctypes.c_char]:
        """`batch` of `union bpf_attr`: in_batch, out_batch, keys, values, count, map_fd, elem_flags, flags."""
        return attributes(
            struct.pack(
                "=QQQQIIQQ",
                begins_at,
                following,
                ctypes.addressof(keys),
                0 if values is None else ctypes.addressof(values),
                count,
                self.descriptor,
                0,
                0,
            )
        )
