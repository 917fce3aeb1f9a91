"""The reactor: fairness, containment of failures, and no event for a connection that is gone."""

import socket
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from l7 import limits
from l7.reactor import READ, Pollable, Reactor


class Item(Pollable):
    """Counts its steps; `act` says what a step does."""

    def __init__(self, act: Callable[["Item"], bool] = lambda item: False) -> None:
        super().__init__()
        self.act = act
        self.ends = socket.socketpair()
        self.steps = 0
        self.rang = 0
        self.has_failed = False

    def step(self, events: int) -> bool:
        self.steps += 1
        return self.act(self)

    def settle(self) -> None:
        """Notes nothing."""

    def expired(self, now: float) -> None:
        self.rang += 1

    def failed(self) -> None:
        self.has_failed = True

    def close(self) -> None:
        for end in self.ends:
            end.close()


class Clock:
    """Time that passes only when told, or by `per_look` each time somebody looks."""

    def __init__(self) -> None:
        self.time = 100.0
        self.per_look = 0.0

    def __call__(self) -> float:
        self.time += self.per_look
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reactor(clock: Clock) -> Iterator[Reactor]:
    reactor = Reactor(clock=clock)
    yield reactor
    reactor.close()


def ready(reactor: Reactor, item: Item) -> Item:
    """Put an item in whose socket has something to read."""
    item.ends[1].send(b"x")
    reactor.add(item, item.ends[0].fileno(), READ)
    return item


def test_an_item_that_raises_is_ended_and_the_others_go_on(reactor: Reactor) -> None:
    def broken(item: Item) -> bool:
        raise ValueError("a bug")

    bad, good = ready(reactor, Item(broken)), ready(reactor, Item())
    reactor.run_batch()
    reactor.run_batch()
    assert (bad.steps, bad.has_failed, good.steps) == (1, True, 2)
    assert reactor.failures == 1
    assert len(reactor) == 1
    bad.close()
    good.close()


def test_an_item_closed_earlier_in_the_batch_is_not_stepped(reactor: Reactor) -> None:
    items: list[Item] = []

    def drop_the_others(item: Item) -> bool:
        for other in items:
            if other is not item:
                reactor.drop(other)
        return False

    items += [ready(reactor, Item(drop_the_others)) for _ in range(3)]
    reactor.run_batch()
    assert sum(item.steps for item in items) == 1
    for item in items:
        item.close()


def test_a_batch_ends_when_its_time_is_over_and_the_rest_comes_next(reactor: Reactor, clock: Clock) -> None:
    items = [ready(reactor, Item()) for _ in range(4)]
    clock.per_look = limits.BATCH_S * 0.6
    reactor.run_batch()
    assert sum(item.steps for item in items) == 1
    clock.per_look = 0.0
    reactor.run_batch()
    assert all(item.steps >= 1 for item in items)
    for item in items:
        item.close()


def test_what_a_batch_did_not_reach_is_stepped_once_in_the_next(reactor: Reactor, clock: Clock) -> None:
    items = [ready(reactor, Item()) for _ in range(4)]
    clock.per_look = limits.BATCH_S * 0.6
    reactor.run_batch()
    clock.per_look = 0.0
    reactor.run_batch()
    assert sorted(item.steps for item in items) == [1, 1, 1, 2]
    for item in items:
        item.close()


def test_work_left_is_taken_up_though_nothing_signals_it(reactor: Reactor) -> None:
    def three_rounds(item: Item) -> bool:
        item.ends[0].setblocking(False)
        if item.steps == 1:
            item.ends[0].recv(10)
        return item.steps < 3

    item = ready(reactor, Item(three_rounds))
    for _ in range(5):
        reactor.run_batch()
    assert item.steps == 3
    item.close()


def test_a_deadline_fires_and_a_dropped_item_has_none(reactor: Reactor, clock: Clock) -> None:
    kept, dropped = Item(), Item()
    for item in (kept, dropped):
        reactor.add(item, item.ends[0].fileno(), READ)
        reactor.wheel.set(item, clock.time + 1.0)
    reactor.drop(dropped)
    clock.time += 2.0
    reactor.turn_wheel()
    assert (kept.rang, dropped.rang) == (1, 0)
    kept.close()
    dropped.close()


async def test_work_handed_over_by_another_task_wakes_the_reactor() -> None:
    reactor = Reactor()
    stepped = trio.Event()

    def notice(item: Item) -> bool:
        stepped.set()
        return False

    item = Item(notice)
    reactor.add(item, item.ends[0].fileno(), READ)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        await trio.testing.wait_all_tasks_blocked()
        reactor.step_soon(item)
        with trio.fail_after(5):
            await stepped.wait()
        nursery.cancel_scope.cancel()
    reactor.close()
    item.close()


async def test_a_busy_reactor_leaves_other_tasks_their_turn() -> None:
    reactor = Reactor()
    item = Item(lambda item: True)  # never done
    reactor.add(item, item.ends[0].fileno(), READ)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        reactor.step_soon(item)
        with trio.fail_after(5):
            for _ in range(10):
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert item.steps >= 5
    reactor.close()
    item.close()


class Writer(Item):
    """Is settled when others' steps ask for it."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def settle(self) -> None:
        self.log.append("settled")


@pytest.mark.parametrize(
    ("last", "order"),
    [(False, ["step", "settled", "step", "settled", "step", "settled"]), (True, ["step", "step", "step", "settled"])],
)
def test_who_is_settled_last_hears_once_of_what_a_whole_batch_had_to_say(
    reactor: Reactor, last: bool, order: list[str]
) -> None:
    log: list[str] = []
    writer = Writer(log)
    writer.settles_last = last
    asked = False

    def tell(_item: Item) -> bool:
        nonlocal asked
        log.append("step")
        if not (last and asked):
            reactor.settle_later(writer)
            asked = True
        return False

    items = [ready(reactor, Item(tell)) for _ in range(3)]
    reactor.run_batch()
    assert log == order
    # Outside a batch there is nothing to wait for.
    reactor.settle_later(writer)
    reactor.settle()
    assert log == [*order, "settled"]
    for item in (*items, writer):
        reactor.drop(item)
        item.close()
