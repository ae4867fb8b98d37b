"""The output folder, local or behind an fsspec URL (s3://, gs://, ...): files appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import IO, Any

# More files than this are flushed to the disk together: fsync per file would take longer than the networks.
_SYNC_ONE_BY_ONE = 64


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec file system and path of a URL.

    Raises:
        ImportError: when fsspec or the package behind the protocol is missing.
    """
    try:
        import fsspec
    except ImportError as error:
        raise ImportError(f"{url} needs fsspec: pip install fsspec") from error
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ImportError(f"{url} cannot be opened: {error} (s3:// needs s3fs, gs:// needs gcsfs)") from error


def is_url(name: str) -> bool:
    return "://" in str(name)


def open_input(path: str) -> IO[bytes]:
    """A local file or a URL, for reading."""
    if not is_url(path):
        return open(path, "rb")
    fs, inner = filesystem(path)
    return fs.open(inner, "rb")


class Storage:
    """Files below one folder, by relative names with forward slashes."""

    def __init__(self, root: str | os.PathLike):
        self.root = str(root).rstrip("/")
        self.local = not is_url(self.root)
        if not self.local:
            self._fs, self._base = filesystem(self.root)

    def path(self, name: str) -> str:
        return f"{self.root if self.local else self._base}/{name}"

    def size(self, name: str) -> int | None:
        """Bytes, or None where there is no such file."""
        try:
            return os.stat(self.path(name)).st_size if self.local else self._fs.info(self.path(name))["size"]
        except FileNotFoundError:
            return None

    def open(self, name: str) -> IO[bytes]:
        return open(self.path(name), "rb") if self.local else self._fs.open(self.path(name), "rb")

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def names(self, folder: str) -> list[str]:
        """Names of the files right below a folder, sorted; none where there is no folder."""
        try:
            entries = os.listdir(self.path(folder)) if self.local else self._fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted(entry.rsplit("/", 1)[-1] for entry in entries)

    def scratch(self, name: str) -> Path:
        """A new local folder for unfinished files, on the disk of the output where that is local."""
        if self.local:
            folder = Path(self.path(f"_dwpose/tmp/{name}-{uuid.uuid4().hex[:8]}"))
            folder.mkdir(parents=True)
            return folder
        return Path(tempfile.mkdtemp(prefix=f"dwpose-{name}-"))

    def clear_scratch(self, names: set[str]) -> None:
        """Remove what killed runs left in the scratch folders of these names."""
        if self.local:
            for entry in self.names("_dwpose/tmp"):
                if entry.rsplit("-", 1)[0] in names:
                    shutil.rmtree(self.path(f"_dwpose/tmp/{entry}"), ignore_errors=True)

    def put(self, files: dict[str, Path]) -> None:
        """Move finished local files to their names; when this returns they survive a power cut."""
        if not self.local:
            for name, file in files.items():
                self._fs.makedirs(self.path(name).rsplit("/", 1)[0], exist_ok=True)
                self._fs.put_file(str(file), self.path(name))
            return
        if len(files) > _SYNC_ONE_BY_ONE and hasattr(os, "sync"):
            os.sync()
        else:
            for file in files.values():
                with open(file, "rb+") as handle:
                    os.fsync(handle.fileno())
        for folder in {os.path.dirname(self.path(name)) for name in files}:
            os.makedirs(folder, exist_ok=True)
        for name, file in files.items():
            os.replace(file, self.path(name))

    def write(self, name: str, data: bytes, owner: str) -> None:
        """A small file, whole or not at all; `owner` is the name of its scratch folder."""
        folder = self.scratch(owner)
        try:
            (folder / "data").write_bytes(data)
            self.put({name: folder / "data"})
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def delete(self, name: str) -> None:
        """Remove a file or a folder; nothing happens where there is none."""
        if not self.local:
            if self._fs.exists(self.path(name)):
                self._fs.rm(self.path(name), recursive=True)
        elif os.path.isdir(self.path(name)):
            shutil.rmtree(self.path(name))
        else:
            Path(self.path(name)).unlink(missing_ok=True)
