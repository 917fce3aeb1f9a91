"""Choice of a server: least requests, by the power of two choices (Mitzenmacher, IEEE TPDS 2001).

Each request looks at two random servers and takes the less busy one. That comes close to always taking the least busy
one, without the herd that follows when many workers all see the same one as the least busy.
"""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar


class Candidate(Protocol):
    """What the balancer looks at."""

    @property
    def healthy(self) -> bool:
        """Whether the server may be given requests."""

    @property
    def active(self) -> int:
        """Requests in progress from this worker, and connections being opened for one."""


S = TypeVar("S", bound=Candidate)


class LeastRequest(Generic[S]):
    """Balances one backend. Call `refresh` whenever a server's health has changed."""

    __slots__ = ("_below", "_choices", "_panicking", "_servers", "panics")

    def __init__(self, servers: Sequence[S], below: Callable[[int], int]) -> None:
        """`below(n)` gives a random integer 0 ≤ x < n (`random.Random().randrange`)."""
        self._servers = tuple(servers)
        self._below = below
        self.panics = 0
        """Choices made among unhealthy servers because no server was healthy."""
        self.refresh()

    def refresh(self) -> None:
        """Sort the servers into healthy and not, anew."""
        self._choices = tuple(server for server in self._servers if server.healthy)
        self._panicking = not self._choices
        if self._panicking:
            # Envoy's panic routing: when all are reported down, the report is the likelier fault.
            self._choices = self._servers

    def choose(self) -> S | None:
        """The less busy of two random healthy servers; of two unhealthy ones if none is healthy (counted in `panics`);
        None if the backend has no server."""
        choices = self._choices
        count = len(choices)
        if not count:
            return None
        if self._panicking:
            self.panics += 1
        if count == 1:
            return choices[0]
        below = self._below
        one = below(count)
        two = below(count - 1)
        first = choices[one]
        second = choices[two + (two >= one)]
        return second if second.active < first.active else first

    def __repr__(self) -> str:
        healthy = 0 if self._panicking else len(self._choices)
        return f"LeastRequest({healthy} of {len(self._servers)} healthy, {self.panics} panics)"
