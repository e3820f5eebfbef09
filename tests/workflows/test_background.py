"""Reading ahead and writing behind keep order, pass errors on and lose nothing."""

import threading
import time

import pytest

from topohead.workflows.background import Behind, ahead


def test_items_come_in_order_and_are_made_before_they_are_wanted():
    begun: list[int] = []
    wanted = threading.Event()

    def make(item: int) -> int:
        begun.append(item)
        if item == 2:
            wanted.set()
        return item * item

    items = ahead(make, range(6), waiting=2)
    assert next(items) == 0
    assert wanted.wait(5), "the third is made while the first is worked on"
    assert max(begun) == 2, "and no more than asked for"
    assert list(items) == [1, 4, 9, 16, 25]


def test_an_item_that_cannot_be_made_raises_in_its_turn():
    def make(item: int) -> int:
        if item == 1:
            raise ValueError("broken")
        return item

    items = ahead(make, range(9))
    assert next(items) == 0
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_nothing_is_made_once_the_reader_is_closed():
    begun: list[int] = []

    def make(item: int) -> int:
        time.sleep(0.01)
        begun.append(item)
        return item

    items = ahead(make, range(100), waiting=4)
    next(items)
    items.close()
    count = len(begun)
    time.sleep(0.05)
    assert len(begun) == count < 7


def test_calls_are_made_in_order_and_all_of_them_when_the_caller_fails():
    done: list[int] = []

    def call(item: int) -> None:
        time.sleep(0.01)
        done.append(item)

    with pytest.raises(KeyboardInterrupt), Behind(waiting=2) as writer:
        for item in range(8):
            writer.do(call, item)
            assert item - len(done) <= 3, "only a few may wait"
            if item == 6:
                raise KeyboardInterrupt
    assert done == list(range(7))


def test_a_failed_call_reaches_the_caller_and_stops_those_after_it():
    done: list[int] = []

    def call(item: int) -> None:
        if item == 1:
            raise OSError("disk full")
        done.append(item)

    with pytest.raises(OSError, match="disk full"), Behind(waiting=1) as writer:
        for item in range(50):
            writer.do(call, item)
    assert done == [0]
    with pytest.raises(OSError, match="disk full"), Behind() as writer:
        writer.do(call, 1)
    assert done == [0]
