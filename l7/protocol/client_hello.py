"""The ClientHello at the start of a TLS connection, read before anybody answers it (RFC 8446 section 4.1.2).

Reads what is needed to choose who answers: the server name, the protocols, the versions. Nothing is decrypted and
nothing is consumed: the caller peeks, and gives all bytes so far each time. How long it waits for the rest is the
caller's to bound.

Strict where two readers could see two names (a repeated extension, a second host name, lengths that disagree);
values that it does not know (GREASE, RFC 8701; extensions and versions to come) are passed over.
"""

import re
import struct
from typing import Final

from l7.limits import MAX_HELLO_BYTES, MAX_HELLO_RECORDS

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_MAX_RECORD: Final = 1 << 14
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43
_ENCRYPTED_CLIENT_HELLO: Final = 0xFE0D
_READ: Final = frozenset((_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS))

_NUMBER: Final = struct.Struct("!H").unpack_from
_EXTENSION: Final = struct.Struct("!HH").unpack_from

#: RFC 6066 section 3: a DNS name in ASCII without a trailing dot. Underscores are in use.
_HOST_NAME: Final = re.compile(rb"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class NotAClientHello(Exception):
    """What came is none, or none that is served. `reason`: `not_tls`, `oversized`, `malformed`, `server_name`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Incomplete(Exception):
    """So far it may be one. Raised until it is whole."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"at least {needed} bytes are needed")
        self.needed = needed
        """Bytes in all below which nothing new can be said; more than were given."""


class ClientHello:
    """What a client asks for, before anything is agreed or proved."""

    __slots__ = ("encrypted", "protocols", "server_name", "versions")

    def __init__(
        self,
        *,
        server_name: str | None,
        protocols: tuple[bytes, ...],
        versions: tuple[int, ...],
        encrypted: bool,
    ) -> None:
        self.server_name = server_name
        """Lower case; None if it names nobody. With `encrypted` it is the outer one."""
        self.protocols = protocols
        """Of ALPN (RFC 7301), in the client's order."""
        self.versions = versions
        """As on the wire: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3; unknown ones and GREASE too."""
        self.encrypted = encrypted
        """Whether it carries Encrypted ClientHello (or GREASE that looks the same)."""

    def __repr__(self) -> str:
        return f"ClientHello({self.server_name}, {self.protocols})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClientHello) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]


def read_client_hello(data: bytes) -> ClientHello:
    """Read the ClientHello that begins `data`, which may be too short or longer than it.

    However the bytes are cut on the way, the verdict on the whole is the same, and a refusal of a part stands.

    Raises:
        Incomplete: more bytes are needed to say.
        NotAClientHello: more bytes would not help.
    """
    message = _message(data)
    try:
        return _read(message)
    except (_Malformed, IndexError, struct.error):
        raise NotAClientHello("malformed") from None


def _message(data: bytes) -> bytes:
    """The handshake message, out of its records; without its header."""
    body = b""
    at = 0
    for _ in range(MAX_HELLO_RECORDS):
        header = data[at : at + 5]
        if header[:1] not in (b"", b"\x16") or header[1:2] not in (b"", b"\x03"):
            raise NotAClientHello("malformed" if at else "not_tls")
        if len(header) < 5:
            raise Incomplete(at + 5)
        size = int.from_bytes(header[3:], "big")
        if not 0 < size <= _MAX_RECORD:
            raise NotAClientHello("malformed" if at else "not_tls")
        end = at + 5 + size
        if end > MAX_HELLO_BYTES:
            raise NotAClientHello("oversized")
        if len(data) < end:
            raise Incomplete(end)
        body += data[at + 5 : end]
        if body[0] != _CLIENT_HELLO:
            raise NotAClientHello("malformed")
        if len(body) >= 4:
            length = int.from_bytes(body[1:4], "big")
            if length > MAX_HELLO_BYTES:
                raise NotAClientHello("oversized")
            if len(body) > 4 + length:
                # Nothing may follow in the same flight but early data, which is in records of another type.
                raise NotAClientHello("malformed")
            if len(body) == 4 + length:
                return body[4:]
        at = end
    raise NotAClientHello("oversized")


class _Malformed(Exception):
    pass


def _read(message: bytes) -> ClientHello:
    """The structure in the order of RFC 8446 section 4.1.2. By offsets: this is done for every connection."""
    size = len(message)
    at = 34  # version and random
    at += 1 + message[at]  # session id
    (ciphers,) = _NUMBER(message, at)
    at += 2 + ciphers
    compressions = message[at]
    at += 1 + compressions
    if not ciphers or not compressions or at > size:
        raise _Malformed
    versions = _NUMBER(message)
    server_name: str | None = None
    protocols: tuple[bytes, ...] = ()
    seen: set[int] = set()
    if at < size:
        if at + 2 + _NUMBER(message, at)[0] != size:
            raise _Malformed
        at += 2
    while at < size:
        kind, length = _EXTENSION(message, at)
        at += 4 + length
        if kind in seen or at > size:
            raise _Malformed
        seen.add(kind)
        if kind in _READ:
            content = message[at - length : at]
            if kind == _SERVER_NAME:
                server_name = _server_name(content)
            elif kind == _ALPN:
                protocols = _protocols(content)
            else:
                versions = _versions(content)
    encrypted = _ENCRYPTED_CLIENT_HELLO in seen
    return ClientHello(server_name=server_name, protocols=protocols, versions=versions, encrypted=encrypted)


def _server_name(content: bytes) -> str:
    """RFC 6066 section 3: a list, of which OpenSSL too takes exactly one entry, of type host_name."""
    if len(content) < 5 or int.from_bytes(content[:2], "big") != len(content) - 2:
        raise _Malformed
    name = content[5:]
    if content[2] or int.from_bytes(content[3:5], "big") != len(name):
        raise NotAClientHello("server_name")
    if len(name) > 255 or not _HOST_NAME.fullmatch(name):
        raise NotAClientHello("server_name")
    return name.decode("ascii").lower()


def _protocols(content: bytes) -> tuple[bytes, ...]:
    if len(content) < 3 or int.from_bytes(content[:2], "big") != len(content) - 2:
        raise _Malformed
    protocols = []
    at = 2
    while at < len(content):
        length = content[at]
        at += 1 + length
        if not length or at > len(content):
            raise _Malformed
        protocols.append(content[at - length : at])
    return tuple(protocols)


def _versions(content: bytes) -> tuple[int, ...]:
    if len(content) < 3 or content[0] != len(content) - 1 or content[0] % 2:
        raise _Malformed
    return struct.unpack_from(f"!{content[0] // 2}H", content, 1)
