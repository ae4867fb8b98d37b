"""Checkouts of the public sources: where they come from, what their licence says, and files kept in git-LFS.

A checkout is refused unless its own licence file is the CC0 text, and so is a single file whose header says otherwise.
Pictures of makehuman-assets are git-LFS files; a checkout without LFS has a pointer (three lines with the sha256) in
their place. Any file with exactly that sha256 is the CC0 picture, wherever it lies.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CC0 = "CC0-1.0"
CMU_TERMS = (
    "CMU terms: free to use, also in commercial products; the motion data itself may not be resold. Credit: The data "
    "used in this project was obtained from mocap.cs.cmu.edu. The database was created with funding from NSF "
    "EIA-0196217."
)
LFS_HEADER = b"version https://git-lfs.github.com/spec/v1\n"
HEADER_LENGTH = 2000  # characters; licence statements of the text formats stand in the first twenty lines
# A statement of its own in a file's header: "# license AGPL3", "license": "CC-BY", ...
OTHER_LICENCE = re.compile(r"^\W*licen[sc]e\b|\b[AL]?GPL|\bCC[- ]?BY|non-?commercial|all rights reserved", re.I | re.M)


@dataclass(frozen=True)
class Source:
    """One public repository. `commit` is the one the reference pack was built from."""

    repository: str
    commit: str
    folder: str  # what is read lies here
    licence: str
    licence_file: str | None
    gives: str

    @property
    def url(self) -> str:
        return f"https://github.com/{self.repository}"


SOURCES = {
    "makehuman": Source(
        "makehumancommunity/makehuman",
        "a8bc2d54ff0ac92e78ff71431b1023eda42bf482",
        "makehuman/data",
        CC0,
        "LICENSE.ASSETS.md",  # of the data; the program's own code is AGPL and not touched
        "base mesh, skeleton, skinning weights, morph targets, eyes",
    ),
    "makehuman-assets": Source(
        "makehumancommunity/makehuman-assets",
        "8cf9645b975a98eea056b140df11a1d278da0d10",
        "base",
        CC0,
        "LICENSE.txt",
        "clothes, shoes, hair, brows, lashes, teeth, skins, poses",
    ),
    "hdri": Source(
        "pmndrs/assets",
        "d8709a9b11247dc51b72bb32fade56048807d868",
        "src/hdri",
        CC0,
        "LICENSE",
        "light and panoramas (originals: Poly Haven)",
    ),
    "backgrounds": Source(
        "BuddiesOfBudgie/budgie-backgrounds",
        "82067426f1dde366e9c9038fdbe457c2527525dd",
        "backgrounds",
        CC0,
        "LICENSE",
        "photographs",
    ),
    "cmu": Source(
        "DragonForgedTheArtist/IClone-CMU-Mocap",
        "79529f962ade3274163af53cd92179cee2ed9407",
        "All_BVH",
        CMU_TERMS,
        None,
        "joint positions of motion capture (subjects 1 to 7)",
    ),
}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors in a file's content say which file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def lfs_pointer(data: bytes) -> tuple[str, int] | None:
    """(sha256, size in bytes) if `data` is a git-LFS pointer file."""
    if not data.startswith(LFS_HEADER):
        return None
    fields = dict(line.split(" ", 1) for line in data.decode("ascii").splitlines()[1:])
    return fields["oid"].removeprefix("sha256:"), int(fields["size"])


class PictureStore:
    """Finds files by content in any folders: first by size, then by sha256."""

    def __init__(self, folders: list[Path]):
        self.by_size: dict[int, list[Path]] = {}
        for folder in folders:
            if not folder.is_dir():
                raise ValueError(f"--pictures {folder} is not a folder")
            for parent, _, names in sorted(os.walk(folder)):
                for path in (Path(parent, name) for name in sorted(names)):
                    if path.is_file():
                        self.by_size.setdefault(path.stat().st_size, []).append(path)

    def find(self, sha256: str, size: int) -> bytes | None:
        for path in self.by_size.get(size, ()):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
        return None


class Checkout:
    """A source folder whose licence was checked. Remembers what was read, for the manifest."""

    def __init__(self, key: str, root: Path, pictures: PictureStore | None = None, source: Source | None = None):
        self.key, self.source, self.root = key, source or SOURCES[key], root
        self.pictures = pictures or PictureStore([])
        self.inputs: dict[str, str] = {}  # path in the checkout -> sha256, since the last take_inputs()
        self._check_licence()
        self.folder = root / self.source.folder
        if not self.folder.is_dir():
            raise ValueError(f"{root} has no {self.source.folder}; --{key} must name a checkout of {self.source.url}")
        self.commit = self._commit()

    def _check_licence(self) -> None:
        if self.source.licence_file is None:
            return
        path = self.root / self.source.licence_file
        advice = f"--{self.key} must name a checkout of {self.source.url} (commit {self.source.commit[:7]})"
        if not path.is_file():
            raise ValueError(f"{self.root} has no {self.source.licence_file}, so nothing says it is CC0; {advice}")
        title = path.read_text(encoding="utf-8", errors="replace")[:400]
        if "CC0 1.0 Universal" not in title:
            first = next((line.strip() for line in title.splitlines() if line.strip()), "nothing")
            raise ValueError(f"{path} is not the CC0 1.0 text (it begins with {first!r}); {advice}")

    def _commit(self) -> str | None:
        """Of the checkout; None where the folder is no git work tree (an unpacked archive)."""
        if not (self.root / ".git").exists():
            return None
        if shutil.which("git") is None:
            raise ValueError(f"git is needed to read the commit of {self.root}")
        command = ["git", "-C", str(self.root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"git cannot read the commit of {self.root}: {done.stderr.strip()}")
        return done.stdout.strip()

    def find(self, pattern: str) -> list[Path]:
        """Files below the source's folder, in the order of their whole paths as text."""
        paths = sorted((p for p in self.folder.glob(pattern) if p.is_file()), key=lambda p: p.as_posix())
        if not paths:
            raise ValueError(f"{self.folder} has no {pattern}; check out {self.source.url} completely")
        return paths

    def name(self, path: Path) -> str:
        return Path(os.path.normpath(path)).relative_to(os.path.normpath(self.root)).as_posix()

    def _content(self, path: Path) -> bytes | None:
        """The file, or what its LFS pointer stands for; None if that is not at hand."""
        if not path.is_file():
            raise ValueError(f"{path} is missing; check out {self.source.url} (commit {self.source.commit[:7]})")
        data = path.read_bytes()
        pointer = lfs_pointer(data)
        return self.pictures.find(*pointer) if pointer else data

    def require(self, paths: list[Path]) -> None:
        """Raise ValueError naming every file of which there is only an LFS pointer."""
        paths = list(dict.fromkeys(paths))
        missing = [path for path in paths if self._content(path) is None]
        if missing:
            names = "\n  ".join(self.name(path) for path in missing)
            raise ValueError(
                f"{len(missing)} of {len(paths)} files of {self.source.repository} are git-LFS pointers without their "
                f"content:\n  {names}\nRun `git lfs install && git -C {self.root} lfs pull`, or name a folder that "
                "holds the same files with --pictures (they are recognised by the sha256 in the pointer)."
            )

    def read(self, path: Path) -> bytes:
        data = self._content(path)
        if data is None:
            self.require([path])
        self.inputs[self.name(path)] = hashlib.sha256(data).hexdigest()
        return data

    def text(self, path: Path) -> str:
        """A text file, refused if its header names another licence than CC0."""
        text = self.read(path).decode("utf-8", errors="replace")
        head = text[:HEADER_LENGTH]
        if self.source.licence == CC0 and "CC0" not in head and (found := OTHER_LICENCE.search(head)):
            line = head[head.rfind("\n", 0, found.start()) + 1 :].split("\n", 1)[0].strip()
            raise ValueError(f"{path} is not CC0: its header says {line!r}; check out {self.source.url} as it is now")
        return text

    def take_inputs(self) -> dict[str, str]:
        """What was read since the last call."""
        inputs, self.inputs = self.inputs, {}
        return dict(sorted(inputs.items()))
