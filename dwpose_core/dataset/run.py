"""The native engine: which shards are this process's, one worker per device, one progress line, one summary."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from .crew import Counts, Crew
from .extract import ExtractWorker, Machine
from .plan import Config, Plan, is_done, is_to_do, make_plan, stats_of
from .sinks import Row
from .storage import Storage

_REPORT_EVERY = 5.0  # seconds between lines of --log json


class TooManyFailures(RuntimeError):
    """More items failed than --max-failures allows.

    Attributes:
        rows: the report rows of those that failed in this run, also of shards that were not finished.
    """

    def __init__(self, allowed: int, rows: list[dict]):
        super().__init__(f"stopped after {len(rows)} failures (--max-failures {allowed})")
        self.rows = rows


@dataclass(frozen=True)
class Summary:
    """Of the shards that are this process's: how many items, of how many shards how many are done."""

    items: int
    ok: int
    failed: int
    left_out: int  # of those that are ok, see `Config.min_people`
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


def rank_and_world(rank: int | None, world: int | None) -> tuple[int, int, str]:
    """This process's number, how many there are, and who says so: the options, else torchrun or Slurm, else 0 of 1."""
    if rank is None and world is None:
        for rank_name, world_name in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
            if rank_name in os.environ and world_name in os.environ:
                return int(os.environ[rank_name]), int(os.environ[world_name]), rank_name
        return 0, 1, ""
    if rank is None or world is None or not 0 <= rank < world:
        raise ValueError(f"--rank and --world-size go together, with 0 <= rank < world size; got {rank} and {world}")
    return rank, world, "--rank"


def run(
    config: Config,
    machine: Machine,
    *,
    devices: list[str] | None = None,
    rank: int = 0,
    world: int = 1,
    max_failures: int | None = None,
    log: str = "line",
    overwrite: bool = False,
    retry_failed: bool = False,
) -> Summary:
    """Finish every shard of this rank that is not finished yet.

    Args:
        devices: one worker process for each; None or one works in this process.
        rank, world: this process takes every world-th shard. They share nothing but the output folder.
        max_failures: of items in this run; one more stops it.
        log: "line", "json" or "none".
        overwrite: delete what an earlier run wrote, once the inputs are listed and the networks loaded.
        retry_failed: finished shards with failed items are done again; until then they stay as they are.

    Raises:
        TooManyFailures. RuntimeError: when a worker process died; what is finished stays, the next run goes on.
        ValueError: see `make_plan`; and when another process is doing the same.
    """
    if overwrite and world > 1:
        raise ValueError(
            f"--overwrite with {world} ranks would delete what the others write; "
            f"choose another --out, or remove {config.out} before the ranks start"
        )
    storage = Storage(config.out)
    with storage.claim(f"run{rank}of{world}", alone=overwrite):
        return _run(config, machine, storage, devices, rank, world, max_failures, log, overwrite, retry_failed)


def _run(
    config: Config,
    machine: Machine,
    storage: Storage,
    devices: list[str] | None,
    rank: int,
    world: int,
    max_failures: int | None,
    log: str,
    overwrite: bool,
    retry_failed: bool,
) -> Summary:
    progress: Progress | None = None
    failed: list[dict] = []
    with ExitStack() as stack:

        def on_rows(counts: Counts) -> None:
            items, people, rows = counts
            progress.update(items, len(rows), people)
            if max_failures is not None:
                failed.extend(rows)
                if len(failed) > max_failures:
                    raise TooManyFailures(max_failures, failed)

        @cache
        def workers() -> Crew | ExtractWorker:
            made = _workers(config, machine, devices, on_rows)
            stack.callback(made.close)
            return made

        storage.clear_scratch({f"plan{rank}", f"end{rank}"})
        # Networks are loaded before the first byte is written or deleted: a typo shall cost nothing.
        plan = make_plan(config, storage, rank, overwrite=overwrite, before_writing=workers, show=log == "line")
        mine = range(rank, plan.shards, world)
        storage.clear_scratch({f"{shard:05d}" for shard in mine})
        pending = [shard for shard in mine if is_to_do(storage, shard, retry_failed)]
        total = sum(plan.size(shard) for shard in mine)
        finished = total - sum(plan.size(shard) for shard in pending)
        unit = "video" if config.input_format == "video" else "image"
        start = time.perf_counter()
        progress = Progress(total, finished, log, unit, machine.device or "auto")
        stack.callback(progress.close)
        if pending:
            progress.device = workers().device
            workers().run(pending)
    finish(config, storage, plan, rank)
    summary = summarise(storage, plan, mine, time.perf_counter() - start)
    if log == "json":
        progress.emit("finished", ok=summary.ok, people=summary.people, shards=summary.done)
    return summary


def _workers(
    config: Config, machine: Machine, devices: list[str] | None, on_rows: Callable[[Counts], None]
) -> Crew | ExtractWorker:
    if devices and len(devices) > 1:
        return Crew(config, machine, devices, on_rows)

    def on_row(row: Row) -> None:
        on_rows((1, 0, [row.report()]) if row.people is None else (1, len(row.people), []))

    return ExtractWorker(config, replace(machine, device=devices[0]) if devices else machine, on_row)


def finish(config: Config, storage: Storage, plan: Plan, rank: int = 0) -> None:
    """What can only be written when every shard of every rank is done: whoever comes last does it."""
    if config.output_format == "imagefolder" and all(is_done(storage, shard) for shard in range(plan.shards)):
        parts = (storage.read(f"_dwpose/metadata/{shard:05d}.jsonl") for shard in range(plan.shards))
        storage.write("metadata.jsonl", b"".join(parts), f"end{rank}")


def summarise(storage: Storage, plan: Plan, shards: range, seconds: float = 0.0) -> Summary:
    ok = failed = left_out = people = done = 0
    for shard in shards:
        if (stats := stats_of(storage, shard)) is not None:
            ok, failed, people, done = ok + stats["ok"], failed + stats["failed"], people + stats["people"], done + 1
            left_out += stats.get("left_out", 0)
    return Summary(sum(plan.size(shard) for shard in shards), ok, failed, left_out, people, len(shards), done, seconds)


def remarks(storage: Storage, shards: Iterable[int]) -> Iterator[dict]:
    """Report rows of these shards that say something: failures, and results that are not all they should be."""
    for shard in shards:
        name = f"_dwpose/shards/{shard:05d}_report.jsonl"
        if storage.size(name) is not None:
            yield from (row for row in storage.json_lines(name) if "message" in row)
