"""Gets a catalogue file onto this machine: from a folder, from the Hugging Face cache, or from the hub.

* Files end up in the ordinary Hugging Face cache, shared with every other tool. `cache_dir`, HF_HOME, HF_ENDPOINT,
  HF_HUB_OFFLINE and HF_TOKEN mean what they mean there.
* A file put by hand into a folder named in DWPOSE_MODELS, into `cache_dir` or into HF_HOME/dwpose is used as it is.
* Every file is checked against the digest in the catalogue each time it is used (0.1 s per 134 MB). A broken one in
  the hub cache is deleted; a broken one that somebody put there by hand is reported.
* huggingface_hub 2 throws away what an interrupted download had got. The transfer here keeps it in a `.part` file
  that nothing reads as weights, goes on from there, and moves it into place once size and digest are right.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from urllib.parse import urlsplit

from . import catalogue
from .catalogue import WeightEntry

CONNECT_SECONDS = 4.0  # for the first sign of the hub; name look-up included
READ_SECONDS = 20.0  # without a byte before the connection counts as lost
ATTEMPTS = 5  # in a row without any progress
CHUNK = 1 << 20


class WeightsUnavailable(RuntimeError):
    """A file that is not here and could not be fetched. The message says which file to put where."""


class WeightsCorrupted(ValueError):
    """A file whose content is not what the catalogue says. It is never used."""


def cache_folder(cache_dir: str | os.PathLike | None = None) -> Path:
    """The hub cache downloads go to."""
    from huggingface_hub import constants

    return Path(cache_dir).expanduser() if cache_dir is not None else Path(constants.HF_HUB_CACHE)


def fetch(entry: WeightEntry, cache_dir: str | os.PathLike | None = None, local_files_only: bool = False) -> Path:
    """The checked file of a catalogue entry, downloaded where it is not here yet.

    Args:
        cache_dir: hub cache to use; by default the one of huggingface_hub.
        local_files_only: do not ask the network.

    Raises:
        WeightsUnavailable: not here, and offline, not found, no space, or no permission to write.
        WeightsCorrupted: here or downloaded, but with another content than the catalogue says.
    """
    path = catalogue.cached_path(entry, cache_dir)
    if entry.repo is None:
        if path is None:
            raise WeightsUnavailable(f"{entry.filename} is missing from the package; install dwpose-torch again")
        return path
    if path is not None:
        found = digest(path)
        if found == entry.sha256:
            return path
        if path.parent in catalogue.manual_folders(cache_dir):
            raise WeightsCorrupted(
                f"{path} is not {entry.name} or is damaged: sha256 {found}, expected {entry.sha256}. Delete it, "
                f"or load it by its path if it is another model on purpose"
            )
        try:
            blob = path.resolve()
            path.unlink()
            blob.unlink(missing_ok=True)  # in the hub cache `path` is a link where the system has links
        except OSError as error:
            raise WeightsCorrupted(f"{path} is damaged and cannot be deleted ({error}); delete it by hand") from error
        warnings.warn(f"{path} was damaged (sha256 {found}) and has been deleted", stacklevel=2)
    if local_files_only or _offline():
        raise _unavailable(entry, cache_dir, "it is not in the cache and downloads are switched off")
    return _download(entry, cache_dir)


def digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _endpoint() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def _unavailable(entry: WeightEntry, cache_dir: str | os.PathLike | None, reason: str) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"{entry.name} needs {entry.filename}, but {reason}. To install it by hand: download "
        f"{_endpoint()}/{entry.repo}/resolve/main/{entry.filename} and put it into "
        f"{catalogue.manual_folders(cache_dir)[0]}"
    )


def _reachable(url: str) -> bool:
    """Whether the host of `url`, or the proxy on the way to it, accepts a connection within CONNECT_SECONDS.

    A dead network shows itself in very different ways (refused, dropped, no name service), some of which take minutes;
    the attempt runs in a thread so that none can take longer than it may.
    """
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    answers = []

    def knock() -> None:
        try:
            socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
            answers.append(True)
        except OSError:
            answers.append(False)

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return answers == [True]


def _download(entry: WeightEntry, cache_dir: str | os.PathLike | None) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import WeakFileLock

    endpoint = _endpoint()
    if not _reachable(endpoint):
        raise _unavailable(entry, cache_dir, f"{endpoint} cannot be reached")
    url = hf_hub_url(entry.repo, entry.filename, endpoint=endpoint)
    try:
        metadata = get_hf_file_metadata(url, timeout=CONNECT_SECONDS)
    except Exception as error:
        # requests in huggingface_hub 0, httpx in 1, httpx2 in 2: there is no common class for "the hub said no".
        raise _unavailable(entry, cache_dir, f"{endpoint} said: {_first_line(error)}") from error
    if not metadata.etag or not metadata.commit_hash:
        raise _unavailable(entry, cache_dir, f"{endpoint} does not answer like a Hugging Face hub")

    # Laid out as huggingface_hub does: blobs are named by their etag, and it adds the links itself.
    folder = f"models--{entry.repo.replace('/', '--')}"
    blob = cache_folder(cache_dir) / folder / "blobs" / metadata.etag
    part = blob.with_name(f"{blob.name}.part")
    lock = cache_folder(cache_dir) / ".locks" / folder / f"{part.name}.lock"
    try:
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if blob.exists() and digest(blob) != entry.sha256:
                blob.unlink()  # what another tool left, or a copy whose link is gone: nobody has looked into it yet
            if not blob.exists():
                size = metadata.size or entry.bytes
                free = shutil.disk_usage(blob.parent).free + (part.stat().st_size if part.exists() else 0)
                if size and free < size:
                    raise OSError(
                        errno.ENOSPC, f"{size / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free", str(blob.parent)
                    )
                _transfer(_request(metadata.location, url), part, size, entry.filename)
                found = digest(part)
                if found != entry.sha256:
                    part.unlink()
                    raise WeightsCorrupted(
                        f"{entry.filename} came from {endpoint} with sha256 {found}, expected {entry.sha256}; it was "
                        f"deleted. Run again; if it stays so, the connection or the mirror alters files"
                    )
                os.replace(part, blob)
        path = hf_hub_download(
            entry.repo,
            entry.filename,
            cache_dir=cache_folder(cache_dir),
            endpoint=endpoint,
            etag_timeout=CONNECT_SECONDS,
        )
    except (WeightsCorrupted, WeightsUnavailable):
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            part.unlink(missing_ok=True)  # gives the space back
        raise _unavailable(entry, cache_dir, f"the download failed ({_first_line(error)})") from error
    return Path(path)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def _request(location: str, url: str) -> urllib.request.Request:
    from huggingface_hub import get_token

    request = urllib.request.Request(location, headers={"User-Agent": "dwpose-torch", "Accept-Encoding": "identity"})
    # The token belongs to the hub alone, not to the file servers it redirects to.
    if urlsplit(location).netloc == urlsplit(url).netloc and (token := get_token()):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


def _transfer(request: urllib.request.Request, part: Path, size: int | None, title: str) -> None:
    """Appends to `part` until it has `size` bytes, through lost connections."""
    from tqdm import tqdm

    failures = 0
    with open(part, "ab") as file, tqdm(total=size, unit="B", unit_scale=True, desc=title) as bar:
        bar.update(file.tell())
        while size is None or file.tell() < size:
            start = file.tell()
            request.add_header("Range", f"bytes={start}-")
            try:
                with urllib.request.urlopen(request, timeout=READ_SECONDS) as response:
                    if start and response.status != http.HTTPStatus.PARTIAL_CONTENT:
                        file.seek(0)  # this server cannot go on in the middle
                        file.truncate()
                        bar.reset(size)
                    while chunk := response.read(CHUNK):
                        file.write(chunk)
                        bar.update(len(chunk))
                if size is None:
                    return
                lost: Exception = ConnectionError(f"the connection ended after {file.tell()} of {size} bytes")
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                    raise
                lost = error
            failures = 0 if file.tell() > start else failures + 1
            if failures == ATTEMPTS:
                raise ConnectionError(f"{_first_line(lost)}; run again to go on from {file.tell()} bytes") from lost
            time.sleep(min(failures, 3))  # none after progress
