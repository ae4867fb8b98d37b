"""Photographs out of many repositories: photographs.json says which files, at which commit, and what makes them free.

    {"OWNER/NAME": {"commit": ..., "parts": [
        {"licence": ..., "licence_file": ..., "words": [...], "pictures": {RESULT: {"path", "sha256", "crop"}}}]}}

Most of these repositories are not free as a whole. So a file in them that speaks of the pictures must hold every one of
the quoted words (white space may differ), and each picture must have the sha256 of the one that was looked at.
hdri/README.md of gkjohnson/3d-demo-data names only Poly Haven, whose licence page (polyhaven.com/license) says "Our
assets are all licensed as CC0".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .pictures import dim_panorama, photograph
from .sources import Checkout, Source, naming

TABLE = Path(__file__).with_name("photographs.json")


@dataclass(frozen=True)
class Photograph:
    """A file of a repository and what becomes of it."""

    name: str  # of the result, without suffix
    path: str
    sha256: str
    crop: tuple[float, float, float, float] = (0, 0, 1, 1)  # left, top, right, bottom as parts of width and height


@dataclass(frozen=True)
class Part:
    """Pictures of a repository that the same words make free."""

    source: Source
    words: tuple[str, ...]
    photographs: tuple[Photograph, ...]


def read_parts() -> list[Part]:
    """All of photographs.json."""
    parts = []
    for repository, entry in json.loads(TABLE.read_text(encoding="utf-8")).items():
        for part in entry["parts"]:
            files = tuple(Photograph(name, **fields) for name, fields in part["pictures"].items())
            source = Source(repository, entry["commit"], "", part["licence"], part["licence_file"], "photographs")
            parts.append(Part(source, tuple(part["words"]), files))
    return parts


class PartCheckout(Checkout):
    """Checkout for one part; `photographs` is the folder that holds it as OWNER/NAME."""

    def __init__(self, part: Part, photographs: Path):
        self.part = part
        super().__init__("photographs", photographs / part.source.repository, source=part.source)

    def _check_licence(self) -> None:
        path = self.root / self.source.licence_file
        advice = f"check out {self.source.url} at commit {self.source.commit}"
        if not path.is_file():
            raise ValueError(f"{path} is missing, so nothing says the pictures are {self.source.licence}; {advice}")
        text = _one_line(path.read_text(encoding="utf-8", errors="replace"))
        for words in self.part.words:
            if _one_line(words) not in text:
                raise ValueError(f"{path} does not say {words!r}, on which {self.source.licence} rests; {advice}")

    def picture(self, wanted: Photograph) -> bytes:
        """The result as JPEG."""
        path = self.root / wanted.path
        self.read(self.root / self.source.licence_file)  # into the manifest, beside the picture
        content = self.read(path)
        found = self.inputs[self.name(path)]
        if found != wanted.sha256:
            raise ValueError(
                f"{path} has sha256 {found}, not {wanted.sha256}; check out {self.source.url} at commit "
                f"{self.source.commit}"
            )
        with naming(path):
            return dim_panorama(content) if path.suffix == ".hdr" else photograph(content, wanted.crop)


def open_parts(folder: Path) -> list[PartCheckout]:
    """Every part, its licence checked.

    Raises:
        ValueError: checkouts are missing, all of which are named, or the words are.
    """
    parts = read_parts()
    wanted = {part.source.repository: part.source.commit for part in parts}
    missing = [f"{name} {commit}" for name, commit in wanted.items() if not (folder / name).is_dir()]
    if missing:
        lines = "\n  ".join(missing)
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(wanted)} checkouts; get them from https://github.com as "
            f"{folder}/OWNER/NAME at these commits (docs/synthetic.md has the commands):\n  {lines}"
        )
    return [PartCheckout(part, folder) for part in parts]


def _one_line(text: str) -> str:
    return " ".join(text.split())
