"""Downloads against a small hub on the loopback interface that can cut, alter and refuse."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import re
import shutil
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch

from dwpose_core.models import catalogue, create_model, download
from dwpose_core.models.catalogue import WeightEntry
from dwpose_core.models.download import WeightsCorrupted, WeightsUnavailable, fetch
from dwpose_core.models.weights import load_pose, save_safetensors

COMMIT = "a" * 40


class Hub:
    """Serves one file as the hub does. `cuts` are lengths after which the next transfers break off."""

    def __init__(self, content: bytes):
        self.content = content
        self.etag = hashlib.sha256(content).hexdigest()
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []  # Range header of every transfer
        self.accept_ranges = True
        self.status = 200
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                if hub.status != 200 or not self.path.endswith("/test/weights/resolve/main/debug.safetensors"):
                    self.send_response(404 if hub.status == 200 else hub.status)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                start = 0
                if body:
                    hub.ranges.append(self.headers.get("Range"))
                    if hub.accept_ranges:
                        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"]).group(1))
                data = hub.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("ETag", f'"{hub.etag}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data[: hub.cuts.pop(0)] if hub.cuts else data)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("source") / "debug.safetensors"
    save_safetensors(create_model("debug"), path)
    return path.read_bytes()


@pytest.fixture
def entry(content) -> WeightEntry:
    return WeightEntry(
        name="debug",
        kind="pose",
        network="debug",
        input_size=(64, 64),
        repo="test/weights",
        filename="debug.safetensors",
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        weights_licence="-",
        data_licence="-",
        note="",
    )


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty hub cache, nothing taken from the machine's own folders, no waiting between attempts."""
    for name in (
        "DWPOSE_MODELS",
        "HF_HUB_OFFLINE",
        "HF_ENDPOINT",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    return tmp_path / "cache"


@pytest.fixture
def hub(content, cache, monkeypatch):
    hub = Hub(content)
    threading.Thread(target=hub.server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def leftovers(cache: Path) -> list[str]:
    """Everything in the cache that holds data of the file."""
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and (p.suffix == ".part" or p.parent.name == "blobs"))


def test_download_then_cache(hub, entry, cache, content):
    path = fetch(entry, cache)
    assert path.read_bytes() == content
    assert leftovers(cache) == [hub.etag]
    assert catalogue.cached_path(entry, cache) == path
    hub.status = 500  # not asked again
    assert fetch(entry, cache) == path
    assert fetch(entry, cache, local_files_only=True) == path
    assert len(hub.ranges) == 1


def test_lost_connection_is_resumed_within_one_call(hub, entry, cache, content):
    hub.cuts = [1000, 5000]
    assert fetch(entry, cache).read_bytes() == content
    assert hub.ranges == ["bytes=0-", "bytes=1000-", "bytes=6000-"]


def test_interrupted_download_is_resumed_by_the_next_call(hub, entry, cache, content, monkeypatch):
    hub.cuts = [4000]

    def control_c(seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download.time, "sleep", control_c)
        fetch(entry, cache)
    assert leftovers(cache) == [f"{hub.etag}.part"]
    assert catalogue.cached_path(entry, cache) is None  # what is there so far is not taken for the file
    assert fetch(entry, cache).read_bytes() == content
    assert hub.ranges == ["bytes=0-", "bytes=4000-"]


def test_server_without_ranges_starts_over(hub, entry, cache, content):
    hub.accept_ranges = False
    hub.cuts = [3000]
    assert fetch(entry, cache).read_bytes() == content


def test_connection_that_never_gets_on_gives_up(hub, entry, cache):
    hub.cuts = [10] + [0] * 20
    with pytest.raises(WeightsUnavailable, match="go on from 10 bytes"):
        fetch(entry, cache)
    assert len(hub.ranges) == 1 + download.ATTEMPTS


def test_altered_download_is_deleted(hub, entry, cache):
    hub.content = hub.content[:-1] + b"?"
    with pytest.raises(WeightsCorrupted, match=f"expected {entry.sha256}"):
        fetch(entry, cache)
    assert leftovers(cache) == []


def test_damaged_rest_of_an_earlier_download(hub, entry, cache, content):
    part = cache / "models--test--weights" / "blobs" / f"{hub.etag}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\0" * 500)
    with pytest.raises(WeightsCorrupted):
        fetch(entry, cache)
    assert fetch(entry, cache).read_bytes() == content


def test_damaged_cache_is_replaced_with_a_warning(hub, entry, cache, content):
    path = fetch(entry, cache)
    path.resolve().write_bytes(content[:-100])
    with pytest.warns(UserWarning, match="was damaged"):
        assert fetch(entry, cache).read_bytes() == content


def test_damaged_copy_that_the_cache_does_not_list(hub, entry, cache, content):
    blob = fetch(entry, cache).resolve()
    blob.write_bytes(b"x" * len(content))
    for folder in ("refs", "snapshots"):
        shutil.rmtree(blob.parents[1] / folder)
    assert fetch(entry, cache).read_bytes() == content
    assert len(hub.ranges) == 2


def test_home_folder_as_cache(hub, entry, cache, content, monkeypatch):
    monkeypatch.setattr(Path, "expanduser", lambda path: Path(str(path).replace("~", str(cache.parent), 1)))
    path = fetch(entry, "~/cache")
    assert fetch(entry, "~/cache", local_files_only=True) == path
    assert path.is_relative_to(cache) and path.read_bytes() == content


