"""What became of a stream of numbered datagrams, each of which is answered."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class SequenceCount:
    """Numbers are given out from 0, in the order of sending; answers bring them back."""

    sent: int = 0
    answered: int = 0
    """Numbers that came back, each counted once."""
    duplicated: int = 0
    """Answers beyond the first to a number."""
    reordered: int = 0
    """First answers to a number that came after the answer to a later one (RFC 4737 section 3)."""
    strange: int = 0
    """Answers to numbers that were never sent."""
    _seen: bytearray = field(default_factory=bytearray, repr=False)
    _newest: int = -1

    @property
    def lost(self) -> int:
        """Not answered; while the stream goes on, some of these are on their way."""
        return self.sent - self.answered

    def next_number(self) -> int:
        """For the datagram that is sent now."""
        number = self.sent
        self.sent += 1
        self._seen.append(0)
        return number

    def take(self, number: int) -> None:
        """An answer came."""
        if not 0 <= number < self.sent:
            self.strange += 1
        elif self._seen[number]:
            self.duplicated += 1
        else:
            self._seen[number] = 1
            self.answered += 1
            self.reordered += number < self._newest
            self._newest = max(self._newest, number)
