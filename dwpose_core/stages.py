"""Pipelines of stages that work at the same time, with bounded queues between them.

decoded = run_ahead(decode, items, processes, window=32)     many workers, results in the order of the items
results = prefetch(estimate(decoded), size=2)                the generator runs in a thread of its own
for result in results: write(result)
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_END = object()


def prefetch(items: Iterable[T], size: int) -> Iterator[T]:
    """The same items in the same order, made by a thread that runs up to `size` of them ahead.

    An error of the thread is raised here, at its place in the order. When the consumer stops early the thread stops
    after the item it is at, and closes `items`.
    """
    ready: queue.Queue[Any] = queue.Queue(size)
    stop = threading.Event()
    errors: list[BaseException] = []

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        iterator: Any = items
        try:
            iterator = iter(items)
            for item in iterator:
                if not put(item):
                    break
        except BaseException as error:
            errors.append(error)
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
            put(_END)

    thread = threading.Thread(target=work, daemon=True, name=f"prefetch {getattr(items, '__name__', '')}")
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            yield item
        if errors:
            raise errors[0]
    finally:
        stop.set()
        thread.join()


def run_ahead(function: Callable[[T], R], items: Iterable[T], executor: Executor, window: int) -> Iterator[R]:
    """`map` over an executor with at most `window` items under way or waiting to be fetched, in order."""
    futures: deque = deque()
    try:
        for item in items:
            futures.append(executor.submit(function, item))
            if len(futures) >= window:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()
        if hasattr(items, "close"):
            items.close()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
