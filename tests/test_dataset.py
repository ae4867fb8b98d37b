"""`dwpose extract`: layouts, ranks, statistics. Every layout is read back by its consumer's own loader."""

from __future__ import annotations

import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from dwpose_core.cli import main
from dwpose_core.dataset.sinks import read_keypoint_rows
from dwpose_core.formats import load_npz
from dwpose_core.render import render

from .dataset_tools import extractor, make_photos, picture, reports, stored, tree

extract = pytest.fixture(extractor)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


def test_a_folder_becomes_a_mirrored_tree_and_broken_files_become_rows(extract, photos, capsys):
    code, out = extract(photos, "--samples-per-shard", 5, "--keypoints", "jsonl", "npz", "coco")
    assert code == 1  # two are broken
    maps = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    assert maps == {f"a/{i:03d}.png" if i % 2 == 0 else f"b/c/{i:03d}.png" for i in range(12)}
    rows = reports(out)
    assert len(rows) == 14
    failed = {row["key"]: row["message"] for row in rows if row["status"] == "failed"}
    assert set(failed) == {"a/004x", "b/empty"}
    assert "decoded" in failed["a/004x"] and "empty" in failed["b/empty"]
    error = capsys.readouterr().err
    assert "failed: a/004x" in error
    # all three keypoint files agree, and drawing them again gives the very maps
    people = stored(out)
    exact = [people for file in sorted((out / "keypoints").glob("*.npz")) for people in load_npz(file)]
    results = [row for file in sorted((out / "keypoints").glob("*.coco.json")) for row in json.loads(file.read_text())]
    assert len(people) == len(exact) == len(results) == 12
    for (key, a), b in zip(people.items(), exact, strict=True):
        np.testing.assert_array_equal(a.xy, b.xy)
        np.testing.assert_array_equal(a.score, b.score)
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"{key}.png")), render(a))
    assert {row["image_id"] for row in results} == {row["image_id"] for row in rows if row["status"] == "ok"}
    assert [row["image_id"] for row in rows] == list(range(14))  # 004x is no number: places, not names


def test_captions_and_images_in_imagefolder_are_what_datasets_reads(extract, photos):
    """The layout of diffusers' train_controlnet.py: image, conditioning_image, text."""
    datasets = pytest.importorskip("datasets")
    code, out = extract(photos, "--output-format", "imagefolder", "--samples-per-shard", 5)
    assert code == 1
    # as the trainer calls it with --train_data_dir: the loader is found by what lies in the folder
    table = datasets.load_dataset(str(out), split="train", cache_dir=str(out.parent / "cache"))
    assert len(table) == 12
    assert {"image", "conditioning_image", "text"} <= set(table.column_names)
    captions = sorted(text for text in table["text"] if text)
    assert captions == sorted(f"picture {i}" for i in range(0, 12, 3))
    for row in table:
        assert row["image"].size == row["conditioning_image"].size
        assert np.asarray(row["conditioning_image"]).any()


