"""What there is to read, as one line per item: folders, globs, lists, tar shards, parquet, saved datasets, videos.

An item is a plain dict, stored in the plan as JSON:

    key     name of the output, a relative path without suffix, unique within the run
    path    file or URL
    at      where inside: [offset, size] of a tar member, [row group, row] of a parquet file, [row] of a dataset
    text    caption, where the list has one; text_at: [offset, size] of it in the tar

Nothing is opened here but lists and tables of contents.
"""

from __future__ import annotations

import csv
import glob
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ..images import IMAGE_SUFFIXES
from ..video import VIDEO_SUFFIXES
from .storage import filesystem, is_url, open_input

Item = dict[str, Any]

FORMATS = ("folder", "list", "webdataset", "parquet", "dataset", "video")
LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
# Names a list may give its columns, best first: imagefolder, LAION-style tables, hand-written ones.
_PATH_COLUMNS = ("file_name", "image", "image_path", "path", "file", "filename", "url")
_TEXT_COLUMNS = ("text", "caption", "prompt")
# A .gif may hold one picture or many: in a folder of images it is an image.
_FILMS = tuple(suffix for suffix in VIDEO_SUFFIXES if suffix != ".gif")


def detect_format(source: str) -> str:
    """Which of FORMATS a source is, by suffix, or for a folder by what lies in it.

    Raises:
        ValueError: when nothing in it can be read, or images lie beside videos, tars or tables.
    """
    suffix = PurePosixPath(source.split("::")[0]).suffix.lower()
    if _has_magic(source) or suffix:
        for name, suffixes in (
            ("folder", IMAGE_SUFFIXES),
            ("list", LIST_SUFFIXES),
            ("webdataset", (".tar",)),
            ("parquet", (".parquet",)),
            ("video", _FILMS),
        ):
            if suffix in suffixes:
                return name
    if not is_url(source) and (Path(source) / "state.json").is_file():
        return "dataset"  # what `datasets.Dataset.save_to_disk` writes
    found = set()
    for path in itertools.islice(_walk(source, ""), 10_000):
        suffix = PurePosixPath(path).suffix.lower()
        found |= {"folder"} if suffix in IMAGE_SUFFIXES else set()
        found |= {"video"} if suffix in _FILMS else set()
        found |= {"webdataset"} if suffix == ".tar" else set()
        found |= {"parquet"} if suffix == ".parquet" else set()
    if not found:
        raise ValueError(f"nothing to read at {source}: no image, video, .tar, .parquet or list (.txt, .csv, .jsonl)")
    if len(found) > 1:
        raise ValueError(
            f"{source} holds several kinds of input; choose with --input-format {' or '.join(sorted(found))}"
        )
    return found.pop()


def items(
    source: str, kind: str, *, skip: str = "", image_column: str = "image", text_column: str = "text"
) -> Iterator[Item]:
    """Every item of a source, in a stable order.

    Args:
        kind: one of FORMATS.
        skip: a folder that is not looked into (the output, where it lies inside the source).
        image_column, text_column: of tables; lists also understand the usual other names.

    Raises:
        ValueError: when a list or table has no column that could be the image. OSError: when it cannot be read.
    """
    if kind == "list":
        return _unique(_list_items(source, image_column, text_column))
    if kind == "dataset":
        return _dataset_items(source, image_column)
    suffixes = {"folder": IMAGE_SUFFIXES, "video": VIDEO_SUFFIXES, "webdataset": (".tar",), "parquet": (".parquet",)}[
        kind
    ]
    files = _files(source, suffixes, skip)
    if kind == "webdataset":
        return _unique(item for path, _ in files for item in _tar_items(path))
    if kind == "parquet":
        return (
            item
            for number, (path, _) in enumerate(files)
            for item in _parquet_items(path, number, image_column, text_column)
        )
    return _unique({"key": key, "path": path} for path, key in files)


