"""The worker: shards through the networks, with every stage ahead of the next.

A shard is always worked through from its first item in the same chunks, so an interrupted run that is continued writes
the same bytes as one that was not.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..people import People
from ..pipeline import Options, estimate_people
from ..stages import prefetch, run_ahead
from . import sinks, sources
from .containers import TableReader
from .decode import Decoded, Drawing, Task, decode, encode, reason_of, start_worker
from .plan import Config, Plan, is_done, is_to_do, stats_of
from .shard import ShardWriter
from .sinks import Row
from .storage import Storage


@dataclass(frozen=True)
class Machine:
    """Where and how the work is done; decides about speed, not about bytes."""

    device: str | None = None
    provider: str | None = None
    cache_dir: str | None = None
    offline: bool = False
    decoders: int = 2  # processes that decode and encode; 0 is threads of this process
    streams: int | None = None  # chunks in the networks at the same time; None is 2 on a GPU, one per core on the CPU


class ExtractWorker:
    """Works through shards of the plan. Loads the networks, so that wrong options are found before anything is written.

    Also the class for Ray Data: `ds.map_batches(ExtractWorker, ...)` on rows {"shard": n}.

    Args:
        config: see `Config`, or its `to_json()`.
        machine: see `Machine`, or a dict of its fields.
        on_row: called with every finished Row, for progress.
        retry_failed: rows of Ray Data that are finished, but in which something failed, are done again.

    Raises:
        ValueError: as `DWposeDetector.from_pretrained`; `run` when finished shards were made by other networks.
    """

    def __init__(
        self,
        config: Config | dict,
        machine: Machine | dict | None = None,
        on_row: Callable[[Row], None] | None = None,
        *,
        retry_failed: bool = False,
    ):
        self.config = config if isinstance(config, Config) else Config(**config)
        self.machine = machine if isinstance(machine, Machine) else Machine(**(machine or {}))
        self._on_row = on_row or (lambda row: None)
        self._retry_failed = retry_failed
        self._storage = Storage(self.config.out)
        self._plan: Plan | None = None  # read when there is one, at the latest for the first shard
        self._options = Options(**self.config.options)
        maps = self.config.output_format != "dummy" or self.config.input_format == "video"
        self._drawing = Drawing(self.config.style, self.config.draw_size, self.config.map_format) if maps else None
        self._exit = ExitStack()
        # Before the networks: a process that is started later would inherit their threads and their GPU.
        self._pool = self._exit.enter_context(self._start_pool())
        self._detector = self._load()

    def close(self) -> None:
        self._exit.close()

    @property
    def description(self) -> str:
        """The networks, without the device: what runs on two GPUs gives the same bytes."""
        runners = (self._detector.detector, self._detector.pose)
        return " + ".join(re.sub(r" on \S+", "", runner.description) for runner in runners if runner is not None)

    @property
    def device(self) -> str:
        return str(self._detector.pose.device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{"shard": (n,)} -> the same with "ok", "failed" and "people" counts, once the shards are finished."""
        done = [self._stats_of(int(shard)) for shard in batch["shard"]]
        names = ("shard", "ok", "failed", "people")
        return {name: np.array([stats[name] for stats in done], np.int64) for name in names}

    def _stats_of(self, shard: int) -> dict:
        # A node that was thought dead may have finished it; the bytes would be the same.
        if is_to_do(self._storage, shard, self._retry_failed):
            self.run([shard])
        return stats_of(self._storage, shard)

    def run(self, shards: Iterable[int]) -> None:
        """Work through these shards, the stages of one overlapping with those of the next."""
        if self._plan is None:
            self._plan = Plan(self._storage)
            self._check_networks()
        rows = self._video_rows(shards) if self.config.input_format == "video" else self._image_rows(shards)
        writer: ShardWriter | None = None
        try:
            with closing(rows):
                for shard, row, extra in rows:
                    if writer is None:
                        writer = ShardWriter(self.config, self._storage, self._plan, shard)
                    writer.add(row, extra)
                    self._on_row(row)
                    if writer.complete:
                        writer.finish(self.description)
                        writer = None
        finally:
            if writer is not None:
                writer.discard()

    def _start_pool(self) -> Executor:
        import multiprocessing

        if self.machine.decoders == 0 or self.config.input_format == "video":
            return ThreadPoolExecutor(max(1, self.machine.decoders))
        # Neither method copies this process, its threads and its CUDA state, as "fork" would.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["dwpose_core.dataset.decode"])  # imported once, shared by all
        return ProcessPoolExecutor(self.machine.decoders, context, initializer=start_worker)

    def _load(self) -> Any:
        """Overridden by benchmarks/bench_extract.py, which has networks of its own."""
        return load_networks(self.config, self.machine)

    def _check_networks(self) -> None:
        """ "auto" may find other weights than last time: better no output than a mixture."""
        names = (name for name in self._storage.names("_dwpose/shards") if name.endswith("_stats.json"))
        for shard in (int(name.split("_")[0]) for name in names):
            if is_done(self._storage, shard):
                before = stats_of(self._storage, shard)["networks"]
                if before != self.description:
                    raise ValueError(
                        f"{self.config.out} was begun with {before}, now it would be {self.description}; "
                        f"name the networks with --pose and --detector, or start over with --overwrite"
                    )
                return

    def _image_rows(self, shards: Iterable[int]) -> Iterator[tuple[int, Row, dict]]:
        """decode (processes) -> networks (threads) -> draw and encode (processes), each ahead of the next."""
        import torch

        chunk = self._options.image_batch
        with ExitStack() as stack:
            decoded = run_ahead(_decode_numbered, self._tasks(shards), self._pool, self.machine.decoders + chunk)
            decoded = stack.enter_context(closing(prefetch(decoded, chunk)))
            on_cpu = self._detector.device.type == "cpu"
            streams = self.machine.streams or ((os.cpu_count() or 1) if on_cpu else 2)
            # One thread for each chunk: no time lost in waiting for each other, and sums do not depend on the machine.
            threads = {"initializer": torch.set_num_threads, "initargs": (1,)} if on_cpu else {}
            networks = stack.enter_context(ThreadPoolExecutor(streams, **threads))
            found = run_ahead(self._estimate, _chunks(decoded, chunk), networks, streams + 1)
            found = stack.enter_context(closing(prefetch(found, 1)))
            pairs = ((place, one, people, error) for group in found for place, one, people, error in group)
            drawn = _keep(encode, pairs, self._pool, self.machine.decoders + chunk, self._drawing)
            for ((shard, index), one, people, error), (pose_map, undrawn) in drawn:
                key = one.item["key"]
                image_id = self._plan.image_id(shard, index, key)
                if undrawn:
                    people, error = None, undrawn
                yield (
                    shard,
                    Row(key, index, image_id, people, error or "", pose_map, one.file, one.suffix, one.text),
                    {},
                )

    def _tasks(self, shards: Iterable[int]) -> Iterator[tuple[tuple[int, int], Task]]:
        want_file = self.config.output_format in sinks.WITH_IMAGES
        places = ((shard, index, item) for shard in shards for index, item in enumerate(self._plan.shard(shard)))
        with closing(TableReader(self.config.image_column, self.config.text_column)) as table:
            for shard, index, item in places:
                task = Task(
                    item, error=item.get("error"), short_side=self.config.detect_resolution, want_file=want_file
                )
                if self.config.input_format in sources.TABLES and task.error is None:
                    try:
                        data, text = table.read(item)
                        task = replace(task, data=data, text=text)
                    except Exception as error:  # whatever a damaged table makes its reader raise
                        task = replace(task, error=reason_of(error))
                yield (shard, index), task

    def _estimate(self, group: list[tuple[tuple[int, int], Decoded]]) -> list[tuple]:
        """People of one chunk; image by image when that fails: a bad picture must not cost its neighbours."""
        good = [one for _, one in group if one.image is not None]
        try:
            people = dict(zip(map(id, good), self._people(good), strict=True))
            errors = {}
        except Exception:
            people, errors = {}, {}
            for one in good:
                try:
                    (people[id(one)],) = self._people([one])
                except Exception as error:
                    errors[id(one)] = f"networks failed: {reason_of(error)}"
        return [
            (place, replace(one, image=None), people.get(id(one)), one.error or errors.get(id(one)))
            for place, one in group
        ]

    def _people(self, good: list[Decoded]) -> list[People]:
        found = estimate_people(
            [one.image for one in good], self._detector.pose, self._detector.detector, options=self._options
        ) if good else []  # fmt: skip
        return [_settle(people, one.size, self.description) for people, one in zip(found, good, strict=True)]

    def _video_rows(self, shards: Iterable[int]) -> Iterator[tuple[int, Row, dict]]:
        from .videos import extract_video

        for shard in shards:
            folder = self._storage.scratch(f"{shard:05d}")
            try:
                for index, item in enumerate(self._plan.shard(shard)):
                    row, extra = extract_video(item, index, self.config, self._detector, folder)
                    yield shard, replace(row, image_id=self._plan.image_id(shard, index, row.key)), extra
            finally:
                shutil.rmtree(folder, ignore_errors=True)  # the shard is published by now, or given up


