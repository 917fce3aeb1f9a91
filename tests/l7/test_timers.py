"""The timer wheel: no deadline fires early, none is lost, and a moved one fires once."""

from hypothesis import given
from hypothesis import strategies as st

from l7.timers import NEVER, Timed, TimerWheel

TICK = 0.1


def turn(wheel: TimerWheel[Timed], now: float) -> int:
    """Turn the wheel as the reactor does; how many fired."""
    due = wheel.turn(now)
    for item in due:
        item.expired(now)
    return len(due)


class Alarm(Timed):
    def __init__(self) -> None:
        super().__init__()
        self.rang_at: list[float] = []

    def expired(self, now: float) -> None:
        self.rang_at.append(now)


def make_wheel(now: float = 0.0) -> TimerWheel[Timed]:
    return TimerWheel(now, tick_s=TICK, slots=16)


def test_a_deadline_fires_once_and_not_early() -> None:
    wheel, alarm = make_wheel(), Alarm()
    wheel.set(alarm, 0.45)
    assert turn(wheel, 0.44) == 0
    assert turn(wheel, 0.51) == 1
    assert turn(wheel, 9.0) == 0
    assert alarm.rang_at == [0.51]
    assert alarm.deadline == NEVER


def test_a_later_deadline_replaces_an_earlier_one() -> None:
    wheel, alarm = make_wheel(), Alarm()
    wheel.set(alarm, 0.2)
    wheel.set(alarm, 0.9)
    assert turn(wheel, 0.5) == 0
    assert turn(wheel, 1.0) == 1


def test_an_earlier_deadline_replaces_a_later_one() -> None:
    wheel, alarm = make_wheel(), Alarm()
    wheel.set(alarm, 1.2)
    wheel.set(alarm, 0.2)
    assert turn(wheel, 0.4) == 1
    assert turn(wheel, 2.0) == 0
    assert len(wheel) == 0


def test_a_deadline_beyond_the_wheel_waits_its_time() -> None:
    wheel, alarm = make_wheel(), Alarm()
    wheel.set(alarm, 10.0)
    for step in range(1, 100):
        assert turn(wheel, step * TICK) == 0
    assert turn(wheel, 10.1) == 1


def test_a_deadline_in_the_past_fires_at_the_next_tick() -> None:
    wheel, alarm = make_wheel(5.0), Alarm()
    wheel.set(alarm, 1.0)
    assert turn(wheel, 5.2) == 1


def test_a_cleared_or_removed_deadline_never_fires() -> None:
    wheel, cleared, removed = make_wheel(), Alarm(), Alarm()
    wheel.set(cleared, 0.3)
    wheel.set(removed, 0.3)
    wheel.clear(cleared)
    wheel.remove(removed)
    assert turn(wheel, 5.0) == 0
    assert len(wheel) == 0


class Again(Timed):
    def __init__(self, wheel: TimerWheel[Timed]) -> None:
        super().__init__()
        self.wheel = wheel
        self.count = 0

    def expired(self, now: float) -> None:
        self.count += 1
        self.wheel.set(self, now + 1.0)


def test_an_alarm_may_set_itself_again() -> None:
    wheel = make_wheel()
    again = Again(wheel)
    wheel.set(again, 1.0)
    for step in range(1, 51):
        turn(wheel, step * TICK)
    assert 4 <= again.count <= 5


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(0.0, 5.0), st.floats(0.0, 0.7)),
        max_size=60,
    )
)
def test_whatever_the_moves_each_alarm_rings_within_a_tick_of_its_last_deadline(
    moves: list[tuple[int, float, float]],
) -> None:
    wheel = make_wheel()
    alarms = [Alarm() for _ in range(4)]
    expected: dict[int, float] = {}
    now = 0.0
    for index, delay, passes in moves:
        expected[index] = now + delay
        wheel.set(alarms[index], now + delay)
        # The wheel turns once a tick, as the reactor turns it.
        until = now + passes
        while now < until:
            now = min(now + TICK / 2, until)
            before = [len(alarm.rang_at) for alarm in alarms]
            turn(wheel, now)
            for i, alarm in enumerate(alarms):
                if len(alarm.rang_at) > before[i]:
                    assert i in expected
                    assert expected[i] <= now <= expected.pop(i) + 2 * TICK + 1e-9
    turn(wheel, now + 10.0)
    assert all(alarm.deadline == NEVER for alarm in alarms)
    assert len(wheel) == 0
