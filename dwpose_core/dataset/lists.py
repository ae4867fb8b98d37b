"""Lists of images or videos: .txt with a path on each line, .csv, .tsv and .jsonl with columns."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from .names import Item, output_key, without_suffix
from .storage import is_url, open_input

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
IMAGE_COLUMN, TEXT_COLUMN = "image", "text"  # defaults; another name must be there
# Names a list may give its columns, best first: imagefolder, LAION-style tables, hand-written ones.
_PATH_COLUMNS = ("file_name", "image", "image_path", "path", "file", "filename", "video", "video_path", "url")
TEXT_COLUMNS = ("text", "caption", "prompt")
_END = "</end of the list>"  # a line of its own, unless a quotation mark before it was never closed


def list_items(source: str, image_column: str = IMAGE_COLUMN, text_column: str = TEXT_COLUMN) -> Iterator[Item]:
    """The images of a list; a line that names none becomes an item with an error.

    Raises:
        ValueError: when there is no column that could be the image, or not the one that was asked for.
    """
    folder = folder_of(source)
    paths = (image_column,) if image_column != IMAGE_COLUMN else (IMAGE_COLUMN, *_PATH_COLUMNS)
    texts = (text_column,) if text_column != TEXT_COLUMN else TEXT_COLUMNS
    suffix = PurePosixPath(source).suffix.lower()
    columns: dict = {}  # of the first row
    captions = text_column == TEXT_COLUMN
    with open_input(source) as raw:
        # Bytes that are no UTF-8 belong to file names in another encoding.
        file = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
        for line, row in _rows(file, source, suffix):
            path, error = None, row if isinstance(row, str) else ""
            if not error:
                there = [name for name in paths if name in row]
                if not there and not columns:
                    raise no_column(source, image_column, row, "--image-column")
                if not columns and not captions and suffix != ".jsonl" and text_column not in row:
                    raise no_column(source, text_column, row, "--text-column")
                columns = columns or row
                path = next((row[name] for name in there if row[name]), None)
                named = isinstance(path, str) and "\0" not in path  # no file has such a name, and no system takes it
                error = "" if named else f"no path in column {(there or paths)[0]!r}"
                captions = captions or any(name in row for name in texts)
            if error:
                yield {"key": f"line_{line:08d}", "path": source, "error": f"{source}, line {line}: {error}"}
                continue
            text = next((row[name] for name in texts if row.get(name) not in (None, "")), None)
            yield _item(path, folder) | ({} if text is None else {"text": text})
    if columns and not captions:
        raise no_column(source, text_column, columns, "--text-column")


def _item(path: str, folder: str) -> Item:
    whole = in_folder(folder, path)
    inside = whole != path
    name = path.split("://", 1)[-1].replace(os.sep, "/")
    if not inside and name.startswith(folder + "/"):
        name = os.path.relpath(name, folder)
    key, suffix = output_key(without_suffix(name)), PurePosixPath(name).suffix[1:]
    item = {"key": key, "path": whole}
    return item | ({"else": [f"{key}_{suffix}"]} if suffix else {})


def folder_of(source: str) -> str:
    source = source if is_url(source) else source.replace(os.sep, "/")
    return source.rpartition("/")[0] if "/" in source else "."


def in_folder(folder: str, path: str) -> str:
    """A path as a list or a table names it, which is relative to where that lies."""
    return path if os.path.isabs(path) or is_url(path) else f"{folder}/{path}"


def _rows(file: io.TextIOWrapper, source: str, suffix: str) -> Iterator[tuple[int, dict | str]]:
    """Line number and row, or what is wrong with it."""
    if suffix == ".txt":
        yield from ((number, {"path": line.strip()}) for number, line in enumerate(file, 1) if line.strip())
    elif suffix == ".jsonl":
        yield from ((number, _json_row(line)) for number, line in enumerate(file, 1) if line.strip())
    else:
        reader, line = csv.DictReader(itertools.chain(file, [_END]), delimiter="\t" if suffix == ".tsv" else ","), 1
        try:
            for row in reader:
                if any(_END in str(cell) for cell in row.values()):
                    if next(iter(row.values())) == _END:
                        return
                    raise csv.Error("a quotation mark is never closed, and what follows would be taken for one cell")
                line = reader.line_num
                yield line, row
        except csv.Error as error:
            raise ValueError(f"{source}, after line {line}: {error}; mend the list") from error


def _json_row(line: str) -> dict | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    return row if isinstance(row, dict) else f"expected an object, got {type(row).__name__}"


def no_column(source: str, wanted: str, columns: Iterable[str], option: str) -> ValueError:
    return ValueError(f"{source} has no column {wanted!r}, only {', '.join(map(str, columns))}; choose with {option}")
