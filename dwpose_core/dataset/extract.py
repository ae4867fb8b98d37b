"""The plan and the worker: numbered shards of a frozen list, each one finished whole or not at all.

A shard is always worked through from its first item in the same chunks, so an interrupted run that is continued writes
the same bytes as one that was not. The order of things on the disk is: outputs, report, `_stats.json`. A shard counts
as done when its stats are there and every file they name has the size they name.

    OUT/_dwpose/config.json, plan.jsonl, plan.json      what is being done
    OUT/_dwpose/shards/00000_report.jsonl               a row for every item: ok, or failed and why
    OUT/_dwpose/shards/00000_stats.json                 counts, histograms, files; written last
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..people import People
from ..pipeline import Options, estimate_people
from ..stages import prefetch, run_ahead
from . import sinks, sources
from .decode import Decoded, Drawing, Task, decode, encode, start_worker
from .sinks import Row
from .storage import Storage

SCORE_BINS = 20  # of the score histogram, 0.05 wide; the last one holds everything from 0.95 up


@dataclass(frozen=True)
class Config:
    """All that decides about the output's bytes; stored with it, and compared when a run is continued."""

    source: str
    out: str
    input_format: str  # one of sources.FORMATS
    output_format: str = "files"  # one of sinks.OUTPUT_FORMATS
    keypoints: tuple[str, ...] = ("jsonl",)  # of sinks.KEYPOINT_SUFFIXES
    samples_per_shard: int = 10_000
    limit: int | None = None
    image_column: str = "image"
    text_column: str = "text"
    detect_resolution: int | None = None  # short side that images are shrunk to before the networks
    pose: str = "auto"
    detector: str | None = "auto"
    dtype: str | None = None
    backend: str = "torch"
    options: dict[str, Any] = field(default_factory=dict)  # of pipeline.Options
    style: dict[str, Any] = field(default_factory=dict)  # keywords of render.render
    draw_size: int | tuple[int, int] | None = None
    map_format: str = "png"
    overlay: bool = False  # videos only
    steady: dict[str, Any] | None = field(default_factory=dict)  # videos only; None is every frame by itself

    def __post_init__(self) -> None:
        if self.output_format not in sinks.OUTPUT_FORMATS:
            raise ValueError(
                f"unknown output format {self.output_format!r}; choose one of {', '.join(sinks.OUTPUT_FORMATS)}"
            )
        if unknown := set(self.keypoints) - set(sinks.KEYPOINT_SUFFIXES):
            raise ValueError(
                f"unknown keypoint format {min(unknown)!r}; choose from {', '.join(sinks.KEYPOINT_SUFFIXES)}"
            )
        if self.samples_per_shard < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError("samples per shard and limit must be at least 1")
        if self.map_format not in ("png", "webp"):
            raise ValueError(f"maps are written as png or webp, not {self.map_format!r}")
        if self.input_format == "video" and self.output_format not in ("files", "dummy"):
            raise ValueError("videos are written as files: a pose .mp4 for each")
        for name in ("keypoints", "draw_size"):  # JSON has no tuples
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Machine:
    """Where and how the work is done; decides about speed, not about bytes."""

    device: str | None = None
    provider: str | None = None
    cache_dir: str | None = None
    offline: bool = False
    decoders: int = 2  # processes that decode and encode; 0 is threads of this process
    streams: int | None = None  # chunks in the networks at the same time; None is 2 on a GPU, one per core on the CPU


class Plan:
    """The frozen list of inputs: made once, read by every rank, untouched by files that appear later."""

    def __init__(self, storage: Storage):
        self._storage = storage
        about = json.loads(storage.read("_dwpose/plan.json"))
        self.items, self.samples_per_shard = about["items"], about["samples_per_shard"]
        self._starts = about["starts"]  # byte offset of each shard's first line

    @property
    def shards(self) -> int:
        return len(self._starts)

    def size(self, shard: int) -> int:
        return min(self.samples_per_shard, self.items - shard * self.samples_per_shard)

    def shard(self, number: int) -> list[dict[str, Any]]:
        with self._storage.open("_dwpose/plan.jsonl") as file:
            file.seek(self._starts[number])
            return [json.loads(file.readline()) for _ in range(self.size(number))]


