"""`guard_ipv4`: an array of two halves. Packets read that which the settings name; new lists are written to the other.

A half that is written is emptied first, so nothing needs to be known of what it held. It is mapped bit by bit: what is
mapped counts as the process's memory.
"""

from collections.abc import Iterable, Iterator

from l4.balancer_settings import SettingsMap
from l4.guard_lists import HALF_OCTETS, WORD_OCTETS, Run
from l4.pins import ProgramPins

#: Octets that are mapped at a time. A half is a whole number of these, and each of these of pages.
_WINDOW = 1 << 20
_EMPTY = bytes(_WINDOW)


class ListHalves:
    """For one thread at a time."""

    def __init__(self, pins: ProgramPins, settings: SettingsMap) -> None:
        """`settings` are those of the same program."""
        self._map = pins.open("guard_ipv4")
        self._settings = settings

    def put(self, runs: Iterable[Run]) -> None:
        """Makes the lists those given, as a whole and between two packets. Raises OSError; they are as before then."""
        in_use = self._settings.lists_half()
        other = 0 if in_use is None else 1 - in_use
        self._write(other, runs)
        # Returns when no packet is left that reads the half which is written next.
        self._settings.name_lists_half(other)

    def _write(self, half: int, runs: Iterable[Run]) -> None:
        pieces = _pieces(runs)
        piece = next(pieces, None)
        for start in range(0, HALF_OCTETS, _WINDOW):
            with self._map.mapped(half * HALF_OCTETS + start, _WINDOW) as window:
                window[:] = _EMPTY
                while piece is not None and piece[0] < start + _WINDOW:
                    at, octets = piece
                    window[at - start : at - start + len(octets)] = octets
                    piece = next(pieces, None)


def _pieces(runs: Iterable[Run]) -> Iterator[tuple[int, bytes]]:
    """Octets and where they belong in a half, cut so that each lies in one window."""
    for word, octets, count in runs:
        at, left = word * WORD_OCTETS, count
        while left:
            number = min(left, (_WINDOW - at % _WINDOW) // len(octets))
            yield at, octets * number
            at += number * len(octets)
            left -= number
