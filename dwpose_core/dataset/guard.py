"""What an extraction may write and remove: only what it made itself, never an input, never somebody else's file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from .names import without_splits
from .sinks import KEYPOINT_SUFFIXES
from .storage import Storage

if TYPE_CHECKING:
    from .names import Item
    from .plan import Config

# Of photographs that are copied; which one it is, is known when the file is read.
_COPIES = (".jpg", ".png", ".webp", ".bmp", ".tif", ".gif", ".avif")
# In a line of a plan: a folder that is called as a file might be.
FILE_LIKE = re.compile(rb"\.(?:jpg|png|webp|bmp|tif|gif|avif|mp4|gz|npz)/")


def output_names(config: Config, items: Iterable[Item], shards: int) -> Iterator[str]:
    """Every name that a run may write, but those in `_dwpose`."""
    video = config.input_format == "video"
    for shard in range(shards):
        if not video:
            yield from (f"keypoints/{shard:05d}{KEYPOINT_SUFFIXES[kind]}" for kind in config.keypoints)
        if config.output_format == "webdataset":
            yield f"{shard:05d}.tar"
        elif config.output_format == "parquet":
            yield f"data/train-{shard:05d}-of-{shards:05d}.parquet"
    if config.output_format == "imagefolder":
        yield "metadata.jsonl"
    for item in items:
        key = item["key"]
        if video:
            yield from (f"keypoints/{key}{KEYPOINT_SUFFIXES[kind]}" for kind in config.keypoints)
            if config.output_format == "files":
                yield from (f"{key}{ending}.mp4" for ending in config.endings)
        elif config.output_format == "files":
            yield f"{key}.{config.map_format}"
        elif config.output_format == "imagefolder":
            name = without_splits(key)
            yield f"conditioning_images/{name}.{config.map_format}"
            yield from (f"images/{name}{suffix}" for suffix in _COPIES)


def check_free(storage: Storage, names: Iterable[str], own: dict[str, set[int]]) -> None:
    """Nothing that is there already, and that an earlier run did not write, may be replaced.

    Args:
        own: `own_files` that will be deleted first.
    """
    if not set(storage.names("")) - {"_dwpose"}:
        return
    exists = storage.finder()
    for name in names:
        if exists(name) and storage.size(name) not in own.get(name, ()):
            damaged = next((record for record in records(storage) if _files_of(storage, record) is None), None)
            if damaged and name not in own:
                raise ValueError(
                    f"{storage.root}/{name} is there already and would be replaced; whether an earlier run wrote it "
                    f"cannot be told, as {storage.root}/{damaged} is damaged: run the earlier command again, without "
                    f"--overwrite, which mends it, or choose another --out"
                )
            raise ValueError(
                f"{storage.root}/{name} is there already and would be replaced: it is an input, or something else that "
                f"no earlier run wrote; choose another --out"
            )


def check_apart(storage: Storage, names: Callable[[], Iterable[str]]) -> None:
    """Raises ValueError where a file of the output would have the name of a folder of it, as a.png of a.jpg and
    a.png/b.png of a folder a.png: such a run could never be finished."""
    folders: set[str] = set()
    for name in names():
        while (name := name.rpartition("/")[0]) and name not in folders:
            folders.add(name)
    for name in names():
        if name in folders:
            raise ValueError(
                f"{storage.root}/{name} would be a file and a folder; among the inputs, rename the folder "
                f"{name.rpartition('/')[2]}"
            )


def keep_inputs(storage: Storage, names: Collection[str], items: Iterable[Item], source: str = "") -> None:
    """Raises ValueError when one of the names, to be written or deleted, is an input."""
    paths = (*([source] if source else []), *(item["path"] for item in items))
    for path in paths:
        if storage.name_of(path) in names:
            raise ValueError(
                f"{path} is an input of this run and a file of its output {storage.root}; "
                f"choose another --out, or move the inputs to a folder of their own"
            )


def own_files(storage: Storage) -> dict[str, set[int]]:
    """Names and sizes of all that an earlier run wrote outside of `_dwpose`. A file has two sizes where a run was
    stopped while it stored a shard for the second time: it may be the old one or the new."""
    own: dict[str, set[int]] = {}
    for record in records(storage):
        for file, size in (_files_of(storage, record) or {}).items():
            if not file.startswith("_dwpose/"):
                own.setdefault(file, set()).add(size)
    parts = [storage.size(f"_dwpose/metadata/{part}") or 0 for part in storage.names("_dwpose/metadata")]
    return own | ({"metadata.jsonl": {sum(parts)}} if parts else {})


def _files_of(storage: Storage, record: str) -> dict[str, int] | None:
    """None where a record was cut short by a power cut: whose its files are is not known."""
    try:
        return json.loads(storage.read(record))["files"]
    except (ValueError, KeyError):
        return None


def remove_output(storage: Storage) -> None:
    """Delete what an earlier run wrote and nobody changed since. Cut short, it leaves a run that is not finished."""
    for name, sizes in own_files(storage).items():
        if storage.size(name) in sizes:
            storage.delete(name)
    for name in records(storage):
        storage.delete(name)
    for name in ("config.json", "plan.json", "plan.jsonl", "stats.html", "metadata", "shards"):
        storage.delete(f"_dwpose/{name}")


def records(storage: Storage) -> list[str]:
    """Names of what is recorded of shards, finished ones and those that were just being stored."""
    names = storage.names("_dwpose/shards")
    return [f"_dwpose/shards/{name}" for name in names if name.endswith(("_stats.json", "_storing.json"))]
