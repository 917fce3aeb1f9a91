"""Tables are written and read through a mapping, and are the same as entry by entry."""

import os
import struct

import pytest

from l4.bpf_map import MAPPABLE, Map

pytestmark = pytest.mark.kernel

#: One more than fills whole pages, so that the mapping's last page is not full.
ENTRIES = 4097


@pytest.mark.parametrize("flags", [0, MAPPABLE], ids=["by calls", "mapped"])
def test_an_array_holds_what_was_written(flags: int) -> None:
    values = os.urandom(8 * ENTRIES)
    with Map.create_array("array", 8, ENTRIES, flags) as array:
        array.write_array(values)
        assert array.read_array() == values
        for entry in (0, 511, 512, ENTRIES - 1):
            assert array.lookup(struct.pack("=I", entry)) == values[8 * entry : 8 * entry + 8]
        array.update(struct.pack("=I", 513), bytes(8))
        assert array.read_array() == values[: 8 * 513] + bytes(8) + values[8 * 514 :]


@pytest.mark.parametrize("flags", [0, MAPPABLE], ids=["by calls", "mapped"])
def test_values_that_are_not_the_whole_array_are_refused(flags: int) -> None:
    with (
        Map.create_array("array", 8, ENTRIES, flags) as array,
        pytest.raises(ValueError, match="32768 octets for 4097 entries"),
    ):
        array.write_array(bytes(8 * (ENTRIES - 1)))
