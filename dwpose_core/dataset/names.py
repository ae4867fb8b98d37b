"""What an item is called in the output: a relative path without suffix, unique within the run.

An item is a plain dict, stored in the plan as JSON:

    key     its name
    path    file or URL
    at      where inside: [offset, size] of a tar member, [row group, row] of a parquet file, [row] of a dataset
    text    caption, where the list has one; text_at: [offset, size] of it in the tar
    error   why it cannot be read, where that is known already: it becomes a failed row
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from ..images import IMAGE_SUFFIXES as _IMAGE_SUFFIXES

Item = dict[str, Any]

IMAGE_SUFFIXES = (*_IMAGE_SUFFIXES, ".jfif")
# File systems take 255 bytes; suffixes such as .overlay.mp4 are added.
_LONGEST = 240
# What `datasets` takes for the name of a split, between such signs or at an end: a single one, and all other files are
# left out.
_SPLIT = re.compile(
    r"(?:(?<=[-._ 0-9/])|^)((?:train|training|validation|valid|dev|val|test|testing|eval|evaluation)~*)(?=[-._ 0-9/]|$)"
)

_WINDOWS = os.name == "nt"
# What Windows refuses in the names of files, which may stand in a tar or a URL.
_REFUSED = re.compile(r'[<>"|?*\x00-\x1f]')
_DEVICE = re.compile(r"^(?:con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", re.IGNORECASE)
# There A.png and a.png are one file.
_ONE_CASE = sys.platform in ("win32", "darwin")


def without_suffix(path: str) -> str:
    folder, slash, base = path.rpartition("/")
    return folder + slash + PurePosixPath(base).stem


def output_key(path: str) -> str:
    """Output name of a path without suffix: forward slashes, nothing that climbs out of the output folder."""
    path = path.replace(os.sep, "/").replace(":", "_")
    path = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # names in another encoding
    parts = [part for part in path.split("/") if part not in ("", "..", ".")]
    if _WINDOWS:  # it drops dots and spaces at an end by itself, and then the files are not those of the plan
        parts = [_DEVICE.sub(r"\g<0>_", _REFUSED.sub("_", part)) for part in parts]
        parts = [part.rstrip(". ") or "_" for part in parts]
    return "/".join(part.encode()[:_LONGEST].decode("utf-8", "ignore") for part in parts) or "unnamed"


def without_splits(key: str) -> str:
    """A key in which `datasets` sees no splits: test/my val.1 -> test~/my val~.1; others as they are."""
    return _SPLIT.sub(r"\1~", key)


def unique(found: Iterator[Item], endings: tuple[str, ...] = ("",)) -> Iterator[Item]:
    """Later items of the same name get another: one of their field "else", as a_png for a.png after a.jpg, or a number.

    Args:
        endings: with each of these a name stands for a file of its own; none of them is given twice.
    """
    taken: set[int] = set()  # hashes: a hundred bytes per item would be felt at ten million
    numbers: dict[str, int] = {}

    def counted(key: str) -> Iterator[str]:
        for number in itertools.count(numbers.get(key, 2)):
            numbers[key] = number + 1
            yield f"{key}_{number}"

    for item in found:
        first = item["key"]
        names = itertools.chain([first], item.pop("else", []), counted(first))
        for key in names:
            marks = [hash((key.casefold() if _ONE_CASE else key) + ending) for ending in endings]
            if taken.isdisjoint(marks):
                break
        taken.update(marks)
        yield item | {"key": key}
