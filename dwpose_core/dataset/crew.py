"""One worker process for each device, all told what to do by one parent."""

from __future__ import annotations

import multiprocessing
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from .decode import follow_parent
from .extract import ExtractWorker, Machine
from .plan import Config
from .sinks import Row

_TELL_EVERY = 0.3  # seconds between messages of a worker process

# items, people, and the report rows of those that failed
Counts = tuple[int, int, list[dict]]


class Crew:
    """Processes that have loaded their networks, and wait for shards.

    Args:
        on_rows: called with the counts of finished rows.

    Raises:
        ValueError: when networks cannot be loaded.
    """

    def __init__(self, config: Config, machine: Machine, devices: list[str], on_rows: Callable[[Counts], None]):
        context = multiprocessing.get_context("spawn")  # CUDA cannot be used in a forked process
        self.device, self._devices, self._on_rows = ",".join(devices), devices, on_rows
        self._messages = context.Queue()
        self._orders = [context.SimpleQueue() for _ in devices]
        self._workers = [
            context.Process(target=_work, args=(config, replace(machine, device=device), orders, self._messages))
            for device, orders in zip(devices, self._orders, strict=True)
        ]
        self._done = False
        for worker in self._workers:
            worker.start()
        try:
            for message in self._until_each("ready"):
                raise ValueError(message)
        except BaseException:
            self.close()
            raise

    def run(self, shards: list[int]) -> None:
        """Raises RuntimeError: when a worker died or failed; what is finished stays."""
        for number, orders in enumerate(self._orders):
            orders.put(shards[number :: len(self._orders)])
        for message in self._until_each("done"):
            if isinstance(message, str):
                raise RuntimeError(message)
            self._on_rows(message)
        self._done = True

    def close(self) -> None:
        for worker in self._workers:
            if not self._done:
                worker.terminate()
            worker.join()

    def _until_each(self, word: str) -> Iterator[Any]:
        """Messages, until every worker has said `word`."""
        waiting = len(self._workers)
        while waiting:
            try:
                message = self._messages.get(timeout=1)
            except queue.Empty:
                pairs = zip(self._devices, self._workers, strict=True)
                if dead := [device for device, worker in pairs if worker.exitcode not in (None, 0)]:
                    raise RuntimeError(
                        f"the worker on {', '.join(dead)} died; run the same command again to go on"
                    ) from None
                continue
            if message == word:
                waiting -= 1
            else:
                yield message


def _work(config: Config, machine: Machine, orders: Any, messages: Any) -> None:
    """Body of a worker process: tells what it finished, now and then, and where it stands."""
    follow_parent()
    items, people, failed, last = 0, 0, [], time.monotonic()

    def tell() -> None:
        nonlocal items, people, failed, last
        messages.put((items, people, failed))
        items, people, failed, last = 0, 0, [], time.monotonic()

    def on_row(row: Row) -> None:
        nonlocal items, people
        items, people = items + 1, people + len(row.people or ())
        if row.people is None:
            failed.append(row.report())
        if time.monotonic() - last > _TELL_EVERY:
            tell()

    try:
        worker = ExtractWorker(config, machine, on_row)
        messages.put("ready")
        try:
            worker.run(orders.get())
        finally:
            worker.close()
        tell()
        messages.put("done")
    except Exception as error:  # handed to the parent, which raises it
        messages.put(f"{machine.device}: {error}" if isinstance(error, ValueError) else f"{machine.device}: {error!r}")
