"""The plan: what a run is, its frozen list of inputs cut into numbered shards, and which of them are done.

    OUT/_dwpose/config.json, plan.jsonl, plan.json      what is being done
    OUT/_dwpose/shards/00000_report.jsonl               a row for every item: ok, or failed and why
    OUT/_dwpose/shards/00000_storing.json               while its files are moved into place: which ones
    OUT/_dwpose/shards/00000_stats.json                 counts, histograms, files; written last

A shard counts as done when its stats are there, every file they name has the size they name, and nothing is being
stored.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..pipeline import Options
from . import guard, sinks, sources
from .storage import Storage

# Raised when names, ids or rows come out differently: a run is finished by the version that began it.
FORMAT = 3


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
    min_people: int = 0  # images of fewer people are left out of the output
    min_body: float = 0.0  # likewise, where nobody shows this share of the 17 body points
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
        if self.input_format not in sources.FORMATS:
            raise ValueError(f"unknown input format {self.input_format!r}; choose one of {', '.join(sources.FORMATS)}")
        if self.output_format not in sinks.OUTPUT_FORMATS:
            raise ValueError(
                f"unknown output format {self.output_format!r}; choose one of {', '.join(sinks.OUTPUT_FORMATS)}"
            )
        if unknown := set(self.keypoints) - set(sinks.KEYPOINT_SUFFIXES):
            raise ValueError(
                f"unknown keypoint format {min(unknown)!r}; choose from {', '.join(sinks.KEYPOINT_SUFFIXES)}"
            )
        if self.samples_per_shard < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError("--samples-per-shard and --limit must be at least 1")
        if self.detect_resolution is not None and self.detect_resolution < 1:
            raise ValueError(f"--detect-resolution must be at least 1 pixel, got {self.detect_resolution}")
        if self.min_people < 0 or not 0 <= self.min_body <= 1:
            raise ValueError(
                f"--min-people must be at least 0 and --min-body a share of 0 to 1, got {self.min_people} and "
                f"{self.min_body:g}"
            )
        if (self.min_people or self.min_body) and (self.input_format == "video" or self.output_format == "dummy"):
            raise ValueError("--min-people and --min-body leave images out of the output: of videos and of dummy none")
        if self.map_format not in ("png", "webp"):
            raise ValueError(f"maps are written as png or webp, not {self.map_format!r}")
        self._check_videos() if self.input_format == "video" else self._check_images()
        if self.output_format in ("files", "imagefolder") and _same_folder(self.source, self.out):
            raise ValueError(f"--out is SOURCE itself ({self.source}): maps would lie among the inputs; choose another")
        for name in ("keypoints", "draw_size"):  # JSON has no tuples
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def _check_videos(self) -> None:
        if self.output_format not in ("files", "dummy"):
            raise ValueError("videos are written as files: a pose .mp4 for each")
        if "coco" in self.keypoints:
            raise ValueError("--keypoints coco is for images: its rows have no frames; use jsonl or npz for videos")
        if self.map_format != "png":
            raise ValueError(f"--map-format {self.map_format} is for images: the maps of a video are an .mp4")
        if self.detect_resolution is not None:
            raise ValueError("--detect-resolution is for images: videos are not shrunk")
        if self.overlay and self.output_format == "dummy":
            raise ValueError("--output-format dummy draws nothing, also no --overlay; leave one of them out")

    def _check_images(self) -> None:
        if self.overlay:
            raise ValueError("--overlay is for videos; `dwpose image --overlay` draws over photographs")

    @property
    def endings(self) -> tuple[str, ...]:
        """What follows the name of a video in those of the films that are made of it."""
        return ("", ".overlay") if self.overlay else ("",)

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))


class Plan:
    """The frozen list of inputs: made once, read by every rank, untouched by files that appear later."""

    def __init__(self, storage: Storage):
        self._storage = storage
        about = storage.json("_dwpose/plan.json")
        self.format = about.get("format", 1)
        self.items, self.samples_per_shard = about["items"], about["samples_per_shard"]
        self.left_out: dict[str, int] = about.get("left_out", {})  # see `sources.items`
        self._numbered = about.get("numbered", False)
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

    def image_id(self, shard: int, index: int, key: str) -> int:
        """COCO's: the number that is the file's name where all have one of their own, else the place in the plan."""
        return int(_stem(key)) if self._numbered else shard * self.samples_per_shard + index


def make_plan(
    config: Config,
    storage: Storage,
    rank: int = 0,
    *,
    overwrite: bool = False,
    before_writing: Callable[[], Any] = lambda: None,
    show: bool = False,
) -> Plan:
    """List the inputs, once: a plan that is there already is kept.

    Args:
        overwrite: delete what an earlier run wrote, and begin anew.
        before_writing: called when the inputs are known and nothing is written or deleted yet; may raise.
        show: count the inputs on the screen while they are listed, where that takes long.

    Raises:
        ValueError: when there is nothing to do, the folder holds the output of another command, or files that are not
            ours would be replaced.
    """
    if not overwrite and (plan := present_plan(config, storage)) is not None:
        return plan
    scratch = storage.scratch(f"plan{rank}")
    try:
        shards = list_inputs(config, storage, scratch, show)
        before_writing()
        problem = None
        try:
            check_outputs(config, storage, scratch, shards, overwrite)
        except ValueError as error:
            problem = error
        # Another rank may have been faster, and what is there be its first shards.
        if not overwrite and (plan := present_plan(config, storage)) is not None:
            return plan
        if problem is not None:
            raise problem
        if overwrite:
            guard.remove_output(storage)
        else:
            storage.delete("_dwpose/config.json")  # of a first try: what is half replaced must not count
        (scratch / "config.json").write_text(json.dumps(config.to_json(), indent=1))
        storage.put({f"_dwpose/{name}": scratch / name for name in ("plan.jsonl", "plan.json", "config.json")})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Plan(storage)


def present_plan(config: Config, storage: Storage) -> Plan | None:
    """The plan of a run that was begun with these options, None where there is none yet.

    Raises:
        ValueError: when it was begun with others, or by a version that named things differently.
    """
    begun = bool(guard.records(storage))
    # A try that finished no shard, and that nobody is at, binds nobody. Behind a URL nobody can be seen.
    free = not begun and storage.local and not storage.users()
    if storage.size("_dwpose/config.json") is None:
        if begun:
            raise ValueError(f"{config.out} holds finished shards without the plan they belong to; {_INSTEAD}")
        return None
    found = storage.json("_dwpose/config.json")
    # An option that did not exist when the run was begun had its default's effect.
    defaults, new = asdict(Options()), {item.name: item.default for item in fields(Config)}
    found, asked = ({**new, **one, "options": defaults | one.get("options", {})} for one in (found, config.to_json()))
    changed = _changes({**found, "out": None}, {**asked, "out": None})
    if changed and not free:
        raise ValueError(
            f"{config.out} was begun with other options ({'; '.join(changed)}); "
            f"continue with the same ones, or {_INSTEAD}"
        )
    if changed or storage.size("_dwpose/plan.json") is None:
        return None
    plan = Plan(storage)
    if plan.format != FORMAT and not all(is_done(storage, shard) for shard in range(plan.shards)):
        if free:
            return None
        raise ValueError(f"{config.out} was begun by another version of dwpose; finish it with that one, or {_INSTEAD}")
    return plan


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, in words; groups of options are told option by option."""
    changes = []
    for name, value in now.items():
        old = before.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            changes += _changes(old, value)
        elif old != value:
            changes.append(f"{name}: {old} before, {value} now")
    return changes


