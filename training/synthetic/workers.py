"""One single-threaded process per core: more threads than cores only get in each other's way."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.pool import Pool

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS")  # the last one is Mesa's llvmpipe


def limit_threads() -> None:
    """Child processes started from now on run one thread each, unless the environment says otherwise."""
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")


def worker_pool(workers: int, start: Callable, arguments: tuple) -> Pool:
    """Fresh processes (an OpenGL context does not survive a fork), each set up with `start(*arguments)`."""
    limit_threads()
    return get_context("spawn").Pool(workers, start, arguments)
