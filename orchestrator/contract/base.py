"""The base of every contract type, and the constrained scalars they are made of."""

from ipaddress import IPv4Address, IPv6Address
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

#: A name of a node, pool, VIP, backend or team: a DNS label (RFC 1123 section 2.1), so that it can be a host name,
#: a metric label, a file name and a certificate subject without quoting.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]

#: The site of nodes whose configuration names none.
DEFAULT_SITE: Name = "main"

#: A TCP or UDP port.
Port = Annotated[int, Field(ge=1, le=65535)]

#: An address of either family. Written by pydantic in its canonical form (RFC 5952 for IPv6).
Address = IPv4Address | IPv6Address

#: A 16-bit identifier; 0 is kept for "none" in kernel maps and on the wire.
Identifier = Annotated[int, Field(ge=1, le=65535)]


class Contract(BaseModel):
    """Immutable, and closed: a field that this version does not know is an error, never silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
