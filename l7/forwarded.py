"""Who the client is, and what upstream is told about it: X-Forwarded-For, -Proto, -Host, and Forwarded (RFC 7239).

What a client says about itself is thrown away, unless the configuration trusts a number of hops before the proxy (other
proxies, a CDN), each of which appends the address that it saw to X-Forwarded-For:

```
 client ──▶ hop 2 ──▶ hop 1 ──▶ this proxy, trusted_hops: 2
            appends   appends   X-Forwarded-For: forged, CLIENT, HOP2      peer: HOP1
            CLIENT    HOP2      sends                    CLIENT, HOP2, HOP1
```

So the client is the entry that is `trusted_hops` from the right, and nothing left of it is believed or passed on. With
fewer entries than hops, or one that is no address, somebody came around a hop: then nothing is believed at all, as by
Envoy (`xff_num_trusted_hops`), and that is counted.
"""

import re
from ipaddress import ip_address
from typing import Final

from l7.protocol.message import Headers

#: Characters of a host with or without a port.
_HOST: Final = re.compile(rb"[0-9A-Za-z._:\[\]-]{1,261}")


class Unbelievable(Exception):
    """What trusted hops must have said is not there, or is no address."""


class Origin:
    """Where a request came from."""

    __slots__ = ("client", "lines")

    def __init__(self, client: str, lines: bytes) -> None:
        self.client = client
        """Address without port."""
        self.lines = lines
        """Header lines for upstream heads, each with its end."""

    def __repr__(self) -> str:
        return f"Origin({self.client})"


def direct_origin(peer: str, *, tls: bool) -> Origin:
    """Of a connection whose other end is the client."""
    proto = b"https" if tls else b"http"
    address = peer.encode("ascii")
    element = b"for=%b;proto=%b" % (_node(address), proto)
    return Origin(
        peer, b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nforwarded: %b\r\n" % (address, proto, element)
    )


def told_origin(peer: str, *, tls: bool, claims: Headers, trusted_hops: int) -> Origin:
    """As `trusted_hops` hops before this one tell it; `claims`: X-Forwarded-* fields that came, in order.

    Raises:
        Unbelievable: they tell nothing that can be believed.
    """
    ours = b"https" if tls else b"http"
    proto, host = ours, b""
    said: list[bytes] = []
    for name, value in claims:
        if name == b"x-forwarded-for":
            said.append(value)
        elif name == b"x-forwarded-proto" and value.lower() in (b"http", b"https"):
            proto = value.lower()
        elif name == b"x-forwarded-host" and _HOST.fullmatch(value):
            host = value
    entries = b",".join(said).rsplit(b",", trusted_hops)[-trusted_hops:]
    if len(entries) < trusted_hops:
        raise Unbelievable
    addresses = [*map(_address, entries), peer.encode("ascii")]
    elements = [b"for=" + _node(address) for address in addresses]
    elements[0] += b";proto=" + proto
    elements[-1] += b";proto=" + ours
    lines = [
        b"x-forwarded-for: " + b", ".join(addresses),
        b"x-forwarded-proto: " + proto,
        b"forwarded: " + b", ".join(elements),
    ]
    if host:
        lines.append(b"x-forwarded-host: " + host)
    lines.append(b"")
    return Origin(addresses[0].decode("ascii"), b"\r\n".join(lines))


def _address(entry: bytes) -> bytes:
    """One entry's address, in its usual form; some write a port behind it, and brackets around an IPv6 one."""
    entry = entry.strip(b" \t")
    if entry.startswith(b"["):
        entry = entry[1:].partition(b"]")[0]
    elif entry.count(b":") == 1:
        entry = entry.partition(b":")[0]
    try:
        return str(ip_address(entry.decode("ascii"))).encode("ascii")
    except ValueError:
        raise Unbelievable from None


def _node(address: bytes) -> bytes:
    """A `for` parameter's value (RFC 7239 section 6): IPv6 addresses are bracketed, hence quoted."""
    return b'"[%b]"' % address if b":" in address else address
