"""Pieces of work come back in order, none is taken long ahead, and failures are raised."""

import time
from itertools import count

import numpy as np
import pytest
import torch

from tgems_export.threads import in_order, one_thread


@pytest.mark.parametrize("threads", [1, 4])
def test_results_come_in_the_order_of_the_items(monkeypatch, threads):
    monkeypatch.setenv("TGEMS_NUM_THREADS", str(threads))

    def square(number):
        time.sleep(0.001 * (number % 3))
        return number**2

    assert list(in_order(square, range(30))) == [number**2 for number in range(30)]


def test_items_are_taken_only_a_few_ahead(monkeypatch):
    monkeypatch.setenv("TGEMS_NUM_THREADS", "2")
    taken = []
    results = in_order(str, (taken.append(number) or number for number in count()))
    assert [next(results) for _ in range(5)] == list("01234")
    results.close()
    assert len(taken) <= 8


def test_a_failure_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda number: 1 / number, [1, 0]))


def test_one_thread_is_that_of_new_threads_too_and_ends():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert list(in_order(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_bits_of_a_product_do_not_depend_on_the_threads():
    left, right = np.random.default_rng(0).standard_normal((2, 300, 300), dtype=np.float32)
    products = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with one_thread():
            products.append((torch.from_numpy(left) @ torch.from_numpy(right), left @ right))
    torch.set_num_threads(1)
    assert torch.equal(products[0][0], products[1][0]) and np.array_equal(products[0][1], products[1][1])
