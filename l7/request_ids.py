"""Request ids: 128 random bits each, as 32 hexadecimal digits."""

import os
from collections.abc import Callable

#: Ids made from one read of the system's randomness.
BATCH = 256
DIGITS = 32


class RequestIds:
    """Hands out ids. The system call and the formatting are shared by a batch."""

    __slots__ = ("_at", "_digits", "_random")

    def __init__(self, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random_bytes
        self._digits = ""
        self._at = 0

    def next(self) -> str:
        """An id that nobody can guess and that was not given out before."""
        at = self._at
        if at >= len(self._digits):
            self._digits = self._random(BATCH * DIGITS // 2).hex()
            at = 0
        self._at = at + DIGITS
        return self._digits[at : at + DIGITS]
