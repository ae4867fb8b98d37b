"""The native engine: which shards are this process's, one worker per device, one progress line, one summary."""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .extract import ExtractWorker, Machine
from .plan import Config, Plan, is_done, make_plan
from .sinks import Row
from .storage import Storage

_REPORT_EVERY = 5.0  # seconds between lines of --log json
_TELL_EVERY = 0.3  # seconds between messages of a worker process


class TooManyFailures(RuntimeError):
    """More items failed than --max-failures allows."""


@dataclass(frozen=True)
class Summary:
    """Of the shards that are this process's: how many items, of how many shards how many are done."""

    items: int
    ok: int
    failed: int
    people: int
    shards: int
    done: int
    seconds: float


class Progress:
    """images/s, people/s, failures, ETA, device: as one line for people, or as JSON lines for machines."""

    def __init__(self, total: int, done: int, log: str, unit: str, device: str):
        self._bar = None
        self._json, self.device = log == "json", device
        self._total, self._done, self._before = total, done, done
        self.failed = self._people = 0
        self._start = self._last = time.perf_counter()
        if log == "line":
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, unit=unit, smoothing=0.05, dynamic_ncols=True)

    def update(self, items: int, failed: int, people: int) -> None:
        self._done += items
        self.failed += failed
        self._people += people
        now = time.perf_counter()
        if self._bar is not None:
            rate = self._people / max(now - self._start, 1e-9)
            self._bar.set_postfix_str(f"{rate:.1f} people/s, {self.failed} failed, {self.device}", refresh=False)
            self._bar.update(items)
        elif self._json and now - self._last >= _REPORT_EVERY:
            self._last = now
            self.emit("progress")

    def emit(self, event: str, **more: Any) -> None:
        seconds = max(time.perf_counter() - self._start, 1e-9)
        speed = (self._done - self._before) / seconds
        line = {"event": event, "done": self._done, "total": self._total, "images_per_s": round(speed, 2)}
        line |= {"people_per_s": round(self._people / seconds, 2), "failed": self.failed}
        line |= {"eta_s": round((self._total - self._done) / speed) if speed else None, "device": self.device}
        print(json.dumps(line | more), flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def rank_and_world(rank: int | None, world: int | None) -> tuple[int, int]:
    """This process's number and how many there are: as said, else as torchrun or Slurm say, else 0 of 1."""
    if rank is None and world is None:
        for rank_name, world_name in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
            if rank_name in os.environ and world_name in os.environ:
                return int(os.environ[rank_name]), int(os.environ[world_name])
        return 0, 1
    if rank is None or world is None or not 0 <= rank < world:
        raise ValueError(f"--rank and --world-size go together, with 0 <= rank < world size; got {rank} and {world}")
    return rank, world


def run(
    config: Config,
    machine: Machine,
    *,
    devices: list[str] | None = None,
    rank: int = 0,
    world: int = 1,
    max_failures: int | None = None,
    log: str = "line",
) -> Summary:
    """Finish every shard of this rank that is not finished yet.

    Args:
        devices: one worker process for each; None or one works in this process.
        rank, world: this process takes every world-th shard. They share nothing but the output folder.
        max_failures: of items in this run; one more stops it.
        log: "line", "json" or "none".

    Raises:
        TooManyFailures. RuntimeError: when a worker process died; what is finished stays, the next run goes on.
    """
    storage = Storage(config.out)
    storage.clear_scratch({f"plan{rank}", f"end{rank}"})
    plan = make_plan(config, storage, rank)
    mine = range(rank, plan.shards, world)
    storage.clear_scratch({f"{shard:05d}" for shard in mine})
    pending = [shard for shard in mine if not is_done(storage, shard)]
    finished = sum(plan.size(shard) for shard in mine) - sum(plan.size(shard) for shard in pending)
    unit = "video" if config.input_format == "video" else "image"
    start = time.perf_counter()
    device = ",".join(devices) if devices else machine.device or "auto"
    progress = Progress(sum(plan.size(shard) for shard in mine), finished, log, unit, device)

    def count(items: int, failed: int, people: int) -> None:
        progress.update(items, failed, people)
        if max_failures is not None and progress.failed > max_failures:
            raise TooManyFailures(f"stopped after {progress.failed} failures (--max-failures {max_failures})")

    try:
        if pending and devices and len(devices) > 1:
            _run_processes(config, machine, devices, pending, count)
        elif pending:
            if devices:
                machine = replace(machine, device=devices[0])
            worker = ExtractWorker(config, machine, lambda row: count(1, row.people is None, len(row.people or ())))
            progress.device = worker.device
            try:
                worker.run(pending)
            finally:
                worker.close()
    finally:
        progress.close()
    finish(config, storage, plan, rank)
    summary = summarise(storage, plan, mine, time.perf_counter() - start)
    if log == "json":
        progress.emit("finished", ok=summary.ok, people=summary.people, shards=summary.done)
    return summary


def _run_processes(
    config: Config, machine: Machine, devices: list[str], pending: list[int], count: Callable[[int, int, int], None]
) -> None:
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used in a forked process
    messages = context.Queue()
    workers = [
        context.Process(
            target=_work, args=(config, replace(machine, device=device), pending[n :: len(devices)], messages)
        )
        for n, device in enumerate(devices)
    ]
    for worker in workers:
        worker.start()
    running = len(workers)
    try:
        while running:
            try:
                message = messages.get(timeout=1)
            except queue.Empty:
                dead = [device for device, w in zip(devices, workers, strict=True) if w.exitcode not in (None, 0)]
                if dead:
                    raise RuntimeError(
                        f"the worker on {', '.join(dead)} died; run the same command again to go on"
                    ) from None
                continue
            if isinstance(message, str):
                raise RuntimeError(message)
            running -= message is None
            if message is not None:
                count(*message)
    finally:
        for worker in workers:
            if running:
                worker.terminate()
            worker.join()


def _work(config: Config, machine: Machine, shards: list[int], messages: Any) -> None:
    """Body of a worker process: tells what it finished, now and then, and None at the end."""
    sums, last = [0, 0, 0], time.monotonic()

    def on_row(row: Row) -> None:
        nonlocal sums, last
        sums = [sums[0] + 1, sums[1] + (row.people is None), sums[2] + len(row.people or ())]
        if time.monotonic() - last > _TELL_EVERY:
            messages.put(tuple(sums))
            sums, last = [0, 0, 0], time.monotonic()

    try:
        worker = ExtractWorker(config, machine, on_row)
        try:
            worker.run(shards)
        finally:
            worker.close()
        messages.put(tuple(sums))
        messages.put(None)
    except Exception as error:  # handed to the parent, which raises it
        messages.put(f"{machine.device}: {type(error).__name__}: {error}")


def finish(config: Config, storage: Storage, plan: Plan, rank: int = 0) -> None:
    """What can only be written when every shard of every rank is done: whoever comes last does it."""
    if config.output_format == "imagefolder" and all(is_done(storage, shard) for shard in range(plan.shards)):
        parts = (storage.read(f"_dwpose/metadata/{shard:05d}.jsonl") for shard in range(plan.shards))
        storage.write("metadata.jsonl", b"".join(parts), f"end{rank}")


def summarise(storage: Storage, plan: Plan, shards: range, seconds: float = 0.0) -> Summary:
    ok = failed = people = done = 0
    for shard in shards:
        name = f"_dwpose/shards/{shard:05d}_stats.json"
        if storage.size(name) is not None:
            stats = json.loads(storage.read(name))
            ok, failed, people, done = ok + stats["ok"], failed + stats["failed"], people + stats["people"], done + 1
    return Summary(sum(plan.size(shard) for shard in shards), ok, failed, people, len(shards), done, seconds)


def failures(storage: Storage, plan: Plan, shards: range, limit: int) -> list[dict]:
    """The first failed rows of these shards."""
    found: list[dict] = []
    for shard in shards:
        name = f"_dwpose/shards/{shard:05d}_report.jsonl"
        if len(found) < limit and storage.size(name) is not None:
            rows = map(json.loads, storage.read(name).splitlines())
            found += [row for row in rows if row["status"] != "ok"]
    return found[:limit]


def remove_output(out: str) -> None:
    """Delete what an earlier run wrote, file by file as its stats name them: nothing else in the folder is touched."""
    storage = Storage(out)
    for name in storage.names("_dwpose/shards"):
        if name.endswith("_stats.json"):
            for file in json.loads(storage.read(f"_dwpose/shards/{name}"))["files"]:
                storage.delete(file)
    if storage.size("_dwpose/config.json") is not None:
        if json.loads(storage.read("_dwpose/config.json"))["output_format"] == "imagefolder":
            storage.delete("metadata.jsonl")
        storage.delete("_dwpose")