def _unique(found: Iterator[Item]) -> Iterator[Item]:
    """Later items of the same name get their suffix, or a number, into it: a.jpg and a.png become a and a_png."""
    taken: set[int] = set()  # hashes: a hundred bytes per item would be felt at ten million
    for item in found:
        key = item["key"]
        if hash(key) in taken:
            suffix = PurePosixPath(item["path"]).suffix[1:] if "at" not in item else ""
            names = ([f"{key}_{suffix}"] if suffix else []) + [f"{key}_{n}" for n in range(2, 100)]
            key = next((name for name in names if hash(name) not in taken), None)
            if key is None:
                raise ValueError(f"more than a hundred inputs are called {item['key']}")
        taken.add(hash(key))
        yield item | {"key": key}


def _files(source: str, suffixes: tuple[str, ...], skip: str) -> Iterator[tuple[str, str]]:
    """Path and key of every file with one of the suffixes."""
    if is_url(source):
        fs, base = filesystem(source)
        paths = sorted(fs.glob(base) if _has_magic(base) else fs.find(base))
        root = base if not _has_magic(base) else base[: base.index("*")].rsplit("/", 1)[0]
        for path in paths:
            if path.lower().endswith(suffixes):
                yield (
                    fs.unstrip_protocol(path),
                    _key(os.path.relpath(path, root if path != root else os.path.dirname(root))),
                )
        return
    if _has_magic(source) and not os.path.exists(source):
        paths = sorted(glob.glob(source, recursive=True))
        root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    elif os.path.isfile(source):
        paths, root = [source], os.path.dirname(source)
    else:
        paths, root = _walk(source, skip), source
    for path in paths:
        if path.lower().endswith(suffixes) and os.path.isfile(path):
            yield path, _key(os.path.relpath(path, root or "."))


def _walk(folder: str, skip: str) -> Iterator[str]:
    """Files below a folder, sorted folder by folder; hidden ones and links to folders are left out."""
    if is_url(folder):
        fs, base = filesystem(folder)
        yield from sorted(fs.find(base))
        return
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no file or folder at {folder}")
    with os.scandir(folder) as scan:
        entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            yield entry.path
        elif not (skip and os.path.exists(skip) and os.path.samefile(entry.path, skip)):
            yield from _walk(entry.path, skip)


def _has_magic(name: str) -> bool:
    return glob.has_magic(name)


def _key(path: str) -> str:
    """Relative output name of a path: forward slashes, no suffix, nothing that climbs out of the output folder."""
    pure = PurePosixPath(path.replace(os.sep, "/"))
    parts = [part for part in pure.with_suffix("").parts if part not in ("/", "..", ".")]
    return "/".join(parts).replace(":", "_")


def _list_items(source: str, image_column: str, text_column: str) -> Iterator[Item]:
    folder = source.rsplit("/", 1)[0] if "/" in source else "."
    with open_input(source) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        suffix = PurePosixPath(source).suffix.lower()
        if suffix == ".txt":
            rows: Iterator[dict] = ({"path": line.strip()} for line in file if line.strip())
        elif suffix == ".jsonl":
            rows = (_json_row(line, source, number) for number, line in enumerate(file, 1) if line.strip())
        else:
            rows = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
        for row in rows:
            path = next((row[name] for name in (image_column, *_PATH_COLUMNS) if row.get(name)), None)
            if not isinstance(path, str):
                raise _no_column(source, image_column, row)
            text = next((row[name] for name in (text_column, *_TEXT_COLUMNS) if row.get(name)), None)
            inside = not (os.path.isabs(path) or is_url(path))
            name = path.split("://", 1)[-1]
            if not inside and name.startswith(folder + "/"):
                name = os.path.relpath(name, folder)
            item = {"key": _key(name), "path": f"{folder}/{path}" if inside else path}
            yield item | ({"text": text} if text else {})


def _no_column(source: str, wanted: str, columns: Iterable[str]) -> ValueError:
    return ValueError(f"{source} has no column {wanted!r}, only {', '.join(columns)}; choose with --image-column")