_INSTEAD = "start over with --overwrite, or choose another --out"


def list_inputs(config: Config, storage: Storage, folder: Path, show: bool = False) -> int:
    """Write plan.jsonl and plan.json into a local folder; returns the number of shards."""
    from tqdm import tqdm

    starts, position, count = [], 0, 0
    left_out: Counter[str] = Counter()
    numbers: set[int] | None = None if config.input_format in ("video", *sources.TABLES) else set()
    listing = sources.items(
        config.source,
        config.input_format,
        skip=config.out if storage.local else "",
        image_column=config.image_column,
        text_column=config.text_column,
        endings=config.endings,
        left_out=left_out,
    )
    # A million images in tars or folders take minutes: not without a word.
    bar = {"desc": "listing", "unit": "input", "delay": 2, "leave": False, "dynamic_ncols": True}
    with open(folder / "plan.jsonl", "wb") as file:
        for item in tqdm(itertools.islice(listing, config.limit), disable=not show, **bar):
            if count % config.samples_per_shard == 0:
                starts.append(position)
            position += file.write(sinks.json_lines([item]))
            count += 1
            if numbers is not None:
                number = _number(item["key"])
                if number is None or number in numbers:
                    numbers = None
                else:
                    numbers.add(number)
    if not count:
        seen = f"; not read: {describe(left_out)}" if left_out else ""
        raise ValueError(f"nothing to read at {config.source} as {config.input_format}{seen}")
    about = {"format": FORMAT, "items": count, "samples_per_shard": config.samples_per_shard, "starts": starts}
    about |= {"numbered": numbers is not None, "left_out": dict(sorted(left_out.items()))}
    (folder / "plan.json").write_text(json.dumps(about))
    return len(starts)