def make_plan(config: Config, storage: Storage, rank: int = 0) -> Plan:
    """List the inputs, once: a plan that is there already is kept.

    Raises:
        ValueError: when there is nothing to do, or the folder holds the output of another command.
    """
    found = storage.size("_dwpose/config.json") is not None and json.loads(storage.read("_dwpose/config.json"))
    if found:
        mine = config.to_json()
        changed = [name for name in mine if mine[name] != found.get(name) and name != "out"]
        if changed:
            raise ValueError(
                f"{config.out} was begun with other options ({', '.join(changed)}); "
                f"continue with the same ones, start over with --overwrite, or choose another --out"
            )
    if found and storage.size("_dwpose/plan.json") is not None:
        return Plan(storage)
    scratch = storage.scratch(f"plan{rank}")
    try:
        starts, count, position = [], 0, 0
        with open(scratch / "plan.jsonl", "wb") as file:
            listing = sources.items(
                config.source,
                config.input_format,
                skip=config.out if storage.local else "",
                image_column=config.image_column,
                text_column=config.text_column,
            )
            for item in listing:
                if count % config.samples_per_shard == 0:
                    starts.append(position)
                position += file.write(sinks.json_lines([item]))
                count += 1
                if count == config.limit:
                    break
        if not count:
            raise ValueError(f"nothing to read at {config.source} as {config.input_format}")
        about = {"items": count, "samples_per_shard": config.samples_per_shard, "starts": starts}
        (scratch / "plan.json").write_text(json.dumps(about))
        (scratch / "config.json").write_text(json.dumps(config.to_json(), indent=1))
        storage.put({f"_dwpose/{name}": scratch / name for name in ("plan.jsonl", "plan.json", "config.json")})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Plan(storage)


def is_done(storage: Storage, shard: int) -> bool:
    """Whether a shard is finished and nothing of it is missing or cut short."""
    name = f"_dwpose/shards/{shard:05d}_stats.json"
    if storage.size(name) is None:
        return False
    try:
        stats = json.loads(storage.read(name))
    except ValueError:
        return False
    return all(storage.size(file) == size for file, size in stats["files"].items())


class ExtractWorker:
    """Works through shards. Also the class for Ray Data: `ds.map_batches(ExtractWorker, ...)` on rows {"shard": n}.

    Args:
        config: see `Config`, or its `to_json()`.
        machine: see `Machine`, or a dict of its fields.
        on_row: called with every finished Row, for progress.
    """

    def __init__(
        self, config: Config | dict, machine: Machine | dict | None = None, on_row: Callable[[Row], None] | None = None
    ):
        self.config = config if isinstance(config, Config) else Config(**config)
        self.machine = machine if isinstance(machine, Machine) else Machine(**(machine or {}))
        self._on_row = on_row or (lambda row: None)
        self._storage = Storage(self.config.out)
        self._plan = Plan(self._storage)
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
        if not is_done(self._storage, shard):
            self.run([shard])
        return json.loads(self._storage.read(f"_dwpose/shards/{shard:05d}_stats.json"))

    def run(self, shards: Iterable[int]) -> None:
        """Work through these shards, the stages of one overlapping with those of the next."""
        rows = self._video_rows(shards) if self.config.input_format == "video" else self._image_rows(shards)
        writer: _ShardWriter | None = None
        try:
            with closing(rows):
                for shard, row, extra in rows:
                    if writer is None:
                        writer = _ShardWriter(self.config, self._storage, self._plan, shard)
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
        import torch

        from ..preprocessor import DWposeDetector

        config, machine = self.config, self.machine
        return DWposeDetector.from_pretrained(
            config.pose,
            config.detector,
            device=machine.device,
            dtype=config.dtype and getattr(torch, config.dtype),
            backend=config.backend,
            provider=machine.provider,
            cache_dir=machine.cache_dir,
            local_files_only=machine.offline,
            options=self._options,
        )

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
            for ((shard, index), one, people, error), pose_map in drawn:
                key = one.item["key"]
                row = Row(
                    key,
                    index,
                    self._image_id(shard, index, key),
                    people,
                    error or "",
                    pose_map,
                    one.file,
                    one.suffix,
                    one.text,
                )
                yield shard, row, {}

    def _tasks(self, shards: Iterable[int]) -> Iterator[tuple[tuple[int, int], Task]]:
        want_file = self.config.output_format in sinks.WITH_IMAGES
        table = sources.TableReader(self.config.image_column, self.config.text_column)
        for shard in shards:
            for index, item in enumerate(self._plan.shard(shard)):
                task = Task(item, short_side=self.config.detect_resolution, want_file=want_file)
                if self.config.input_format in ("parquet", "dataset"):
                    try:
                        data, text = table.read(item)
                        task = replace(task, data=data, text=text)
                    except (ValueError, OSError) as error:
                        task = replace(task, error=str(error))
                yield (shard, index), task

    def _estimate(self, group: list[tuple[tuple[int, int], Decoded]]) -> list[tuple]:
        """People of one chunk; image by image when that fails: a bad picture must not cost its neighbours."""
        good = [one for _, one in group if one.image is not None]
        try:
            people = dict(zip(map(id, good), self._people(good), strict=True))
            errors = {}
        except RuntimeError:
            people, errors = {}, {}
            for one in good:
                try:
                    (people[id(one)],) = self._people([one])
                except RuntimeError as error:
                    errors[id(one)] = f"networks failed: {str(error).splitlines()[0]}"
        return [
            (place, replace(one, image=None), people.get(id(one)), one.error or errors.get(id(one)))
            for place, one in group
        ]

    def _people(self, good: list[Decoded]) -> list[People]:
        found = estimate_people(
            [one.image for one in good], self._detector.pose, self._detector.detector, options=self._options
        ) if good else []  # fmt: skip
        return [_settle(people, one.size, self.description) for people, one in zip(found, good, strict=True)]

    def _image_id(self, shard: int, index: int, key: str) -> int:
        """COCO's image id: the number that is the file's name, as in COCO, else the position in the plan."""
        stem = key.rpartition("/")[2]
        return int(stem) if stem.isdecimal() else shard * self._plan.samples_per_shard + index

    def _video_rows(self, shards: Iterable[int]) -> Iterator[tuple[int, Row, dict]]:
        from .videos import extract_video

        for shard in shards:
            folder = self._storage.scratch(f"{shard:05d}")
            try:
                for index, item in enumerate(self._plan.shard(shard)):
                    row, extra = extract_video(item, index, self.config, self._detector, folder)
                    yield shard, row, extra
            finally:
                shutil.rmtree(folder, ignore_errors=True)  # the shard is published by now, or given up


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
    """Each pair with the encoded map of its people."""
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


