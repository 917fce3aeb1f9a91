"""Virtual addresses."""

from enum import StrEnum

from orchestrator.contract.base import Address, Contract, Identifier, Name, Port


class VipMode(StrEnum):
    """What tier 2 does with a flow to this VIP."""

    TERMINATE = "terminate"
    PASSTHROUGH = "passthrough"
    PASSTHROUGH_SNI = "passthrough-sni"


class Vip(Contract):
    """A virtual address and TCP port, forwarded by every L4 node to one pool."""

    name: Name
    id: Identifier
    """Index of the VIP's counters in the kernel; never reused for another VIP while the fleet lives."""
    address: Address
    port: Port
    mode: VipMode
    pool: Name
