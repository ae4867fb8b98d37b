"""One single-threaded process per core: more threads than cores only get in each other's way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS")  # the last one is Mesa's llvmpipe


def limit_threads() -> None:
    """Child processes started from now on run one thread each, unless the environment says otherwise."""
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")


class Workers(Pool):
    """Fresh processes (an OpenGL context does not survive a fork), each set up with `start(*arguments)`.

    What goes wrong in `start` is raised from `imap` and `imap_unordered`: a plain Pool would begin another process, and
    another one, for ever.
    """

    def __init__(self, workers: int, start: Callable, arguments: tuple):
        limit_threads()
        super().__init__(workers, _begin, (start, arguments), context=get_context("spawn"))

    def imap(self, func: Callable, iterable: Iterable, chunksize: int = 1) -> Iterator:
        return super().imap(Task(func), iterable, chunksize)

    def imap_unordered(self, func: Callable, iterable: Iterable, chunksize: int = 1) -> Iterator:
        return super().imap_unordered(Task(func), iterable, chunksize)


_failure: Exception | None = None  # of this process's start


def _begin(start: Callable, arguments: tuple) -> None:
    global _failure
    try:
        start(*arguments)
    except Exception as error:
        _failure = error


@dataclass(frozen=True)
class Task:
    """`func`, in a process that has started well."""

    func: Callable

    def __call__(self, argument: Any) -> Any:
        if _failure is not None:
            raise _failure
        return self.func(argument)


def fill_pictures(
    picture: Path,
    shape: tuple[int, ...],
    unit: str,
    chunk: int,
    workers: int,
    start: Callable,
    arguments: tuple,
    fill: Callable[[range], Any],
) -> list[Any]:
    """Make the uint8 array `picture` (.npy) of `shape`; what `fill` returns, in order of the pictures.

    Args:
        shape: its first axis counts pictures, named `unit` in the progress bar.
        chunk: pictures per call of `fill`.
        start: called in each of `workers` processes with `arguments`.
        fill: writes the pictures of a range of numbers to the file.
    """
    picture.parent.mkdir(parents=True, exist_ok=True)
    np.lib.format.open_memmap(picture, "w+", np.uint8, shape).flush()
    tasks = [range(k, min(k + chunk, shape[0])) for k in range(0, shape[0], chunk)]
    results = []
    with Workers(workers, start, arguments) as pool, tqdm(total=shape[0], unit=unit, desc=picture.stem) as bar:
        for task, result in zip(tasks, pool.imap(fill, tasks), strict=True):
            results.append(result)
            bar.update(len(task))
    return results
