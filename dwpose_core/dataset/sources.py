"""What there is to read, as one line per item: folders, globs, lists, tar shards, parquet, saved datasets, videos.

See names.py for what an item is. Nothing is opened here but lists and tables of contents.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ..video import VIDEO_SUFFIXES
from .containers import SIDE_SUFFIXES, dataset_items, parquet_items, tar_items
from .lists import IMAGE_COLUMN, LIST_SUFFIXES, TEXT_COLUMN, list_items
from .names import IMAGE_SUFFIXES, Item, output_key, unique, without_suffix
from .storage import filesystem, is_url

FORMATS = ("folder", "list", "webdataset", "parquet", "dataset", "video")
TABLES = ("parquet", "dataset")  # their items have numbers, no names
# A .gif may hold one picture or many: in a folder of images it is an image.
_FILMS = tuple(suffix for suffix in VIDEO_SUFFIXES if suffix != ".gif")
_MARK = "_dwpose/plan.json"  # what makes a folder the output of an extraction
_DEEP = re.compile(r"(?:^|{0})\*\*(?:{0}|$)".format(re.escape(os.sep)))  # ** of a glob


def detect_format(source: str) -> str:
    """Which of FORMATS a source is, by suffix, or for a folder by what lies in it.

    Raises:
        ValueError: when nothing in it can be read, or images lie beside videos, tars or tables.
    """
    suffix = PurePosixPath(source.split("::")[0]).suffix.lower()
    if glob.has_magic(source) or suffix:
        for name, suffixes in (
            ("folder", IMAGE_SUFFIXES),
            ("list", LIST_SUFFIXES),
            ("webdataset", (".tar",)),
            ("parquet", (".parquet",)),
            ("video", _FILMS),
        ):
            if suffix in suffixes:
                return "video" if name == "list" and _first_suffix(source) in _FILMS else name
    if not is_url(source) and any((Path(source) / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return "dataset"  # what `save_to_disk` of `datasets.Dataset` and of `datasets.DatasetDict` writes
    nothing = f"nothing to read at {source}: no image, video, .tar, .parquet or list (.txt, .csv, .jsonl)"
    if not is_url(source) and os.path.isfile(source):
        raise ValueError(nothing)
    found = set()
    if _is_pattern(source):
        paths = _matches(source)
    elif is_url(source) and glob.has_magic(source):
        paths = _url_matches(*filesystem(source))
    else:
        paths = _walk(source, "", Counter())
    for path in itertools.islice(paths, 10_000):
        suffix = PurePosixPath(path).suffix.lower()
        found |= {"folder"} if suffix in IMAGE_SUFFIXES else set()
        found |= {"video"} if suffix in _FILMS else set()
        found |= {"webdataset"} if suffix == ".tar" else set()
        found |= {"parquet"} if suffix == ".parquet" else set()
    if not found and _is_pattern(source) and any(map(os.path.isdir, glob.iglob(source))):
        raise ValueError(f"{source} names folders; '{source.rstrip('/')}/**' is what lies in them")
    if not found:
        raise ValueError(nothing)
    if len(found) > 1:
        raise ValueError(
            f"{source} holds several kinds of input; choose with --input-format {' or '.join(sorted(found))}"
        )
    return found.pop()


def _first_suffix(source: str) -> str:
    """Of the first file that a list names, "" where it names none. What is wrong with it is said when it is read."""
    try:
        first = next((item["path"] for item in list_items(source) if "error" not in item), "")
    except (ValueError, OSError):
        return ""
    return PurePosixPath(first).suffix.lower()


def items(
    source: str,
    kind: str,
    *,
    skip: str = "",
    image_column: str = IMAGE_COLUMN,
    text_column: str = TEXT_COLUMN,
    endings: tuple[str, ...] = ("",),
    left_out: Counter[str] | None = None,
) -> Iterator[Item]:
    """Every item of a source, in a stable order.

    Args:
        kind: one of FORMATS.
        skip: a folder that is not looked into (the output, where it lies inside the source).
        image_column, text_column: of tables; lists also understand the usual other names.
        endings: see `names.unique`.
        left_out: counts what lies there and is not read, by suffix.

    Raises:
        ValueError: when a list or table has no column that could be the image, or not the one that was asked for.
        OSError: when the source cannot be read.
    """
    left_out = Counter() if left_out is None else left_out
    if kind == "list" or (kind == "video" and PurePosixPath(source).suffix.lower() in LIST_SUFFIXES):
        return unique(list_items(source, image_column, text_column), endings)
    if kind == "dataset":
        return dataset_items(source, image_column, text_column)
    suffixes = {"folder": IMAGE_SUFFIXES, "video": VIDEO_SUFFIXES, "webdataset": (".tar",), "parquet": (".parquet",)}
    files = _files(source, suffixes[kind], skip, left_out)
    if kind == "webdataset":
        return unique(item for path, key in files for item in tar_items(path, key, left_out))
    if kind == "parquet":
        return (
            item
            for number, (path, key) in enumerate(files)
            for item in parquet_items(path, number, key, image_column, text_column)
        )
    found = ({"key": key, "path": path, "else": [f"{key}_{PurePosixPath(path).suffix[1:]}"]} for path, key in files)
    return unique(found, endings)


def _files(source: str, suffixes: tuple[str, ...], skip: str, left_out: Counter[str]) -> Iterator[tuple[str, str]]:
    """Path and key of every file with one of the suffixes."""
    if is_url(source):
        fs, base = filesystem(source)
        found, root = _walk(source, skip, left_out), base
        if glob.has_magic(base):
            root = _fixed_part(base)
            found = _outside_outputs(_url_matches(fs, base), root, left_out, fs.isfile)
        for path in _wanted(found, suffixes, left_out):
            inside = os.path.relpath(path, root if path != root else os.path.dirname(root))
            yield fs.unstrip_protocol(path), output_key(without_suffix(inside))
        return
    if _is_pattern(source):
        paths = _matches(source)
        root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
        found = _outside_outputs(paths, root, left_out, os.path.isfile)
    elif os.path.isfile(source):
        found, root = [source], os.path.dirname(source)
    else:
        found, root = _walk(source, skip, left_out), source
    for path in _wanted(found, suffixes, left_out):
        inside = os.path.relpath(path, root or ".").replace(os.sep, "/")
        yield path, output_key(without_suffix(inside))


def _is_pattern(source: str) -> bool:
    """Whether a source is a glob of local files."""
    return glob.has_magic(source) and not is_url(source) and not os.path.exists(source)


def _matches(pattern: str) -> list[str]:
    return sorted(path for path in _glob(os.path.normpath(pattern)) if os.path.isfile(path) or _is_broken(path))


def _glob(pattern: str) -> set[str]:
    """`glob.glob`, whose ** would go through links to folders, and round and round where one leads back."""
    head, *tail = _DEEP.split(pattern, maxsplit=1)
    if not tail:
        return set(glob.glob(pattern))
    found: set[str] = set()
    for top in glob.glob(head or (os.sep if pattern.startswith(os.sep) else os.curdir)):
        for folder, below, _ in os.walk(top):
            below[:] = [name for name in below if not name.startswith(".")]
            found |= _glob(os.path.join(glob.escape(folder), tail[0] or "*"))
    return found


def _url_matches(fs: Any, pattern: str) -> list[str]:
    """Files behind a URL that a glob names; not hidden ones, as for local files."""
    root = _fixed_part(pattern)
    found = sorted(fs.glob(pattern, detail=True).items())
    return [path for path, about in found if about["type"] != "directory" and "/." not in path.removeprefix(root)]


def _fixed_part(pattern: str) -> str:
    """The folder that all matches of a glob behind a URL lie in."""
    return re.split(r"[*?[]", pattern, maxsplit=1)[0].rpartition("/")[0]


def _is_broken(path: str) -> bool:
    """A link that leads nowhere, or to itself: it becomes a row that says so."""
    return os.path.islink(path) and not os.path.exists(path)


def _wanted(paths: Iterator[str], suffixes: tuple[str, ...], left_out: Counter[str]) -> Iterator[str]:
    for path in paths:
        if path.lower().endswith(suffixes):
            yield path
        elif (suffix := os.path.splitext(path)[1].lower()) not in SIDE_SUFFIXES:
            left_out[suffix or "no suffix"] += 1


def _walk(folder: str, skip: str, left_out: Counter[str]) -> Iterator[str]:
    """Files below a folder, sorted folder by folder; not hidden ones, links to folders, and outputs of extractions."""
    if is_url(folder):
        fs, base = filesystem(folder)
        paths = sorted(fs.find(base))
        outputs = {path.removesuffix(f"/{_MARK}") for path in paths if path.endswith(f"/{_MARK}")} - {base.rstrip("/")}
        left_out.update(f"earlier output {output}" for output in outputs)
        yield from (
            path
            for path in paths
            if "/_dwpose/" not in path
            and "/." not in path.removeprefix(base)
            and not any(path.startswith(f"{output}/") for output in outputs)
        )
        return
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no file or folder at {folder}")
    with os.scandir(folder) as scan:
        entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            if (entry.is_symlink() and _is_broken(entry.path)) or entry.is_file():
                yield entry.path
        elif skip and os.path.exists(skip) and os.path.samefile(entry.path, skip):
            continue
        elif os.path.isfile(f"{entry.path}/{_MARK}"):
            left_out[f"earlier output {entry.path}"] += 1
        elif entry.name != "_dwpose":
            yield from _walk(entry.path, skip, left_out)


def _outside_outputs(
    paths: list[str], root: str, left_out: Counter[str], is_file: Callable[[str], bool]
) -> Iterator[str]:
    """Those that do not lie in the output of an extraction below `root`."""
    outputs: dict[str, str] = {}  # folder -> the output it lies in, or ""

    def output_of(folder: str) -> str:
        if len(folder) <= len(root):
            return ""
        if folder not in outputs:
            marked = is_file(f"{folder}/{_MARK}")
            outputs[folder] = folder if marked else output_of(os.path.dirname(folder))
        return outputs[folder]

    for path in paths:
        if not (output := output_of(os.path.dirname(path))):
            yield path
        else:
            left_out[f"earlier output {output}"] = 1
