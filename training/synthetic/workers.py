"""One single-threaded process per core: more threads than cores only get in each other's way."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from tqdm import tqdm

AHEAD = 4  # chunks per process that may be done, or wait to be done, before their results are taken
DEATHS = 3  # of processes, in a row
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS")  # the last one is Mesa's llvmpipe


class DrawingFailed(RuntimeError):
    """What a user can mend: no OpenGL, or worker processes that die."""


def limit_threads() -> None:
    """Child processes started from now on run one thread each, unless the environment says otherwise."""
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")


def end_with_parent() -> None:
    """From now on a spawned process ends with the one that spawned it, even if that is killed."""
    parent = parent_process()
    if parent is not None:
        Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


class Workers:
    """Fresh processes (an OpenGL context does not survive a fork), each set up with `start(*arguments)`.

    What goes wrong in `start` or in a task is raised where its result is taken. A process that dies (out of memory, a
    crash in the OpenGL driver) is replaced, and what it was at is done again, so tasks must bear that; DEATHS deaths
    without a result between them are too many. None outlives the process that made them. Leaving the context ends
    them after what they are at.
    """

    def __init__(self, workers: int, start: Callable, arguments: tuple):
        limit_threads()
        self.workers, self.setup = workers, (start, arguments)
        self.executor = self._fresh()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End them; whoever waits for a result gets no more."""
        self.executor.shutdown(cancel_futures=True)

    def imap(self, func: Callable, tasks: Iterable, chunksize: int = 1, ahead: int = AHEAD) -> Iterator:
        """What `func` returns for each of `tasks`, in order. Processes are at it before the first result is asked for.

        Args:
            chunksize: tasks that one process does in a row.
            ahead: chunks per process that may wait, done or not, before their results are taken.

        Raises:
            DrawingFailed: when processes die again and again.
        """
        return self._begun(func, tasks, chunksize, ahead, in_order=True)

    def imap_unordered(self, func: Callable, tasks: Iterable, chunksize: int = 1) -> Iterator:
        """The same as they are ready."""
        return self._begun(func, tasks, chunksize, AHEAD, in_order=False)

    def _begun(self, *job: Any, in_order: bool) -> Iterator:
        results = self._results(*job, in_order)
        next(results, None)  # a generator does nothing before
        return results

    def _fresh(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, get_context("spawn"), _begin, self.setup)

    def _results(self, func: Callable, tasks: Iterable, chunksize: int, ahead: int, in_order: bool) -> Iterator:
        chunks = iter(partial(_take, iter(tasks), chunksize), [])
        pending: list[tuple[Future | None, list]] = []  # None: to be given to a process
        deaths, begun = 0, False
        while True:
            pending += [(None, chunk) for chunk in islice(chunks, self.workers * ahead - len(pending))]
            if not pending:
                return
            try:
                pending = [(future or self.executor.submit(_run, func, chunk), chunk) for future, chunk in pending]
                if not begun:
                    begun = True
                    yield None
                if not in_order:
                    wait([future for future, _ in pending], return_when=FIRST_COMPLETED)
                    pending.sort(key=lambda job: not job[0].done())
                results = pending[0][0].result()
            except BrokenProcessPool:
                deaths += 1
                if deaths == DEATHS:
                    raise DrawingFailed(
                        f"worker processes died {DEATHS} times in a row, at {pending[0][1][0]!r} or beside it; "
                        "is there enough memory for as many workers, and is what calls this in a script of yours "
                        "under if __name__ == '__main__'?"
                    ) from None
                warnings.warn("a worker process died; what it was at is done again", RuntimeWarning, stacklevel=3)
                self.executor.shutdown()
                self.executor = self._fresh()
                pending = [(None if _is_lost(future) else future, chunk) for future, chunk in pending]
                continue
            except CancelledError:
                return
            deaths = 0
            del pending[0]
            yield from results


def _take(tasks: Iterator, count: int) -> list:
    return list(islice(tasks, count))


def _is_lost(future: Future | None) -> bool:
    return future is None or isinstance(future.exception(), BrokenProcessPool)


_failure: Exception | None = None  # of this process's start


def _begin(start: Callable, arguments: tuple) -> None:
    """Set up a worker; an exception here would be lost, and `_run` raises it."""
    global _failure
    end_with_parent()
    try:
        start(*arguments)
    except Exception as error:
        _failure = error


def _run(func: Callable, chunk: list) -> list:
    if _failure is not None:
        raise _failure
    return [func(task) for task in chunk]


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

    Labels of an earlier array (.npz beside it) are removed first: who stores the new ones marks the pool as complete.

    Args:
        shape: its first axis counts pictures, named `unit` in the progress bar.
        chunk: pictures per call of `fill`.
        start: called in each of `workers` processes with `arguments`.
        fill: writes the pictures of a range of numbers to the file.
    """
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.with_suffix(".npz").unlink(missing_ok=True)
    np.lib.format.open_memmap(picture, "w+", np.uint8, shape).flush()
    tasks = [range(k, min(k + chunk, shape[0])) for k in range(0, shape[0], chunk)]
    results = []
    with Workers(workers, start, arguments) as pool, tqdm(total=shape[0], unit=unit, desc=picture.stem) as bar:
        for task, result in zip(tasks, pool.imap(fill, tasks), strict=True):
            results.append(result)
            bar.update(len(task))
    return results