def test_damaged_cache_offline(hub, entry, cache, content):
    path = fetch(entry, cache)
    path.resolve().write_bytes(b"x" + content[1:])
    with pytest.warns(UserWarning, match="was damaged"), pytest.raises(WeightsUnavailable, match=r"debug\.safetensors"):
        fetch(entry, cache, local_files_only=True)
    assert leftovers(cache) == []


@pytest.mark.parametrize(
    ("status", "reason"),
    [(200, "404|Not Found|not found"), (503, "503"), (401, "401|Unauthorized|not found|EntryNotFound")],
)
def test_hub_that_refuses(hub, entry, cache, status, reason):
    hub.status = status
    wanted = replace(entry, filename="other.safetensors") if status == 200 else entry
    with pytest.raises(WeightsUnavailable, match=reason) as error:
        fetch(wanted, cache)
    # which file, from where, to where
    assert f"{hub.url}/test/weights/resolve/main/{wanted.filename}" in str(error.value)
    assert str(cache) in str(error.value)


def test_web_page_instead_of_a_hub(entry, cache, monkeypatch):
    """What a hotel's log-in page does: every address answers 200 with HTML."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    try:
        with pytest.raises(WeightsUnavailable, match="does not answer like"):
            fetch(entry, cache)
    finally:
        server.shutdown()
        server.server_close()


def test_no_network_takes_seconds(entry, cache, monkeypatch):
    with socket.socket() as taken:  # a port where nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        started = time.perf_counter()
        with pytest.raises(WeightsUnavailable, match="cannot be reached"):
            fetch(entry, cache)
    assert time.perf_counter() - started < 30  # not minutes; generous for a busy machine


def test_dead_name_service_takes_seconds(entry, cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.3)

    def hang(*_, **__):
        threading.Event().wait(60)
        raise OSError("no answer")

    monkeypatch.setattr(download.socket, "create_connection", hang)
    started = time.perf_counter()
    with pytest.raises(WeightsUnavailable, match=r"http://hub\.invalid cannot be reached"):
        fetch(entry, cache)
    assert time.perf_counter() - started < 30


def test_offline_switch_asks_nobody(hub, entry, cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsUnavailable, match="switched off"):
        fetch(entry, cache)
    assert hub.ranges == []


def test_full_disk_before_the_transfer(hub, entry, cache, monkeypatch):
    usage = download.shutil.disk_usage(cache.parent)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(WeightsUnavailable, match="MB needed"):
        fetch(entry, cache)
    assert hub.ranges == []


def test_full_disk_during_the_transfer(hub, entry, cache, monkeypatch):
    real = open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def tell(self):
            return self.file.tell()

        def write(self, data):
            self.file.write(data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "open", lambda p, m: Full(real(p, m)) if m == "ab" else real(p, m), raising=False)
    with pytest.raises(WeightsUnavailable, match="No space left"):
        fetch(entry, cache)
    assert leftovers(cache) == []  # the space is given back


def test_cache_that_cannot_be_written(hub, entry, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(WeightsUnavailable, match="put it into"):
        fetch(entry, cache)


@pytest.mark.parametrize("where", ["DWPOSE_MODELS", "cache_dir", "HF_HOME"])
def test_file_put_there_by_hand(entry, cache, content, monkeypatch, where):
    folder = {"DWPOSE_MODELS": cache.parent / "mine", "cache_dir": cache, "HF_HOME": cache.parent / "home" / "dwpose"}[
        where
    ]
    folder.mkdir(parents=True)
    (folder / entry.filename).write_bytes(content)
    if where == "DWPOSE_MODELS":
        monkeypatch.setenv("DWPOSE_MODELS", f"/nowhere{download.os.pathsep}{folder}")
    path = fetch(entry, cache if where == "cache_dir" else None, local_files_only=True)
    assert path == folder / entry.filename


def test_wrong_file_put_there_by_hand_stays(entry, cache):
    cache.mkdir()
    (cache / entry.filename).write_bytes(b"something else")
    with pytest.raises(WeightsCorrupted, match="Delete it"):
        fetch(entry, cache)
    assert (cache / entry.filename).read_bytes() == b"something else"


def test_two_downloads_at_once(hub, entry, cache, content):
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(entry, cache).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [content] * 4
    assert len(hub.ranges) == 1


def test_load_by_name(hub, entry, cache, monkeypatch):
    monkeypatch.setattr(catalogue, "ENTRIES", (entry,))
    model = load_pose("debug", cache_dir=cache)
    assert model.name == "debug" and not model.training
    assert Path(model.source).name == entry.filename
    with torch.inference_mode():
        x, y = model(torch.zeros(1, 3, 64, 64))
    assert x.shape == (1, 133, 128) and y.shape == (1, 133, 128)


def test_name_that_holds_another_network(hub, entry, cache, monkeypatch):
    monkeypatch.setattr(catalogue, "ENTRIES", (replace(entry, network="dwpose-t"),))
    with pytest.raises(ValueError, match="should hold dwpose-t but has the shapes of debug"):
        load_pose("debug", cache_dir=cache)


def test_token_goes_to_the_hub_only(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret")
    own = download._request("https://hub.example/a", "https://hub.example/a")
    other = download._request("https://files.example/a", "https://hub.example/a")
    assert own.unredirected_hdrs == {"Authorization": "Bearer secret"}
    assert other.unredirected_hdrs == {} and "Authorization" not in other.headers


def test_bundled_weights_need_no_network(cache):
    entry = catalogue.find(catalogue.BUNDLED["pose"])
    with contextlib.ExitStack() as stack:
        if catalogue.cached_path(entry) is None:
            stack.enter_context(pytest.raises(WeightsUnavailable, match="install dwpose-torch again"))
        assert fetch(entry, local_files_only=True).name == f"{entry.name}.safetensors"
