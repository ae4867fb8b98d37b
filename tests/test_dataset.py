"""`dwpose extract`: sources, layouts, resume, failures. Every layout is read back by its consumer's own loader."""

from __future__ import annotations

import gzip
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dwpose_core.cli import main
from dwpose_core.dataset import sources
from dwpose_core.dataset.decode import Task, decode
from dwpose_core.dataset.sinks import read_keypoint_rows
from dwpose_core.formats import load_npz
from dwpose_core.render import render

from .dataset_tools import make_photos, make_tar, make_weights, picture, tree


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights") / "debug.safetensors")


@pytest.fixture
def extract(weights, tmp_path):
    """Runs `dwpose extract SOURCE --out <tmp>/NAME ...` in threads; returns exit code and folder."""

    def call(source, *options, out="out", decoders="0"):
        target = out if "://" in out else str(tmp_path / out)
        code = main(
            ["extract", str(source), "--out", target, "--pose", str(weights), "--detector", "none", "--device", "cpu",
             "--decoders", decoders, "--log", "none", *map(str, options)]
        )  # fmt: skip
        return code, tmp_path / out

    return call


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


def reports(out):
    files = sorted((out / "_dwpose" / "shards").glob("*_report.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def stored(out):
    files = sorted((out / "keypoints").glob("*.jsonl.gz"))
    return {key: people for file in files for key, people in read_keypoint_rows(file.read_bytes())}


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
    assert {row["image_id"] for row in results} == set(range(12))  # the files' own numbers


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


def test_tars_go_in_and_their_captions_with_them(extract, tmp_path):
    (tmp_path / "in").mkdir()
    make_tar(tmp_path / "in" / "00.tar", 0, 5)
    make_tar(tmp_path / "in" / "01.tar", 5, 4)
    code, out = extract(tmp_path / "in" / "*.tar", "--output-format", "imagefolder")
    assert code == 0
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [f"picture {i}" for i in range(9)]
    assert (out / rows[3]["file_name"]).read_bytes() == picture(3)  # not recompressed


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.jsonl", "metadata.jsonl"])
def test_lists(extract, photos, name):
    names = ["a/000.jpg", "b/c/001.png", "a/missing.jpg"]
    lines = {
        "list.txt": "\n".join(names),
        "list.csv": "image,caption\n" + "\n".join(f"{n},about {n}" for n in names),
        "list.jsonl": "\n".join(json.dumps({"image": n, "caption": f"about {n}"}) for n in names),
        "metadata.jsonl": "\n".join(json.dumps({"file_name": n, "text": f"about {n}"}) for n in names),
    }
    (photos / name).write_text(lines[name])
    code, out = extract(photos / name, "--output-format", "imagefolder")
    assert code == 1
    assert [(row["key"], row["status"]) for row in reports(out)] == [
        ("a/000", "ok"), ("b/c/001", "ok"), ("a/missing", "failed"),
    ]  # fmt: skip
    texts = [json.loads(line)["text"] for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert texts == ["picture 0", ""] if name == "list.txt" else ["about a/000.jpg", "about b/c/001.png"]


def test_parquet_and_saved_datasets_go_in(extract, photos, tmp_path):
    datasets = pytest.importorskip("datasets")
    _, first = extract(photos, "--output-format", "parquet", "--samples-per-shard", 5)
    code, again = extract(first / "data", "--output-format", "parquet", "--samples-per-shard", 5, out="again")
    assert code == 0
    assert [row["status"] for row in reports(again)] == ["ok"] * 12
    images = [{"bytes": picture(i), "path": None} for i in range(4)]
    table = datasets.Dataset.from_dict({"image": images, "text": list("abcd")})
    table = table.cast_column("image", datasets.Image())
    table.save_to_disk(tmp_path / "saved")
    code, out = extract(tmp_path / "saved", "--output-format", "imagefolder", out="from-saved")
    assert code == 0
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == list("abcd")


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


def test_a_finished_run_does_nothing_again_and_overwrite_starts_over(extract, photos, monkeypatch):
    _, out = extract(photos)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (photos / "a" / "new.jpg").write_bytes(picture(99))
    (out / "mine.txt").write_text("not from the extraction")
    assert extract(photos)[0] == 1
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before
    extract(photos, "--overwrite")
    assert (out / "a" / "new.png").is_file()
    assert (out / "mine.txt").is_file()


def test_other_options_are_refused_for_a_run_that_was_begun(extract, photos, capsys):
    extract(photos)
    assert extract(photos, "--threshold", "0.5")[0] == 2
    assert "other options (options, style)" in capsys.readouterr().err


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
    assert not list((out / "_dwpose" / "shards").glob("*") if (out / "_dwpose" / "shards").exists() else [])
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


def test_exif_turned_photographs_are_stored_upright(extract, tmp_path):
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in" / "turned.jpg").write_bytes(picture(0, exif=exif))
    _, out = extract(tmp_path / "in", "--output-format", "imagefolder")
    with Image.open(out / "images" / "turned.jpg") as image:
        assert image.size == (64, 80)
        assert image.getexif().get(0x0112, 1) == 1
    with Image.open(out / "conditioning_images" / "turned.png") as image:
        assert image.size == (64, 80)


def test_detect_resolution_keeps_coordinates_of_the_original(tmp_path):
    (tmp_path / "big.jpg").write_bytes(b"")
    Image.fromarray(np.zeros((1200, 1600, 3), np.uint8)).save(tmp_path / "big.jpg")
    one = decode(Task({"key": "big", "path": str(tmp_path / "big.jpg")}, short_side=300))
    assert one.image.shape == (300, 400, 3)
    assert one.size == (1200, 1600)


def test_keys_never_collide_or_climb(tmp_path):
    for name in ("x.jpg", "x.png", "x_png.webp"):
        (tmp_path / name).write_bytes(b"")
    keys = [item["key"] for item in sources.items(str(tmp_path), "folder")]
    assert len(set(keys)) == 3
    (tmp_path / "l.txt").write_text("../../etc/x.jpg\n/abs/y.jpg\nx.jpg\nx.jpg\n")
    keys = [item["key"] for item in sources.items(str(tmp_path / "l.txt"), "list")]
    assert keys == ["etc/x", "abs/y", "x", "x_jpg"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "nothing to read"),
        ({"a.jpg": b"", "b.mp4": b""}, "several kinds"),
        ({"l.csv": b"id,name\n1,2\n"}, "no column"),
    ],
)
def test_sources_that_make_no_sense(extract, tmp_path, capsys, files, message):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    assert extract(folder / "l.csv" if "l.csv" in files else folder)[0] == 2
    assert message in capsys.readouterr().err


def test_videos_become_videos(extract, tmp_path):
    av = pytest.importorskip("av")
    from .test_video import all_frames, make_film

    (tmp_path / "films" / "x").mkdir(parents=True)
    make_film(tmp_path / "films" / "one.mp4", count=9)
    make_film(tmp_path / "films" / "x" / "two.mp4", count=14, audio="aac")
    (tmp_path / "films" / "x" / "bad.mp4").write_bytes(b"no film")
    code, out = extract(tmp_path / "films", "--overlay", "--keypoints", "jsonl", "npz")
    assert code == 1
    rows = {row["key"]: row for row in reports(out)}
    assert rows["x/bad"]["status"] == "failed"
    assert (rows["one"]["frames"], rows["x/two"]["frames"]) == (9, 14)
    assert len(all_frames(out / "one.mp4")) == 9
    frames = all_frames(out / "x" / "two.mp4")
    assert [f.time for f in frames] == [f.time for f in all_frames(tmp_path / "films" / "x" / "two.mp4")]
    with av.open(str(out / "x" / "two.overlay.mp4")) as container:
        assert container.streams.audio
    assert len(load_npz(out / "keypoints" / "x" / "two.npz")) == 14
    lines = gzip.decompress((out / "keypoints" / "one.jsonl.gz").read_bytes()).splitlines()
    assert [json.loads(line)["key"] for line in lines] == [f"one/{i:06d}" for i in range(9)]
    expected = tree(out)
    shutil.rmtree(out / "x")
    assert extract(tmp_path / "films", "--overlay", "--keypoints", "jsonl", "npz")[0] == 1
    assert tree(out) == expected


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


def test_json_log_lines(weights, photos, tmp_path, capsys):
    main(
        ["extract", str(photos), "--out", str(tmp_path / "o"), "--pose", str(weights), "--detector", "none", "--device",
         "cpu", "--decoders", "0", "--log", "json"]
    )  # fmt: skip
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["done"], last["total"], last["failed"], last["ok"]) == ("finished", 14, 14, 2, 12)
    assert {"images_per_s", "people_per_s", "eta_s", "device"} <= set(last)


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


def test_other_networks_than_those_of_the_finished_shards_are_refused(extract, photos, capsys):
    _, out = extract(photos, "--samples-per-shard", 5)
    stats = out / "_dwpose" / "shards" / "00000_stats.json"
    stats.write_text(stats.read_text().replace("debug (torch", "dwpose-l (torch"))
    (out / "_dwpose" / "shards" / "00001_stats.json").unlink()
    assert extract(photos, "--samples-per-shard", 5)[0] == 2
    assert "begun with dwpose-l" in capsys.readouterr().err