@pytest.mark.parametrize("layout", ["files", "imagefolder", "webdataset", "parquet"])
def test_images_of_too_few_people_or_too_little_of_them_are_left_out(extract, photos, capsys, layout):
    if layout == "parquet":
        pytest.importorskip("pyarrow")
    options = ("--output-format", layout, "--samples-per-shard", 5)
    code, whole = extract(photos, *options, out="whole")
    shown = {key: (people.part("body")[1] >= 0.3).mean(1).max(initial=0) for key, people in stored(whole).items()}
    share = sorted(shown.values())[len(shown) // 2]
    few = {key for key, value in shown.items() if value < share}
    assert 0 < len(few) < len(shown)
    capsys.readouterr()
    code, out = extract(photos, *options, "--min-body", share, "--min-people", 1)
    assert code == 1  # two are broken, as before
    assert f"12 of 14 inputs ok ({len(few)} left out), 2 failed" in capsys.readouterr().out
    assert {row["key"] for row in reports(out) if "left_out" in row} == few
    assert stored(out).keys() == shown.keys()  # keypoints of all
    assert len(written(whole)) == 12 and len(written(out)) == 12 - len(few)
    if layout in ("files", "imagefolder"):
        assert written(whole) - written(out) == few
    code, out = extract(photos, *options, "--min-people", 2, out="none")
    assert not written(out)
    assert {row.get("left_out") for row in reports(out) if row["status"] == "ok"} == {"people: 1, fewer than 2"}
    assert main(["stats", str(out)]) == 0
    assert "left out  12, which are ok but lack people" in capsys.readouterr().out


def written(out) -> set:
    """The images that an extraction has maps of: their keys where the layout has such, else a thing for each."""
    maps = {str(path.relative_to(out).with_suffix("")) for path in out.rglob("*.png")}
    found = {name.removeprefix("conditioning_images/") for name in maps if not name.startswith("images/")}
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            found |= {(path.name, name) for name in tar.getnames() if name.endswith(".pose.png")}
    for path in out.glob("data/*.parquet"):
        import pyarrow.parquet as pq

        found |= {(path.name, row) for row in range(pq.read_table(path).num_rows)}
    return found


@pytest.mark.parametrize("options", [("--min-people", -1), ("--min-body", 1.5), ("--min-body", "nan")])
def test_shares_and_numbers_that_make_no_sense_are_refused(extract, photos, capsys, options):
    code, out = extract(photos, *options)
    assert code == 2 and not out.exists()
    assert "--min-body a share of 0 to 1" in capsys.readouterr().err


def test_nothing_can_be_left_out_of_what_is_not_drawn(extract, photos, capsys):
    assert extract(photos, "--output-format", "dummy", "--min-people", 1)[0] == 2
    assert "of videos and of dummy none" in capsys.readouterr().err


def test_names_like_those_of_splits_do_not_split_an_imagefolder(extract, tmp_path):
    """`datasets` takes val2017/, test/ and "my test.jpg" for splits, and leaves out everything else."""
    datasets = pytest.importorskip("datasets")
    names = ["plain", "val2017/a", "x/test/a", "my eval", "train", "train~", "contest", "eval.3.test"]
    for i, name in enumerate(names):
        file = tmp_path / "photos" / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(i))
        (file.parent / f"{file.stem}.txt").write_text(name)
    code, out = extract(tmp_path / "photos", "--output-format", "imagefolder")
    assert code == 0 and set(stored(out)) == set(names)
    table = datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "cache"))
    assert list(table) == ["train"]
    assert sorted(table["train"]["text"]) == sorted(names)
    assert {"image", "conditioning_image", "text"} <= set(table["train"].column_names)
    assert sorted(path.name for path in (out / "images").glob("train*")) == ["train~.jpg", "train~~.jpg"]


def test_parquet_is_what_datasets_reads_with_images(extract, photos):
    datasets = pytest.importorskip("datasets")
    _, out = extract(photos, "--output-format", "parquet", "--samples-per-shard", 5)
    assert [path.name for path in sorted((out / "data").iterdir())] == [
        f"train-0000{i}-of-00003.parquet" for i in range(3)
    ]
    table = datasets.load_dataset(str(out), split="train", cache_dir=str(out.parent / "cache"))
    assert isinstance(table.features["conditioning_image"], datasets.Image)
    assert len(table) == 12
    people = stored(out)
    for row in table:
        assert row["image"].size == row["conditioning_image"].size == (row["width"], row["height"])
        np.testing.assert_allclose(np.array(row["keypoints"]).reshape(-1, 133, 3)[..., :2], people[row["key"]].xy)


def test_tars_are_what_webdataset_reads(extract, photos):
    wds = pytest.importorskip("webdataset")
    _, out = extract(photos, "--output-format", "webdataset", "--samples-per-shard", 5)
    urls = [str(path) for path in sorted(out.glob("*.tar"))]
    assert len(urls) == 3
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert len(samples) == 12
    for sample in samples:
        photo = sample.get("jpg") or sample.get("png")
        assert photo.size == sample["pose.png"].size == (sample["json"]["width"], sample["json"]["height"])
    assert sum("txt" in sample for sample in samples) == 4


