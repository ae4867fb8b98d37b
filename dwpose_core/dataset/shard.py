"""One shard being written: rows come in, and when the last one is there everything about it is published."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from ..people import People
from ..pipeline import Options
from . import guard, sinks
from .plan import Config, Plan
from .sinks import Row
from .storage import Storage

SCORE_BINS = 20  # of the score histogram, 0.05 wide; the last one holds everything from 0.95 up


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


def lacking(people: People, config: Config) -> str:
    """What `people` lack to be part of the output; "" where they lack nothing. See `Config.min_people`, `min_body`."""
    if len(people) < config.min_people:
        return f"people: {len(people)}, fewer than {config.min_people}"
    if config.min_body:
        _, score = people.part("body")
        seen = (score >= Options(**config.options).keypoint_threshold).mean(1).max(initial=0.0)
        if seen < config.min_body:
            return f"body points seen: {seen:.2f} at most, less than {config.min_body:g}"
    return ""


class ShardWriter:
    """Collects the rows of one shard, then publishes everything about it."""

    def __init__(self, config: Config, storage: Storage, plan: Plan, shard: int):
        self._config = config
        self._storage, self._plan, self._shard, self._name = storage, plan, shard, f"{shard:05d}"
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
        self._failed = self._left_out = 0

    def add(self, row: Row, extra: dict) -> None:
        lack = row.people is not None and lacking(row.people, self._config)
        self._report.append(row.report() | ({"left_out": lack} if lack else {}) | extra.get("report", {}))
        self._files |= extra.get("files", {})
        self._failed += row.people is None
        if "tally" in extra:
            self._tally.merge(extra["tally"])
        elif row.people is not None:
            self._tally.add(row.people)
            self._keypoints.add(row)
            if lack:
                self._left_out += 1
            else:
                self._sink.add(row)

    @property
    def complete(self) -> bool:
        return len(self._report) == self._size

    def finish(self, description: str) -> None:
        files = self._files | self._sink.finish() | self._keypoints.finish()
        guard.keep_inputs(self._storage, files, self._plan.shard(self._shard))
        report = self._folder / "report"
        report.write_bytes(sinks.json_lines(self._report))
        files[f"_dwpose/shards/{self._name}_report.jsonl"] = report
        stats = {
            "shard": self._shard,
            "ok": self._size - self._failed,
            "failed": self._failed,
            "left_out": self._left_out,
            "people": self._tally.people,
            "people_per_image": {str(n): count for n, count in sorted(self._tally.people_per_image.items())},
            "score_histogram": self._tally.scores.tolist(),
            "networks": description,
            "files": {name: os.path.getsize(path) for name, path in files.items()},
        }
        # Whose the files are shall be known wherever this is stopped; stats of an earlier try stay until new ones come.
        storing = f"_dwpose/shards/{self._name}_storing.json"
        self._storage.write(storing, json.dumps({"files": stats["files"]}).encode(), self._name)
        self._storage.put(files)
        self._storage.write(f"_dwpose/shards/{self._name}_stats.json", json.dumps(stats).encode(), self._name)
        self._storage.delete(storing)
        self.discard()

    def discard(self) -> None:
        for part in (self._sink, self._keypoints):
            with contextlib.suppress(OSError):  # of a full disk: nothing of it is kept
                part.close()  # Windows deletes no open file
        shutil.rmtree(self._folder, ignore_errors=True)