class Tally:
    """Counts of a shard: people per image (or frame), and how their scores are spread."""

    def __init__(self) -> None:
        self.people_per_image: Counter[int] = Counter()
        self.scores = np.zeros(SCORE_BINS, np.int64)

    def add(self, people: People) -> None:
        self.people_per_image[len(people)] += 1
        bins = np.clip(people.score * SCORE_BINS, 0, SCORE_BINS - 1).astype(int)
        self.scores += np.bincount(bins.ravel(), minlength=SCORE_BINS)

    def merge(self, other: Tally) -> None:
        self.people_per_image += other.people_per_image
        self.scores += other.scores

    @property
    def people(self) -> int:
        return sum(number * count for number, count in self.people_per_image.items())


class _ShardWriter:
    """Collects the rows of one shard, then publishes everything about it."""

    def __init__(self, config: Config, storage: Storage, plan: Plan, shard: int):
        self._storage, self._shard, self._name = storage, shard, f"{shard:05d}"
        self._size = plan.size(shard)
        self._folder = storage.scratch(self._name)
        video = config.input_format == "video"  # its files are made as it is read; nothing is collected here
        suffix = f".{config.map_format}"
        self._sink = sinks.open_sink(
            "dummy" if video else config.output_format, self._folder, shard, plan.shards, suffix
        )
        self._keypoints = sinks.KeypointFiles(() if video else config.keypoints, self._folder, self._name)
        self._report: list[dict] = []
        self._files: dict[str, Path] = {}
        self._tally = Tally()
        self._failed = 0

    def add(self, row: Row, extra: dict) -> None:
        self._report.append(row.report() | extra.get("report", {}))
        self._files |= extra.get("files", {})
        self._failed += row.people is None
        if "tally" in extra:
            self._tally.merge(extra["tally"])
        elif row.people is not None:
            self._tally.add(row.people)
            self._sink.add(row)
            self._keypoints.add(row)

    @property
    def complete(self) -> bool:
        return len(self._report) == self._size

    def finish(self, description: str) -> None:
        files = self._files | self._sink.finish() | self._keypoints.finish()
        report = self._folder / "report"
        report.write_bytes(sinks.json_lines(self._report))
        files[f"_dwpose/shards/{self._name}_report.jsonl"] = report
        stats = {
            "shard": self._shard,
            "ok": self._size - self._failed,
            "failed": self._failed,
            "people": self._tally.people,
            "people_per_image": {str(n): count for n, count in sorted(self._tally.people_per_image.items())},
            "score_histogram": self._tally.scores.tolist(),
            "networks": description,
            "files": {name: os.path.getsize(path) for name, path in files.items()},
        }
        self._storage.put(files)
        self._storage.write(f"_dwpose/shards/{self._name}_stats.json", json.dumps(stats).encode(), self._name)
        self.discard()

    def discard(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
