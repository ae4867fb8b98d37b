"""Paths that workflows name, and what workflows tell of them. They are passed around: nothing leads out of ComfyUI's
folders, and nothing says where these are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def inside(home: str, path: str) -> Path | None:
    """`path` in the folder `home`, None where it leads out of it. Links that a user has put there may lead anywhere, as
    for ComfyUI's own nodes."""
    home = os.path.abspath(home)
    path = path.strip().strip('"')  # as Windows copies a path
    found = Path(os.path.abspath(os.path.join(home, path)))
    return found if found.is_relative_to(home) else None


def digest(state: Any) -> str:
    """A fingerprint of anything that has a repr. ComfyUI writes fingerprints into every picture it saves, so they must
    not tell the folders of this machine, nor grow with the files in them."""
    return hashlib.sha256(repr(state).encode()).hexdigest()


def state_of(files: Iterable[Path]) -> str:
    """Another text wherever a file comes, goes or changes."""
    return digest([(str(file), file.stat().st_mtime_ns) for file in files])
