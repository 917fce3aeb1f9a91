"""Hosts and paths of a snapshot, compiled into dictionaries: a look-up costs O(elements of the path), not O(routes).

Priority (Gateway API): exact host before wildcard; then exact path, then the longest prefix by path element, then the
route's name. The best host decides alone: a wildcard does not catch what an exact host leaves open.
"""

from collections.abc import Iterable

from l7.routing.path import PathRefused, normalise
from orchestrator.contract.route import Host, PathMatchKind, Route


class Target:
    """Where a route leads. Compared by identity."""

    __slots__ = ("backend", "grpc_max_deadline_s", "host", "route", "timeout_s")

    def __init__(
        self, *, host: str, route: str, backend: str, timeout_s: float, grpc_max_deadline_s: float | None = None
    ) -> None:
        self.host = host
        """As the configuration names it: it may be a wildcard."""
        self.route = route
        self.backend = backend
        self.timeout_s = timeout_s
        self.grpc_max_deadline_s = grpc_max_deadline_s
        """The longest that a gRPC call may take; None: as long as its client asks for."""

    def __repr__(self) -> str:
        return f"Target({self.host} {self.route} → {self.backend})"


class _Paths:
    """The routes of one host."""

    __slots__ = ("_exact", "_longest", "_prefixes", "_root")

    def __init__(self, host: Host) -> None:
        self._exact: dict[bytes, Target] = {}
        self._prefixes: dict[bytes, Target] = {}
        for route in sorted(host.routes, key=lambda route: route.name):
            path = _normal_path(host, route)
            target = Target(
                host=host.name,
                route=route.name,
                backend=route.backend,
                timeout_s=route.timeout_s,
                grpc_max_deadline_s=route.grpc_max_deadline_s,
            )
            if route.kind is PathMatchKind.EXACT:
                self._exact.setdefault(path, target)
            else:
                # `/a` and `/a/` are one prefix (Gateway API, PathPrefix).
                self._prefixes.setdefault(path.rstrip(b"/"), target)
        self._root = self._prefixes.pop(b"", None)
        self._longest = max(map(len, self._prefixes), default=0)

    def match(self, path: bytes) -> Target | None:
        target = self._exact.get(path)
        if target is not None or not self._longest:
            return target or self._root
        end = len(path)
        if end > self._longest:
            # Nothing longer can match: start at the last element border that the longest prefix could end at.
            end = path.rfind(b"/", 0, self._longest + 1)
        prefixes = self._prefixes
        while end > 0:
            target = prefixes.get(path[:end])
            if target is not None:
                return target
            end = path.rfind(b"/", 0, end)
        return self._root

    def lines(self) -> Iterable[str]:
        for path, target in sorted(self._exact.items()):
            yield f"{target.host} = {path.decode('ascii')} → {target.backend} ({target.route})"
        for path, target in sorted(self._prefixes.items(), key=lambda item: (-len(item[0]), item[0])):
            yield f"{target.host} ^ {path.decode('ascii')} → {target.backend} ({target.route})"
        if self._root is not None:
            yield f"{self._root.host} ^ / → {self._root.backend} ({self._root.route})"


class Matcher:
    """The routes of a snapshot, immutable. Build a new one aside and swap it in."""

    __slots__ = ("_hosts", "_policies")

    def __init__(self, hosts: Iterable[Host]) -> None:
        """Compile.

        Raises:
            ValueError: a route's path has no normal form, so that no request could ever match it; names the route.
        """
        hosts = tuple(hosts)
        self._hosts = {host.name.encode("ascii"): _Paths(host) for host in hosts}
        self._policies = {
            host.name.encode("ascii"): host.client_certificate.digest
            for host in hosts
            if host.client_certificate is not None
        }

    def match(self, host: bytes, path: bytes) -> Target | None:
        """Target for a lower-case host name without port and a normalised path without query; None: no route."""
        paths = self._hosts.get(host) or self._hosts.get(b"*" + host[host.find(b".") :])
        return paths.match(path) if paths is not None else None

    def client_policy(self, host: bytes) -> str | None:
        """Digest of the client-certificate policy of a lower-case host name without port; None: it has none."""
        policies = self._policies
        if not policies:
            return None
        return policies.get(host if host in self._hosts else b"*" + host[host.find(b".") :])

    def explain(self) -> str:
        """One line per route, in order of priority, for people: `=` is exact, `^` a prefix."""
        return "\n".join(line for name in sorted(self._hosts) for line in self._hosts[name].lines())

    def __repr__(self) -> str:
        return f"Matcher({len(self._hosts)} hosts)"


def _normal_path(host: Host, route: Route) -> bytes:
    try:
        return normalise(route.path.encode("ascii"))
    except PathRefused as refused:
        raise ValueError(
            f"hosts[{host.name}].routes[{route.name}].path: {route.path!r} matches no request ({refused.reason}): "
            "write the path as requests have it after normalisation"
        ) from refused
