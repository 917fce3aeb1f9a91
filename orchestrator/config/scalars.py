"""Values that have more than one form in the files: a block of addresses, a range of ports."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from orchestrator.contract.snapshot import Community
from orchestrator.contract.vip import ANY_PORT

#: Of a standard community (RFC 1997), by its two parts, and of a large one (RFC 8092), by its three.
_LARGEST_PART = {2: 65535, 3: 4294967295}

#: Communities that no route may always bear, and why not.
_NEVER = {
    "65535:0": "tells routers that the route is about to go (RFC 8326); L4 nodes add it by themselves while they drain",
    "65535:666": "makes routers drop the VIP's packets (RFC 7999)",
}

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


def _community(value: Any) -> Community:
    """`64600:1`, `64600:1:2`."""
    parts = (
        value.split(":")
        if isinstance(value, str) and re.fullmatch(r"\d{1,10}(:\d{1,10}){1,2}", value, re.ASCII)
        else []
    )
    if not parts or any(int(part) > _LARGEST_PART[len(parts)] for part in parts):
        raise PydanticCustomError(
            "community",
            "{value} is no community",
            {
                "value": repr(value)[:80],
                "hint": "write a standard one, such as 64600:1 (parts up to 65535), or a large one, such as 64600:1:2",
            },
        )
    text = ":".join(str(int(part)) for part in parts)
    if text in _NEVER:
        raise PydanticCustomError(
            "community", "{value} {why}", {"value": text, "why": _NEVER[text], "hint": "remove it"}
        )
    return text


AddressBlock = Annotated[IPv4Network | IPv6Network, PlainValidator(_block)]
"""One address (/32, /128), or a block of them."""

PortRange = Annotated[tuple[int, int], PlainValidator(_ports)]
"""First and last port."""

CommunityText = Annotated[Community, PlainValidator(_community)]
"""A standard or large community, without leading zeros."""
