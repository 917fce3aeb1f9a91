"""Attempts that come one upon the other wait; others do not."""

from l4.pace import FIRST_PAUSE_S, LONGEST_PAUSE_S, QUIET_S, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_first_attempt_waits_for_nothing() -> None:
    assert Pace(Clock()).wait_s == 0


def test_pauses_grow_to_the_longest_and_end() -> None:
    clock = Clock()
    pace = Pace(clock)
    pauses = []
    for _ in range(10):
        pace.attempted()
        pauses.append(round(pace.wait_s, 6))
        clock.now += pace.wait_s
        assert pace.wait_s == 0
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_after_a_quiet_time_all_is_forgotten() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(10):
        pace.attempted()
        clock.now += pace.wait_s
    clock.now += QUIET_S
    pace.attempted()
    assert round(pace.wait_s, 6) == FIRST_PAUSE_S


def test_a_storm_for_a_minute_is_answered_about_once_a_second() -> None:
    clock = Clock()
    pace = Pace(clock)
    attempts = 0
    while clock.now < 1060:
        if not pace.wait_s:
            pace.attempted()
            attempts += 1
        clock.now += 0.001
    assert 55 < attempts < 70