def test_a_mirrored_tree_pairs_by_stem_as_kohya_trainers_do(extract, photos):
    """sd-scripts' ControlNet data set: conditioning_data_dir holds a file of the same relative stem for every image."""
    _, out = extract(photos, "--map-format", "webp")
    for image in [path for path in photos.rglob("*") if path.suffix in (".jpg", ".png")]:
        conditioning = (out / image.relative_to(photos)).with_suffix(".webp")
        if image.stem in ("004x", "empty"):
            assert not conditioning.exists()
        else:
            with Image.open(image) as a, Image.open(conditioning) as b:
                assert a.size == b.size


def test_ranks_and_processes_and_one_run_write_the_same_bytes(extract, photos):
    options = ("--samples-per-shard", 3, "--keypoints", "jsonl", "npz", "--output-format", "webdataset")
    _, whole = extract(photos, *options, out="whole")
    for rank in (2, 0, 1):
        extract(photos, *options, "--rank", rank, "--world-size", 3, out="ranks")
    _, pooled = extract(photos, *options, out="pooled", decoders="2")
    expected = tree(whole, without=("config.json",))
    assert len(expected) > 20
    assert tree(whole.parent / "ranks", without=("config.json",)) == expected
    assert tree(pooled, without=("config.json",)) == expected


@pytest.mark.slow
def test_two_devices_write_the_same_bytes(extract, photos):
    options = ("--samples-per-shard", 3)
    _, whole = extract(photos, *options, out="whole")
    code, both = extract(photos, *options, "--devices", "cpu,cpu", out="both")
    assert code == 1
    assert tree(both, without=("config.json",)) == tree(whole, without=("config.json",))


@pytest.mark.parametrize(
    "harm",
    [
        lambda out: (out / "_dwpose" / "shards" / "00001_stats.json").unlink(),
        lambda out: (out / "_dwpose" / "shards" / "00001_stats.json").write_text('{"shard": 1, "o'),
        lambda out: (out / "a" / "006.png").unlink(),
        lambda out: (out / "keypoints" / "00001.jsonl.gz").write_bytes(b"\x1f\x8b cut"),
        lambda out: (out / "b" / "c" / "003.png").write_bytes(b""),
    ],
)
def test_what_a_power_cut_leaves_is_made_good(extract, photos, harm):
    """Stats missing or cut short, outputs missing or cut short, and half-written temporary files lying about."""
    options = ("--samples-per-shard", 5, "--keypoints", "jsonl")
    _, out = extract(photos, *options)
    expected = tree(out)
    harm(out)
    left = out / "_dwpose" / "tmp" / "00001-deadbeef"
    left.mkdir()
    (left / "000000").write_bytes(b"half a fi")
    extract(photos, *options)
    assert tree(out) == expected


def test_limit_dry_run_and_max_failures(extract, photos, capsys):
    code, out = extract(photos, "--dry-run", "--limit", 7, "--samples-per-shard", 3)
    assert code == 0
    assert not out.exists()
    assert "7 inputs (folder) in 3 shards" in capsys.readouterr().out
    code, out = extract(photos, "--limit", 3)
    assert code == 0  # the broken ones come later
    assert len(reports(out)) == 3
    code, out = extract(photos, "--max-failures", 1, "--samples-per-shard", 20, out="strict")
    assert code == 1
    assert "stopped after 2 failures" in capsys.readouterr().err
    assert not (out / "_dwpose" / "shards").exists()
    assert not list((out / "_dwpose" / "tmp").iterdir())


def test_fsspec_urls_in_and_out(extract, photos):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in photos.rglob("*.*"):
        memory.pipe(f"/in/{path.relative_to(photos)}", path.read_bytes())
    extract("memory://in", "--samples-per-shard", 5, out="memory://out")
    _, local = extract(photos, "--samples-per-shard", 5, out="local")
    names = {name.removeprefix("/out/") for name in memory.find("/out")}
    assert names == {name for name in tree(local)}
    for name in names:
        if name.endswith((".png", ".gz", "stats.json", "report.jsonl")):
            assert memory.cat(f"/out/{name}") == (local / name).read_bytes()
    memory.rm("/out", recursive=True)


