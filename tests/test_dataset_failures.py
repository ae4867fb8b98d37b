"""`dwpose extract`: whatever goes wrong with one item is its row, and options without effect are refused."""

from __future__ import annotations

import os

import pytest
from PIL import Image

from dwpose_core.dataset.shard import ShardWriter

from .dataset_tools import extractor, failed, make_photos, picture, reports, tree

extract = pytest.fixture(extractor)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


def test_a_picture_the_networks_fail_on_costs_only_itself(extract, photos, monkeypatch):
    from dwpose_core.dataset import extract as module

    real = module.estimate_people

    def fails_on_one(images, *args, **kwargs):
        if any(image.shape[:2] == (66, 82) for image in images):  # picture 2
            raise RuntimeError("out of memory\nat some address")
        return real(images, *args, **kwargs)

    monkeypatch.setattr(module, "estimate_people", fails_on_one)
    code, out = extract(photos)
    assert code == 1
    failed = {row["key"]: row["message"] for row in reports(out) if row["status"] == "failed"}
    assert failed["a/002"] == "networks failed: out of memory"
    assert len(failed) == 3


@pytest.mark.parametrize("error", [ValueError("a strange shape"), MemoryError(), OverflowError("too large")])
def test_whatever_the_networks_raise_costs_only_its_picture(extract, photos, monkeypatch, error):
    from dwpose_core.dataset import extract as module

    real = module.estimate_people

    def fails_on_one(images, *args, **kwargs):
        if any(image.shape[:2] == (66, 82) for image in images):  # picture 2
            raise error
        return real(images, *args, **kwargs)

    monkeypatch.setattr(module, "estimate_people", fails_on_one)
    code, out = extract(photos)
    assert code == 1
    assert failed(out)["a/002"] == f"networks failed: {str(error) or 'MemoryError'}"
    assert len(failed(out)) == 3


@pytest.mark.parametrize("layout", ["files", "imagefolder", "webdataset", "parquet"])
@pytest.mark.parametrize("decoders", ["0", "1"])
def test_a_map_that_its_format_cannot_hold_is_a_failed_row(extract, tmp_path, layout, decoders):
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"{i}.jpg").write_bytes(picture(i))
    Image.new("RGB", (16500, 8)).save(tmp_path / "in" / "1.jpg")  # WebP ends at 16383 pixels
    options = ("--map-format", "webp", "--output-format", layout, "--keypoints", "jsonl", "npz")
    code, out = extract(tmp_path / "in", *options, decoders=decoders)
    assert code == 1
    assert list(failed(out)) == ["1"]
    assert "map cannot be stored as webp" in failed(out)["1"]
    assert [row["status"] for row in reports(out)] == ["ok", "failed", "ok"]


def test_keyboard_interrupts_still_end_the_run(extract, photos, monkeypatch):
    from dwpose_core.dataset import extract as module

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "estimate_people", interrupted)
    code, out = extract(photos)
    assert code == 130
    assert not (out / "_dwpose" / "shards").exists()


@pytest.mark.parametrize("devices", [(), pytest.param(("--devices", "cpu,cpu"), marks=pytest.mark.slow)])
def test_max_failures_says_what_failed_and_counts_it(extract, photos, capsys, devices):
    code, _ = extract(photos, "--max-failures", 1, "--samples-per-shard", 20, *devices)
    assert code == 1
    said = capsys.readouterr()
    assert "stopped after 2 failures (--max-failures 1)" in said.err
    assert "failed: a/004x: cannot be decoded" in said.err
    assert "failed: b/empty: cannot be decoded: empty file" in said.err
    if not devices:  # workers may be done before they are stopped
        assert "0 of 14 inputs ok, 2 failed, 0 people, 0 of 1 shards" in said.out


def test_failures_of_finished_and_of_given_up_shards_are_told_once(extract, photos, capsys):
    extract(photos, "--max-failures", 1, "--samples-per-shard", 5)
    said = capsys.readouterr()
    assert said.err.count("failed: a/004x") == said.err.count("failed: b/empty") == 1
    assert " of 14 inputs ok, 2 failed" in said.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--overlay",), "--overlay is for videos"),
        (("--raw",), "--raw is for videos"),
        (("--beta", 3), "--beta is for videos"),
        (("--no-smooth",), "--no-smooth is for videos"),
        (("--samples-per-shard", 0), "--samples-per-shard and --limit must be at least 1"),
        (("--detect-resolution", -5), "--detect-resolution must be at least 1 pixel, got -5"),
        (("--image-column", "photo"), "--image-column is for lists"),
        (("--text-column", "caption"), "--text-column is for lists"),
        (("--ray-address", "auto"), "--ray-address is for --engine ray"),
        (("--engine", "ray", "--devices", "0,1"), "--devices is for --engine native"),
        (("--decoders", -1), "--decoders must be at least 0"),
        (("--streams", 0), "--streams must be at least 1"),
        (("--max-failures", -1), "--max-failures must be at least 0"),
        (("--detector-size", 500), "detector_size must be a multiple of 32 pixels"),
    ],
)
def test_options_that_mean_nothing_are_refused(extract, photos, capsys, options, message):
    code, out = extract(photos, *options)
    assert code == 2 and not out.exists()
    assert message in capsys.readouterr().err