def _json_row(line: str, source: str, number: int) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}, line {number}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{source}, line {number}: expected an object, got {type(row).__name__}")
    return row


def _tar_items(path: str) -> Iterator[Item]:
    """Images of a WebDataset shard: members of one name up to the first dot are one sample."""
    import tarfile

    image = None
    with open_input(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if not member.isfile():
                continue
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            key = _key(f"{folder}/{stem}." if folder else f"{stem}.")
            if image is not None and image["key"] != key:
                yield image
                image = None
            where = [member.offset_data, member.size]
            if f".{extension.lower()}" in IMAGE_SUFFIXES:
                image = {"key": key, "path": path, "at": where} | (
                    {"text_at": text_at} if (text_at := (image or {}).get("text_at")) else {}
                )
            elif extension.lower() == "txt":
                image = (image or {"key": key, "path": path}) | {"text_at": where}
            tar.members = []  # tarfile keeps every header otherwise
    if image is not None:
        yield image


def _parquet_items(path: str, number: int, image_column: str, text_column: str) -> Iterator[Item]:
    with open_input(path) as file:
        table = _parquet().ParquetFile(file)
        if image_column not in table.schema_arrow.names:
            raise _no_column(path, image_column, table.schema_arrow.names)
        count = 0
        for group in range(table.num_row_groups):
            for row in range(table.metadata.row_group(group).num_rows):
                yield {"key": f"{number:05d}/{count:08d}", "path": path, "at": [group, row]}
                count += 1


def _dataset_items(source: str, image_column: str) -> Iterator[Item]:
    dataset = open_dataset(source)
    if image_column not in dataset.column_names:
        raise _no_column(source, image_column, dataset.column_names)
    for row in range(len(dataset)):
        yield {"key": f"{row:08d}", "path": source, "at": [row]}


def open_dataset(source: str) -> Any:
    """A dataset saved by `datasets.Dataset.save_to_disk`."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f'{source} needs the datasets package: pip install "dwpose-torch[datasets]"') from error
    return datasets.load_from_disk(source)


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('parquet needs pyarrow: pip install "dwpose-torch[datasets]"') from error
    return pyarrow.parquet


class TableReader:
    """Bytes and captions of parquet and dataset items that are asked for in order; holds one row group at a time."""

    def __init__(self, image_column: str, text_column: str):
        self._image, self._text = image_column, text_column
        self._open: tuple[Any, Any] | None = None  # (path, row group) and its rows

    def read(self, item: Item) -> tuple[bytes, str | None]:
        """Raises ValueError where the row holds no image bytes."""
        place = (item["path"], item["at"][0]) if len(item["at"]) == 2 else (item["path"], None)
        if self._open is None or self._open[0] != place:
            self._open = (place, self._rows(*place))
        row = self._open[1](item["at"][-1])
        image, text = row[self._image], row.get(self._text)
        if isinstance(image, dict):
            if image.get("bytes") is None and image.get("path"):
                with open_input(image["path"]) as file:
                    return file.read(), text
            image = image.get("bytes")
        if not isinstance(image, bytes):
            raise ValueError(f"{item['path']}, row {item['at']}: no image bytes in column {self._image!r}")
        return image, text if isinstance(text, str) else None

    def _rows(self, path: str, group: int | None) -> Any:
        if group is None:
            import datasets

            dataset = open_dataset(path)
            if isinstance(dataset.features[self._image], datasets.Image):
                dataset = dataset.cast_column(self._image, datasets.Image(decode=False))
            return dataset.__getitem__
        with open_input(path) as file:
            table = _parquet().ParquetFile(file)
            columns = [name for name in (self._image, self._text) if name in table.schema_arrow.names]
            rows = table.read_row_group(group, columns=columns)
        return lambda index: {name: rows.column(name)[index].as_py() for name in columns}
