"""Virtual addresses."""

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Self

from pydantic import Field, model_validator

from orchestrator.contract.base import Address, Contract, Identifier, Name, Port

#: VIPs that a fleet can have: the kernel's maps are made for so many.
MAX_VIPS = 1024

ANY_PORT = (1, 65535)


class VipMode(StrEnum):
    """What tier 2 does with a flow to this VIP."""

    TERMINATE = "terminate"
    PASSTHROUGH = "passthrough"
    PASSTHROUGH_SNI = "passthrough-sni"


class Protocol(StrEnum):
    """What a VIP's flows speak."""

    TCP = "tcp"
    UDP = "udp"


class FlowHash(StrEnum):
    """What a flow's row is drawn from."""

    FLOW = "flow"
    """Addresses, ports and protocol: the 5-tuple."""
    SOURCE = "source"
    """The client's address alone: all of a client's flows go to one member."""


class Vip(Contract):
    """A virtual address, or a block of them, and a range of ports, forwarded by every L4 node to one pool."""

    name: Name
    id: Identifier
    """Index of the VIP's counters in the kernel; never reused for another VIP while the fleet lives."""
    address: Address
    """The only one, or the first of the block."""
    prefix_length: Annotated[int, Field(ge=0, le=128)] | None = None
    """Of the block; None for a single address."""
    protocol: Protocol = Protocol.TCP
    port: Port
    """The only one, or the first of the range."""
    last_port: Port | None = None
    """Of the range; None for a single port."""
    mode: VipMode
    pool: Name
    flow_hash: FlowHash = FlowHash.FLOW
    quic: bool = False
    """UDP only: short-header packets go by the server id in their connection id."""

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        if self.last_port is not None and self.last_port < self.port:
            raise ValueError(f"ports {self.port} to {self.last_port} are no range")
        if self.quic and self.protocol is not Protocol.UDP:
            raise ValueError("QUIC runs over UDP")
        _ = self.network  # raises ValueError if the address has bits beyond the prefix
        return self

    @property
    def network(self) -> IPv4Network | IPv6Network:
        """The addresses, as a network; /32 or /128 for one."""
        length = self.address.max_prefixlen if self.prefix_length is None else self.prefix_length
        return ip_network((self.address, length))

    @property
    def ports(self) -> tuple[int, int]:
        """First and last."""
        return self.port, self.last_port or self.port
