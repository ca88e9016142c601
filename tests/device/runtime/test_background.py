"""Calls in another thread: what they give, what they raise, and that nobody has to wait for them."""

import threading
import time

import pytest

from tgems_edge.runtime.background import Overdue, call, call_beside, is_any_left


def fail():
    raise KeyError("reason")


def nothing():
    pass


def test_a_call_gives_what_it_returns_and_raises_what_it_raises():
    assert call(lambda: 42, None, nothing) == call(lambda: 42, 10, nothing) == 42
    with pytest.raises(KeyError, match="reason"):
        call(fail, None, nothing)


def test_one_thread_serves_many_calls():
    call(nothing, None, nothing)
    before = threading.active_count()
    assert len({call(threading.get_ident, None, nothing) for _ in range(20)} - {threading.get_ident()}) == 1
    assert threading.active_count() == before


def test_one_that_ends_when_it_is_told_to_leaves_nothing_behind():
    told = threading.Event()
    with pytest.raises(Overdue):
        call(lambda: told.wait(60), 0.01, told.set)
    assert not is_any_left()


def test_one_that_does_not_is_left(monkeypatch):
    monkeypatch.setattr("tgems_edge.runtime.background.GRACE", 0.01)
    monkeypatch.setattr("tgems_edge.runtime.background._left", [])
    late = threading.Event()
    started = time.monotonic()
    with pytest.raises(Overdue):
        call(lambda: late.wait(60), 0.01, nothing)
    assert time.monotonic() - started < 30
    assert is_any_left()
    assert call(lambda: 42, 10, nothing) == 42  # another thread goes on
    late.set()


def test_two_at_once():
    both = threading.Barrier(2, timeout=30)
    call_beside(both.wait, both.wait)


@pytest.mark.parametrize(("here", "there"), [(fail, nothing), (nothing, fail)])
def test_either_of_two_may_fail(here, there):
    with pytest.raises(KeyError):
        call_beside(here, there)


def test_what_fails_in_the_other_thread_goes_first():
    def fail_otherwise():
        raise OSError

    with pytest.raises(KeyError):
        call_beside(fail_otherwise, fail)
