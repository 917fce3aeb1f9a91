"""The usual load on a lab: all kinds of flows, over both families, from all client addresses."""

import math
from typing import Final

from orchestrator.lab.lab import Lab
from orchestrator.lab.load.datagrams import DatagramPlan, Stream
from orchestrator.lab.load.plan import FlowKind, LoadPlan, Target
from orchestrator.lab.topology import HOST_NAME, UDP_PORT, VIP_PORT, VIP_V4, VIP_V6

#: Lanes beyond the flows that are promised: a lane is empty for a moment when its flow ends and the next begins.
SPARE_LANES: Final = 1.2

#: How lanes are shared among the kinds.
SHARES: Final = {FlowKind.DOWNLOAD: 0.4, FlowKind.KEEP_ALIVE: 0.35, FlowKind.UPLOAD: 0.25}

#: Datagrams in each stream: enough to meet every moment of a change, and no load to speak of.
DATAGRAMS_PER_SECOND: Final = 20.0


def load_plan(lab: Lab, flows: int, requests_per_second: float) -> LoadPlan:
    """So many long flows at any time, and short requests at a steady rate."""
    client = lab.topology.client
    return LoadPlan(
        host=HOST_NAME,
        ca_file=lab.ca,
        targets=tuple(
            Target(address=vip, port=VIP_PORT, sources=tuple(interface.ip for interface in interfaces))
            for vip, interfaces in ((VIP_V4, client.v4), (VIP_V6, client.v6))
        ),
        uploads_directory=lab.uploads,
        lanes={kind: math.ceil(flows * SPARE_LANES * share) for kind, share in SHARES.items()},
        requests_per_second=requests_per_second,
    )


def datagram_plan(lab: Lab, per_second: float = DATAGRAMS_PER_SECOND) -> DatagramPlan:
    """A stream from each client address to the UDP VIP of its family."""
    client = lab.topology.client
    return DatagramPlan(
        streams=tuple(
            Stream(source=interface.ip, target=VIP_V4 if interface.version == 4 else VIP_V6, port=UDP_PORT)
            for interface in client.addresses
        ),
        per_second=per_second,
    )
