"""The output folder, local or behind an fsspec URL (s3://, gs://, ...): files appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

# More files than this are flushed to the disk together: fsync per file would take longer than the networks.
_SYNC_ONE_BY_ONE = 64
# Processes of other hosts cannot be asked, nor those of Windows and Macs: what they have not touched for so many
# seconds is taken for left behind. Whoever works here touches its marker; the clocks of hosts may differ by minutes.
_BEAT = 30
_QUIET, _QUIET_HERE = 3600, 5 * _BEAT
_HOST = re.sub(r"[^A-Za-z0-9.]", "_", platform.node())


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


def open_input(path: str, ahead: bool = True) -> IO[bytes]:
    """A local file or a URL, for reading; `ahead` lets fsspec fetch 5 MB and more beyond what is asked for.

    Raises:
        ValueError: for a named pipe or a device, which would be waited for, or read, without end. OSError.
    """
    if not is_url(path):
        mode = os.stat(path).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            raise ValueError(f"{path} is a pipe or a device, not a file")
        return open(path, "rb")
    fs, inner = filesystem(path)
    return fs.open(inner, "rb", **({} if ahead else {"cache_type": "none"}))


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

    def json(self, name: str) -> Any:
        """What a JSON file holds. Raises ValueError that names it where it is damaged."""
        return self._parsed(name, self.read(name))

    def json_lines(self, name: str) -> list[Any]:
        """What the lines of a file hold; raises likewise."""
        return [self._parsed(name, line) for line in self.read(name).splitlines()]

    def _parsed(self, name: str, text: bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"{self.root}/{name} is damaged: {error}") from error

    def names(self, folder: str) -> list[str]:
        """Names of the files and folders right below a folder, sorted; none where there is no folder."""
        try:
            entries = os.listdir(self.path(folder)) if self.local else self._fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted(entry.rsplit("/", 1)[-1] for entry in entries)

    def scratch(self, name: str) -> Path:
        """A new local folder for unfinished files, on the disk of the output where that is local."""
        if self.local:
            owner = f"{os.getpid()}-{_started(os.getpid())}-{_HOST}"
            folder = Path(self.path(f"_dwpose/tmp/{name}-{uuid.uuid4().hex[:8]}-{owner}"))
            folder.mkdir(parents=True)
            return folder
        return Path(tempfile.mkdtemp(prefix=f"dwpose-{name}-"))

    def clear_scratch(self, names: set[str]) -> None:
        """Remove what killed runs left in the scratch folders of these names; those in use stay."""
        for entry in self.names("_dwpose/tmp") if self.local else []:
            if entry.split("-")[0] in names and not _in_use(self.path(f"_dwpose/tmp/{entry}")):
                shutil.rmtree(self.path(f"_dwpose/tmp/{entry}"), ignore_errors=True)

    def users(self) -> dict[str, str]:
        """Scratch folders that other processes work in, and who they are; unknown behind a URL."""
        entries = self.names("_dwpose/tmp") if self.local else []
        busy = [name for name in entries if _in_use(self.path(f"_dwpose/tmp/{name}"))]
        owners = {name: name.split("-", 4)[2:] for name in busy}
        return {
            name: f"process {pid} on {host}"
            for name, (pid, _, host) in owners.items()
            if (pid, host) != (str(os.getpid()), _HOST)
        }

    @contextlib.contextmanager
    def claim(self, name: str, alone: bool = False) -> Iterator[None]:
        """Marks this folder as worked on under `name` for the time of a `with` block.

        Raises:
            ValueError: when a process of this host does the same work, or with `alone` when anybody works here.
        """
        self.clear_scratch({name})
        marker, ended = self.scratch(name), threading.Event()
        beat = threading.Thread(target=_keep_fresh, args=(marker, ended), daemon=True)
        beat.start()
        try:
            # With the marker in place: of two that begin at the same time each sees the other.
            for entry, user in self.users().items():
                if alone or (entry.split("-")[0] == name and user.endswith(f" on {_HOST}")):
                    raise ValueError(
                        f"{user} is at work in {self.root}: wait for it, or stop it; "
                        f"if there is no such process any more, delete {self.root}/_dwpose/tmp/{entry}"
                    )
            yield
        finally:
            ended.set()
            beat.join()
            shutil.rmtree(marker, ignore_errors=True)
            if self.local and self.size("_dwpose/plan.json") is None:  # nothing came of it: leave no trace
                with contextlib.suppress(OSError):
                    os.rmdir(self.path("_dwpose/tmp"))
                    os.rmdir(self.path("_dwpose"))

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

    def finder(self) -> Callable[[str], bool]:
        """Whether there is something of that name, for very many names."""
        if self.local:
            return lambda name: os.path.lexists(self.path(name))
        base = f"{self._base}/"
        there = {path.removeprefix(base) for path in self._fs.find(self._base)}
        return there.__contains__

    def name_of(self, path: str) -> str | None:
        """Name below this folder of a file or URL, None where it lies elsewhere."""
        if self.local != (not is_url(path)):
            return None
        root = f"{_real_folder(self.root)}{os.sep}" if self.local else f"{self.root}/"
        if self.local:  # the folder may be reached through a link; the file itself is what would be replaced
            path = os.path.join(_real_folder(os.path.dirname(path)), os.path.basename(path))
        return path.removeprefix(root).replace(os.sep, "/") if path.startswith(root) else None

    def delete(self, name: str) -> None:
        """Remove a file or a folder; nothing happens where there is none."""
        if not self.local:
            if self._fs.exists(self.path(name)):
                self._fs.rm(self.path(name), recursive=True)
        elif os.path.isdir(self.path(name)):
            shutil.rmtree(self.path(name))
        else:
            Path(self.path(name)).unlink(missing_ok=True)


@lru_cache(maxsize=10_000)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _keep_fresh(marker: Path, ended: threading.Event) -> None:
    while not ended.wait(_BEAT):
        with contextlib.suppress(OSError):
            os.utime(marker)


def _started(pid: int) -> str:
    """When a process began, in a form of its own; "" where it is gone, or where the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # dead, but not buried


def _in_use(folder: str) -> bool:
    """Whether the owner of a scratch folder lives, as far as can be known."""
    parts = os.path.basename(folder).split("-", 4)
    if len(parts) < 5:  # of an earlier version, which did not say whose it is
        return False
    _, _, pid, started, host = parts
    if host == _HOST and started:  # process ids are used again: the time tells them apart
        return _started(int(pid)) == started
    try:
        with os.scandir(folder) as scan:
            times = [os.stat(folder).st_mtime, *(entry.stat().st_mtime for entry in scan)]
    except FileNotFoundError:
        return False
    return time.time() - max(times) < (_QUIET_HERE if host == _HOST else _QUIET)
