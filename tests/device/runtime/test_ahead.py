"""Work ahead in a thread: like `map`, but not too far, and not for longer than it is wanted."""

import threading
from itertools import count, islice

import pytest

from tgems_edge.runtime.ahead import map_ahead


def square(number):
    return number * number


@pytest.mark.parametrize("ahead", [1, 2, 5, 100])
@pytest.mark.parametrize("items", [0, 1, 2, 10])
def test_results_are_those_of_map_in_their_order(items, ahead):
    assert list(map_ahead(square, range(items), ahead)) == [square(item) for item in range(items)]


def test_the_next_items_are_worked_on_before_they_are_asked_for():
    third = threading.Event()
    results = map_ahead(lambda item: third.set() if item == 2 else None, range(5), 2)
    next(results)
    assert third.wait(10)
    results.close()


def test_no_more_items_are_taken_than_allowed():
    taken = count()
    results = map_ahead(square, taken, 3)
    assert list(islice(results, 2)) == [0, 1]
    assert next(taken) == 2 + 3
    results.close()


def test_an_error_comes_when_its_result_would_have():
    results = map_ahead(lambda item: 1 // item, [1, 1, 0, 1], 4)
    assert list(islice(results, 2)) == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("end", ["close", "drain", "error", "forget"])
def test_the_thread_ends_with_the_iterator(end):
    before = threading.active_count()
    results = map_ahead(lambda item: 1 // item, range(5, 0 if end == "drain" else -1, -1), 2)
    next(results)
    assert threading.active_count() == before + 1
    if end == "close":
        results.close()
    elif end == "drain":
        assert len(list(results)) == 4
    elif end == "error":
        with pytest.raises(ZeroDivisionError):
            list(results)
    else:
        del results
    assert threading.active_count() == before


def test_closing_finishes_the_item_at_hand_and_no_other():
    begun, go_on, done = threading.Event(), threading.Event(), []

    def work(item):
        if item == 1:
            begun.set()
            assert go_on.wait(10)
        done.append(item)

    results = map_ahead(work, range(10), 5)
    next(results)
    assert begun.wait(10)
    threading.Timer(0.05, go_on.set).start()
    results.close()
    assert done == [0, 1]
