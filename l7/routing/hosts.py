"""Host names: which ones a certificate covers."""

from collections.abc import Iterable


class HostCover:
    """The host names of a certificate; a wildcard stands for one label (RFC 6125 section 6.4.3)."""

    __slots__ = ("_names",)

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.encode("ascii") for name in names)

    def covers(self, host: bytes) -> bool:
        """Whether the certificate serves this lower-case host name."""
        names = self._names
        return host in names or b"*" + host[host.find(b".") :] in names

    def __repr__(self) -> str:
        return f"HostCover({', '.join(sorted(name.decode('ascii') for name in self._names))})"
