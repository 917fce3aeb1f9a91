"""How a peer of an HTTP/2 connection behaves: what each kind of flood may cost it.

Nothing here is wrong by itself: every frame is allowed, and a client that pings now and then is welcome. So each kind
has an allowance: in proportion to the work that justifies it (as Envoy does, with more to begin with), or a bucket that
leaks with time, for keep-alive pings go on for weeks. Who has used up three quarters of one is asked to leave (HAProxy:
graceful GOAWAY at 75 % of its glitch threshold), who has used it up is closed.

| kind            | what counts                                             | allowance                                |
|-----------------|---------------------------------------------------------|------------------------------------------|
| `rapid_reset`   | requests reset by the client before their answer began  | half of the requests, but 250            |
| `settings`      | SETTINGS                                                | `control` bucket                         |
| `ping`          | PING                                                    | one for each DATA sent, `control` bucket |
| `unknown`       | frames of unknown types                                 | `control` bucket                         |
| `goaway`        | GOAWAY                                                  | `control` bucket                         |
| `priority`      | PRIORITY, PRIORITY_UPDATE (RFC 9218)                    | 100 × (1 + streams)                      |
| `window_update` | WINDOW_UPDATE                                           | 50 + 2 × (streams + 10 × DATA sent)      |
| `empty`         | DATA and CONTINUATION without a byte and without an end | `glitch` bucket                          |
| `glitch`        | streams refused or broken, frames on closed ones (1)    | `glitch` bucket                          |
| `continuation`  | a header block of too many frames or bytes              | none: closed at once                     |
| `hpack`         | a header block that unfolds to more than 64 KiB         | none: closed at once                     |

(1) but for what may have crossed our own RST_STREAM: DATA up to the stream's window, and one RST_STREAM.
"""

from l7 import limits


class _Bucket:
    """Fills by one per event, leaks with time."""

    __slots__ = ("_at", "_leak_per_s", "level")

    def __init__(self, leak_per_s: float) -> None:
        self._leak_per_s = leak_per_s
        self._at = 0.0
        self.level = 0.0

    def add(self, now: float) -> float:
        self.level = max(0.0, self.level - (now - self._at) * self._leak_per_s) + 1.0
        self._at = now
        return self.level


class Conduct:
    """One connection's account. Methods give the share of the allowance that is used: 1 and more is a flood."""

    __slots__ = ("_control", "_glitches", "_pings", "_priorities", "_resets", "_window_updates", "data_sent", "streams")

    def __init__(self) -> None:
        self.streams = 0
        """Begun by the peer so far."""
        self.data_sent = 0
        """DATA frames that we have sent."""
        self._pings = 0
        self._priorities = 0
        self._window_updates = 0
        self._resets = 0
        self._control = _Bucket(limits.H2_CONTROL_FRAMES_PER_S)
        self._glitches = _Bucket(limits.H2_GLITCHES_PER_S)

    def __repr__(self) -> str:
        return (
            f"<Conduct: {self.streams} streams, {self._resets} reset early, {self._priorities} PRIORITY, "
            f"{self._window_updates} WINDOW_UPDATE, {self._control.level:.0f} control, "
            f"{self._glitches.level:.0f} glitches>"
        )

    def control(self, now: float) -> float:
        """SETTINGS, PING, or a frame of a type unknown."""
        return self._control.add(now) / limits.H2_MAX_CONTROL_FRAMES

    def ping(self, now: float) -> float:
        """PING. gRPC's libraries measure the bandwidth of what they receive by pings, up to one a round trip."""
        if self._pings < self.data_sent:
            self._pings += 1
            return 0.0
        return self.control(now)

    def glitch(self, now: float) -> float:
        """Something that no sane client does often."""
        return self._glitches.add(now) / limits.H2_MAX_GLITCHES

    def priority(self) -> float:
        """PRIORITY."""
        self._priorities += 1
        return self._priorities / (100 * (1 + self.streams))

    def window_update(self) -> float:
        """WINDOW_UPDATE."""
        self._window_updates += 1
        return self._window_updates / (50 + 2 * (self.streams + 10 * self.data_sent))

    def early_reset(self) -> float:
        """A request was reset before its answer began."""
        self._resets += 1
        return self._resets / (0.5 * max(self.streams, limits.H2_RESETS_FREE_REQUESTS))