def test_stats_and_page(extract, photos, capsys):
    _, out = extract(photos, "--samples-per-shard", 5)
    capsys.readouterr()
    assert main(["stats", str(out)]) == 0
    said = capsys.readouterr().out
    assert "14, of which 12 ok, 2 failed, 0 to do" in said
    page = (out / "_dwpose" / "stats.html").read_text()
    assert page.count("<img src=") >= 10
    assert "a/004x" in page and "people per picture" in page
    assert main(["stats", str(photos)]) == 2


def test_render_redraws_an_extraction_without_networks(extract, photos, tmp_path):
    _, out = extract(photos, "--samples-per-shard", 5)
    again = tmp_path / "again"
    assert main(["render", str(out), "-o", str(again)]) == 0
    pngs = {name: digest for name, digest in tree(out).items() if name.endswith(".png")}
    assert {name: digest for name, digest in tree(again).items()} == pngs
    one = sorted((out / "keypoints").glob("*.gz"))[0]
    assert main(["render", str(one), "-o", str(tmp_path / "big"), "--draw-size", "256x192", "--style", "xinsir"]) == 0
    with Image.open(io.BytesIO((tmp_path / "big" / "a" / "000.png").read_bytes())) as image:
        assert image.size == (256, 192)


def test_json_log_lines(extract, photos, capsys):
    extract(photos, log="json")
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["done"], last["total"], last["failed"], last["ok"]) == ("finished", 14, 14, 2, 12)
    assert {"images_per_s", "people_per_s", "eta_s", "device"} <= set(last)


def test_ranks_that_the_environment_names_are_said_with_the_totals_of_all(extract, photos, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    extract(photos, "--samples-per-shard", 5)
    said = capsys.readouterr()
    assert "rank 1 of 2 (from SLURM_PROCID)" in said.err
    assert "5 of 5 inputs ok" in said.out
    assert "of all ranks: 5 of 14 inputs ok, 0 failed, 1 of 3 shards" in said.out


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (("000139.jpg", "x/000285.jpg"), [139, 285]),  # as in COCO
        (("a/1.jpg", "b/1.jpg", "c/7.jpg"), [0, 1, 2]),  # the same number twice
        (("01.jpg", "1.jpg"), [0, 1]),
        (("5.jpg", "cat.jpg"), [0, 1]),  # the place of the second could be the number of another
        (("1.jpg", "1.png"), [0, 1]),
        ((f"{2**64}.jpg", "3.jpg"), [0, 1]),
    ],
)
def test_every_image_has_an_image_id_of_its_own(extract, tmp_path, names, ids):
    for number, name in enumerate(names):
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number, "PNG" if name.endswith(".png") else "JPEG"))
    code, out = extract(tmp_path / "in", "--keypoints", "coco", "--output-format", "dummy", "--samples-per-shard", 1)
    assert code == 0
    results = [row for file in sorted((out / "keypoints").glob("*.coco.json")) for row in json.loads(file.read_text())]
    assert sorted({row["image_id"] for row in results}) == sorted(ids)
    assert sorted(row["image_id"] for row in reports(out)) == sorted(ids)


def test_the_page_shows_paths_in_another_encoding(extract, photos, capsys):
    os.symlink(b"nowhere", os.fsencode(photos) + b"/caf\xe9.jpg")
    _, out = extract(photos)
    assert main(["stats", str(out)]) == 0
    assert "caf\\udce9.jpg" in (out / "_dwpose" / "stats.html").read_text()
    assert main(["stats", str(out), "--samples", "-1"]) == 2
    assert "--samples must be at least 0" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["../climbs", "/absolute", "a/../../b", 5, None])
def test_stored_keypoints_are_drawn_inside_the_folder_only(tmp_path, capsys, key):
    row = {"key": key, "width": 8, "height": 8, "people": []}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert main(["render", str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "in" / "out")]) == 2
    assert "key" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("row", ['{"key":"a","width":Infinity,"height":8,"people":[]}', "[" * 100_000])
def test_damaged_rows_of_keypoints_are_named(row):
    with pytest.raises(ValueError, match="line 1 is no row of keypoints"):
        list(read_keypoint_rows(row.encode()))
