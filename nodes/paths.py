"""Paths that workflows name, inside ComfyUI's folders only: workflows are passed around."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path


def inside(home: str, path: str) -> Path | None:
    """`path` in the folder `home`, None where it leads out of it. Links that a user has put there may lead anywhere, as
    for ComfyUI's own nodes."""
    home = os.path.abspath(home)
    found = Path(os.path.abspath(os.path.join(home, path.strip())))
    return found if found.is_relative_to(home) else None


def in_order(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of a folder with one of these suffixes, f_2 before f_10."""
    return sorted((file for file in folder.iterdir() if file.suffix.lower() in suffixes), key=_natural)


def _natural(file: Path) -> tuple:
    parts = re.split(r"(\d+)", file.name.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], file.name
