"""The programs that the product is measured against, loaded and fed."""

import ctypes
from pathlib import Path
from typing import Any

from bcc import BPF

from l4.headers import kernel_headers
from tests.bpf.packets import Ends

SOURCE = Path(__file__).parent / "bpf" / "reference.c"
NAMES = ("empty", "encap", "reference")

_OWNER = 7
_PROTOCOL_TCP = 6


class ReferencePrograms:
    """`bpf/reference.c`, with one VIP, one flow and its owner. Holds bcc's module, which owns the descriptors."""

    def __init__(self, ends: Ends) -> None:
        with kernel_headers():
            self._module: Any = BPF(text=SOURCE.read_text(encoding="utf-8").encode())
        self.descriptors = {name: int(self._module.load_func(f"bench_{name}".encode(), BPF.XDP).fd) for name in NAMES}
        client, service = _network_order(ends.client.packed), _network_order(ends.vip.packed)
        client_port, service_port = (
            _network_order(port.to_bytes(2, "big")) for port in (ends.client_port, ends.vip_port)
        )
        vips, flows, owners = (self._module[name] for name in ("vips", "flows", "owners"))
        vips[vips.Key(service, service_port, _PROTOCOL_TCP, 0)] = vips.Leaf(1, 0)
        on_each_cpu = flows.Leaf()
        for cpu in range(len(on_each_cpu)):
            on_each_cpu[cpu] = _OWNER
        flows[flows.Key(client, service, client_port, service_port, _PROTOCOL_TCP)] = on_each_cpu
        owners[ctypes.c_int(_OWNER)] = owners.Leaf(_network_order(bytes((198, 18, 2, 11))), _OWNER)


def _network_order(octets: bytes) -> int:
    """As the number that this machine reads where the octets lie in memory."""
    return int.from_bytes(octets, "little")
