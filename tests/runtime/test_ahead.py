"""Work done in threads ahead of its use: in order, never far ahead, and ended when nobody wants more."""

import threading
import time

import pytest

from da3.runtime.system.ahead import done_ahead


def test_in_order_whatever_takes_longer():
    def make(number):
        time.sleep(0.01 if number % 3 == 0 else 0)
        return number * number

    assert list(done_ahead(make, range(20), 3)) == [n * n for n in range(20)]
    assert list(done_ahead(make, [], 3)) == []


def test_no_more_than_is_needed_is_in_flight():
    started, lock = [], threading.Lock()

    def make(number):
        with lock:
            started.append(number)
        return number

    made = done_ahead(make, iter(range(1000)), workers=2, taken=3)
    for taken in range(1, 101):
        next(made)
        assert len(started) <= taken - 1 + 3 + 2 * 2
    made.close()
    assert 100 <= len(started) <= 99 + 3 + 2 * 2


def test_it_runs_beside_who_takes():
    """Two threads wait for each other: neither would come on alone."""
    both = threading.Barrier(2, timeout=20)
    assert list(done_ahead(lambda number: (both.wait(), number)[1], range(4), 2)) == [0, 1, 2, 3]


def test_an_error_comes_where_its_item_would():
    def make(number):
        if number == 2:
            raise ValueError("the third")
        return number

    made = done_ahead(make, range(5), 2)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(made)


def test_what_has_not_begun_is_not_done_when_it_is_closed():
    begun, go, before = [], threading.Event(), threading.active_count()

    def make(number):
        begun.append(number)
        if number:
            go.wait(20)
        return number

    made = done_ahead(make, range(50), workers=1, taken=10)
    assert next(made) == 0
    threading.Timer(0.05, go.set).start()
    made.close()
    assert begun in ([0], [0, 1]) and threading.active_count() <= before + 1  # the timer
