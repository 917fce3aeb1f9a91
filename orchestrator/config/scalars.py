"""Values that have more than one form in the files: a block of addresses, a range of ports."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from orchestrator.contract.vip import ANY_PORT

_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})", re.ASCII)


def _block(value: Any) -> IPv4Network | IPv6Network:
    """`203.0.113.10`, `203.0.113.0/28`, `2001:db8::/64`."""
    # Not a number, which ip_network takes for an address; nor a netmask or hostmask behind the slash.
    if not isinstance(value, str) or not re.fullmatch(r"[^/]+(/\d{1,3})?", value, re.ASCII):
        raise _not_a_block(value)
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        raise _not_a_block(value) from None
    written = ip_network(value.partition("/")[0]).network_address
    if network.network_address != written:
        raise PydanticCustomError(
            "address_block",
            "{value} is an address inside a block, not the block",
            {"value": value, "hint": f"write {network} for the block, or {written} for the one address"},
        )
    return network


def _not_a_block(value: Any) -> PydanticCustomError:
    return PydanticCustomError(
        "address_block",
        "{value} is neither an address nor a block of addresses",
        {
            "value": repr(value)[:80],
            "hint": "write an address, such as 203.0.113.10, or a block, such as 203.0.113.0/28; "
            "IPv6 in quotes: '2001:db8::10'",
        },
    )


def _ports(value: Any) -> tuple[int, int]:
    """`443`, `8000-8999`, `any`; first and last."""
    if value == "any":
        return ANY_PORT
    if isinstance(value, int) and not isinstance(value, bool):
        first = last = value
    elif isinstance(value, str) and (found := _RANGE.fullmatch(value)) is not None:
        first, last = int(found[1]), int(found[2])
    else:
        raise PydanticCustomError(
            "port_range",
            "{value} is no port: a port is an integer, several are a range, and all are `any`",
            {"value": repr(value)[:80], "hint": "write 443 (without quotes), 8000-8999, or any"},
        )
    lowest, highest = ANY_PORT
    if not lowest <= first <= last <= highest:
        raise PydanticCustomError(
            "port_range",
            "{value} is outside of the ports that there are",
            {"value": str(value), "hint": f"stay within {lowest} and {highest}, the smaller one first"},
        )
    return first, last


AddressBlock = Annotated[IPv4Network | IPv6Network, PlainValidator(_block)]
"""One address (/32, /128), or a block of them."""

PortRange = Annotated[tuple[int, int], PlainValidator(_ports)]
"""First and last port."""