def load_networks(config: Config, machine: Machine) -> Any:
    """The `DWposeDetector` of a run. Raises as its `from_pretrained`."""
    import torch

    from ..preprocessor import DWposeDetector

    return DWposeDetector.from_pretrained(
        config.pose,
        config.detector,
        device=machine.device,
        dtype=config.dtype and getattr(torch, config.dtype),
        backend=config.backend,
        provider=machine.provider,
        cache_dir=machine.cache_dir,
        local_files_only=machine.offline,
        options=Options(**config.options),
    )


def _decode_numbered(job: tuple[tuple[int, int], Task]) -> tuple[tuple[int, int], Decoded]:
    return job[0], decode(job[1])


def _chunks(decoded: Iterator, size: int) -> Iterator[list]:
    """Up to `size` neighbours of one shard: how a shard is cut never depends on what came before it."""
    group: list = []
    for place, one in decoded:
        if group and (len(group) == size or group[0][0][0] != place[0]):
            yield group
            group = []
        group.append((place, one))
    if group:
        yield group


def _keep(function: Callable, pairs: Iterator, pool: Executor, window: int, drawing: Drawing | None) -> Iterator:
    """Each pair with what `encode` makes of its people."""
    waiting: list = []

    def jobs() -> Iterator:
        for pair in pairs:
            waiting.append(pair)
            yield drawing, pair[2]

    for encoded in run_ahead(function, jobs(), pool, window):
        yield waiting.pop(0), encoded


def _settle(people: People, size: tuple[int, int], source: str) -> People:
    """People in pixels of the original, in the precision they are stored with, so that maps and files agree exactly."""
    height, width = people.image_size
    factor = np.array((size[1] / width, size[0] / height))
    xy, box = people.xy.astype(np.float64), people.box.astype(np.float64)
    if people.image_size != size:  # whole numbers are pixel centres in both
        xy, box = (xy + 0.5) * factor - 0.5, (box + 0.5) * np.tile(factor, 2) - 0.5
    return replace(
        people,
        xy=xy.round(2),
        score=people.score.astype(np.float64).round(4),
        box=box.round(2),
        box_score=people.box_score.astype(np.float64).round(4),
        image_size=size,
        source=source,
    )