def test_a_list_of_paths_has_no_columns(extract, photos, capsys):
    (photos / "l.txt").write_text("a/000.jpg\n")
    assert extract(photos / "l.txt", "--text-column", "caption")[0] == 2
    assert "--text-column is for lists with columns" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["files", "imagefolder", "webdataset"])
def test_what_failed_can_be_tried_again_once_it_is_mended(extract, tmp_path, capsys, layout):
    photos = make_photos(tmp_path / "photos")
    options = ("--output-format", layout, "--samples-per-shard", 5)
    code, out = extract(photos, *options)
    assert code == 1 and len(failed(out)) == 2
    times = {path.name: path.stat().st_mtime_ns for path in (out / "_dwpose" / "shards").glob("*_stats.json")}
    for path, number in ((photos / "a" / "004x.jpg", 4), (photos / "b" / "empty.png", 5)):
        path.write_bytes(picture(number, "JPEG" if path.suffix == ".jpg" else "PNG"))
    assert extract(photos, *options)[0] == 1  # the same command does finished shards no second time
    for command, said in (((), "see --retry-failed"), (("--retry-failed",), "which would be done again")):
        capsys.readouterr()
        assert extract(photos, *options, "--dry-run", *command)[0] == 0
        assert f"something failed in 2 of these, {said}" in capsys.readouterr().out
    assert extract(photos, *options, "--retry-failed")[0] == 0
    assert not failed(out)
    again = {path.name for path in (out / "_dwpose" / "shards").glob("*_stats.json")
             if path.stat().st_mtime_ns != times[path.name]}  # fmt: skip
    assert 0 < len(again) < len(times)
    _, new = extract(photos, *options, out="new")
    assert tree(out, without=("config.json",)) == tree(new, without=("config.json",))


@pytest.mark.parametrize(
    "options, message",
    [
        (("--output-format", "dummy", "--style", "xinsir"), "--style is for maps"),
        (("--output-format", "dummy", "--map-format", "webp"), "--map-format is for maps"),
        (("--devices", "cpu,"), "--devices has a comma too many"),
        (("--devices", "cpu", "--device", "cpu"), "leave one out"),
        (("--input-format", "folder", "--output-format", "dummy", "--no-hand"), "--no-hand is for maps"),
        (("--thickness", "nan"), "--thickness must be a positive factor"),
        (("--thickness", "0"), "--thickness must be a positive factor"),
    ],
)
def test_options_that_no_map_can_be_drawn_with_are_refused(extract, photos, capsys, options, message):
    code, out = extract(photos, *options)
    assert code == 2 and not out.exists()
    assert message in capsys.readouterr().err


def test_pipes_and_devices_are_failed_rows_and_not_waited_for(extract, photos):
    if not hasattr(os, "mkfifo"):
        pytest.skip("a system without named pipes")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "a" / "endless.jpg").symlink_to("/dev/zero")
    (photos / "l.txt").write_text("a/000.jpg\npipe.jpg\na/endless.jpg\n")
    code, out = extract(photos / "l.txt")
    assert code == 1
    assert set(failed(out)) == {"pipe", "a/endless"}
    assert all("is a pipe or a device" in message for message in failed(out).values())


def test_a_stopped_retry_keeps_what_was_finished(extract, tmp_path, capsys, monkeypatch):
    photos = make_photos(tmp_path / "photos")
    options = ("--samples-per-shard", 5)
    _, out = extract(photos, *options)
    before = tree(out)
    real = ShardWriter.add

    def stopped(self, row, extra):
        if row.key == "b/c/009":
            raise KeyboardInterrupt
        real(self, row, extra)

    monkeypatch.setattr(ShardWriter, "add", stopped)
    (photos / "a" / "004x.jpg").write_bytes(picture(4))
    assert extract(photos, *options, "--retry-failed")[0] == 130
    monkeypatch.undo()
    assert len(reports(out)) == 14 and set(failed(out)) == {"b/empty"}  # the first of two was done
    assert before.keys() - tree(out).keys() == set()
    capsys.readouterr()
    assert extract(photos, *options)[0] == 1
    assert "13 of 14 inputs ok, 1 failed" in capsys.readouterr().out
    assert extract(photos, *options, "--overwrite", "--threshold", 0.4)[0] == 1  # and knows what it wrote