def describe(left_out: dict[str, int]) -> str:
    """What was not read, as in ".heic (3), no suffix (1)"."""
    names = [f"{name} ({count})" for name, count in left_out.items()]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more kinds" if len(names) > 8 else "")


def check_outputs(config: Config, storage: Storage, folder: Path, shards: int, overwrite: bool) -> None:
    """Raises ValueError where the plan in `folder` would replace or delete what is not ours; see guard.py."""

    own = guard.own_files(storage) if overwrite else {}
    # Opened out here: an error would leave a generator's file open, and Windows deletes no folder with an open file.
    with open(folder / "plan.jsonl", "rb") as file:

        def names() -> Iterator[str]:
            file.seek(0)
            return guard.output_names(config, map(json.loads, file), shards)

        if any(map(guard.FILE_LIKE.search, file)):
            guard.check_apart(storage, names)
        file.seek(0)
        if own:
            guard.keep_inputs(storage, own, map(json.loads, file), config.source)
        guard.check_free(storage, names(), own)


def _same_folder(source: str, out: str) -> bool:
    if os.path.exists(source) and os.path.exists(out):
        return os.path.samefile(source, out)
    return source.rstrip("/") == out.rstrip("/")


def _stem(key: str) -> str:
    return key.rpartition("/")[2]


def _number(key: str) -> int | None:
    """The number that is a file's name, as in COCO; None for others, and for what no COCO tool could read."""
    stem = _stem(key)
    return int(stem) if stem.isascii() and stem.isdecimal() and len(stem) < 19 else None


def has_failures(storage: Storage, shard: int) -> bool:
    """Whether something failed in a finished shard. To be done again it is worked through from its first item: what was
    good comes out the same."""
    stats = stats_of(storage, shard)
    return stats is not None and stats["failed"] > 0


def stats_of(storage: Storage, shard: int) -> dict[str, Any] | None:
    """What is recorded of a shard; None where it is not finished, or its record was cut short by a power cut."""
    name = f"_dwpose/shards/{shard:05d}"
    if storage.size(f"{name}_stats.json") is None or storage.size(f"{name}_storing.json") is not None:
        return None
    try:
        return json.loads(storage.read(f"{name}_stats.json"))
    except ValueError:
        return None


def is_done(storage: Storage, shard: int) -> bool:
    """Whether a shard is finished and nothing of it is missing or cut short."""
    stats = stats_of(storage, shard)
    return stats is not None and all(storage.size(file) == size for file, size in stats["files"].items())


def is_to_do(storage: Storage, shard: int, retry_failed: bool = False) -> bool:
    """Whether a shard is to be worked through; with `retry_failed` also a finished one in which something failed."""
    return not is_done(storage, shard) or (retry_failed and has_failures(storage, shard))
