"""Stages that overlap: order, bounds and errors."""

from __future__ import annotations

import pytest

from dwpose_core.stages import prefetch, run_ahead


def test_prefetch_keeps_order_bounds_and_errors():
    made = []

    def numbers():
        for i in range(100):
            made.append(i)
            yield i
        raise ValueError("the end")

    ahead = prefetch(numbers(), 3)
    assert next(ahead) == 0
    assert len(made) <= 6
    with pytest.raises(ValueError, match="the end"):
        assert list(ahead) == list(range(1, 100))
    stopped = prefetch(iter(range(10**9)), 2)
    next(stopped)
    stopped.close()  # the thread ends: this test would hang otherwise


def test_what_cannot_be_iterated_is_an_error_of_the_consumer():
    class Closed:
        def __iter__(self):
            raise ValueError("the file is closed")

    with pytest.raises(ValueError, match="the file is closed"):
        next(prefetch(Closed(), 2))  # and does not wait for a thread that is gone


def test_run_ahead_is_an_ordered_map_with_a_window():
    from concurrent.futures import ThreadPoolExecutor

    taken = []

    def items():
        for i in range(50):
            taken.append(i)
            yield i

    with ThreadPoolExecutor(3) as executor:
        results = run_ahead(lambda i: i * i, items(), executor, window=5)
        assert next(results) == 0
        assert len(taken) == 5
        assert list(results) == [i * i for i in range(1, 50)]
