"""Paths that workflows name, inside ComfyUI's folders only: workflows are passed around."""

from __future__ import annotations

import os
from pathlib import Path


def inside(home: str, path: str) -> Path | None:
    """`path` in the folder `home`, None where it leads out of it. Links that a user has put there may lead anywhere, as
    for ComfyUI's own nodes."""
    home = os.path.abspath(home)
    found = Path(os.path.abspath(os.path.join(home, path.strip())))
    return found if found.is_relative_to(home) else None
