"""The plan: what a run is, its frozen list of inputs cut into numbered shards, and which of them are done.

    OUT/_dwpose/config.json, plan.jsonl, plan.json      what is being done
    OUT/_dwpose/shards/00000_report.jsonl               a row for every item: ok, or failed and why
    OUT/_dwpose/shards/00000_stats.json                 counts, histograms, files; written last

A shard counts as done when its stats are there and every file they name has the size they name.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from typing import Any

from . import sinks, sources
from .storage import Storage


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
