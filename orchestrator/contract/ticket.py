"""Keys that seal TLS session tickets (RFC 5077, RFC 8446 section 4.6.1), the same on all proxies of the fleet."""

from typing import Annotated

from pydantic import Field

from orchestrator.contract.base import Contract

#: Octets of a key: its name in tickets, then one for HMAC-SHA256 and one for AES-256 (RFC 5077 section 4).
NAME_OCTETS = 16
MAC_OCTETS = 32
CIPHER_OCTETS = 32


class TicketKey(Contract):
    """One key. Its `repr` shows the name alone, which every ticket carries in the clear."""

    name: Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * NAME_OCTETS}}}$")]
    secret: Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * (MAC_OCTETS + CIPHER_OCTETS)}}}$", repr=False)]
    """HMAC key, then AES key, in hexadecimal digits."""


class TicketKeys(Contract):
    """What a proxy seals tickets with, and whose tickets it takes."""

    issuing: TicketKey
    accepting: tuple[TicketKey, ...] = ()
    """Beside the issuing one: older ones, and the one that is to issue next, which another proxy may use already."""
