"""What `dwpose extract` reads: tars, tables, patterns; what the items are called; pictures that are not quite usual."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from dwpose_core.dataset import sources
from dwpose_core.dataset.decode import Task, decode

from .dataset_tools import extractor, failed, make_photos, make_tar, picture, reports, write_tar

extract = pytest.fixture(extractor)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


def test_tars_go_in_and_their_captions_with_them(extract, tmp_path):
    (tmp_path / "in").mkdir()
    make_tar(tmp_path / "in" / "00.tar", 0, 5)
    make_tar(tmp_path / "in" / "01.tar", 5, 4)
    code, out = extract(tmp_path / "in" / "*.tar", "--output-format", "imagefolder")
    assert code == 0
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [f"picture {i}" for i in range(9)]
    assert (out / rows[3]["file_name"]).read_bytes() == picture(3)  # not recompressed


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
        ({"x.tar.gz": b"is there"}, "x.tar.gz: no image, video"),
    ],
)
def test_sources_that_make_no_sense(extract, tmp_path, capsys, files, message):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    one = next((name for name in files if name.endswith((".csv", ".gz"))), "")
    assert extract(folder / one)[0] == 2
    assert message in capsys.readouterr().err


def items(source, kind, **options):
    return list(sources.items(str(source), kind, **options))


def test_every_image_of_a_tar_is_a_row_and_what_is_left_out_is_counted(extract, tmp_path, capsys):
    names = (
        "0001.jpg",
        "0003.jpg",
        "0003.png",
        "x.y.jpg",
        "x.z.jpg",
        "0006.seg.png",
        "0006.jpg",
        "0007.heic",
        "d/0001.jpg",
    )
    members = {name: picture(i, "PNG" if name.endswith("png") else "JPEG") for i, name in enumerate(names)}
    members |= {"._0008.jpg": b"macOS", ".DS_Store": b"macOS", "0009.txt": b"alone", "0009.json": b"{}"}
    tar = write_tar(tmp_path / "in.tar", members)
    code, out = extract(tar, "--output-format", "imagefolder")
    assert code == 0
    keys = [row["key"] for row in reports(out)]
    assert keys == ["0001", "0003", "0003_png", "x.y", "x.z", "0006", "d/0001"]
    assert "not read: .heic (1), seg.png (1)" in capsys.readouterr().err
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    for row, name in zip(rows, [name for name in names if name not in ("0006.seg.png", "0007.heic")], strict=True):
        assert (out / row["file_name"]).read_bytes() == members[name]


def test_captions_in_tars_belong_to_their_image_or_to_the_sample(extract, tmp_path):
    members = {"a.txt": b"first", "a.jpg": picture(0), "b.1.jpg": picture(1), "b.1.txt": b"one", "b.2.jpg": picture(2)}
    members |= {"b.txt": b"both"}
    code, out = extract(write_tar(tmp_path / "in.tar", members), "--output-format", "imagefolder")
    assert code == 0
    texts = [json.loads(line)["text"] for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert texts == ["first", "one", "both"]


def test_keys_of_tars_are_the_names_of_their_members(tmp_path):
    """Once they ended in a dot: 0001. and 0001..png, and no image had the number in its name."""
    for name in ("a.tar", "b.tar", "c.tar"):
        write_tar(tmp_path / name, {"0001.jpg": b"", "f/0002.jpg": b""})
    keys = [item["key"] for item in items(tmp_path, "webdataset")]
    assert keys == ["0001", "f/0002", "0001_jpg", "f/0002_jpg", "c/0001", "c/f/0002"]
    many = [{"key": "x", "path": "x"} for _ in range(300)]
    assert len({item["key"] for item in sources.unique(iter(many))}) == 300


@pytest.mark.parametrize(
    ("harm", "rows", "reason"),
    [
        (lambda data: b"", 0, "damaged, or not a tar"),
        (lambda data: b"no tar at all" * 100, 0, "damaged, or not a tar"),
        (lambda data: data[:1024] + b"\xff" * 512 + data[1536:], None, "no header at byte"),
        (lambda data: gzip.compress(data), 0, "unpack it with gunzip"),
        (lambda data: data[:3000], None, "damaged, or not a tar"),
    ],
)
def test_a_damaged_tar_costs_only_itself(extract, tmp_path, harm, rows, reason):
    small = picture(0)[:400]
    good = write_tar(tmp_path / "in" / "a.tar", {"0001.jpg": picture(1)})
    data = write_tar(tmp_path / "in" / "b.tar", {"x.jpg": small, "y.jpg": picture(2)}).read_bytes()
    (tmp_path / "in" / "b.tar").write_bytes(harm(data))
    good.rename(tmp_path / "in" / "c.tar")
    code, out = extract(tmp_path / "in")
    assert code == 1
    assert reason in failed(out)["b"] and str(tmp_path / "in" / "b.tar") in failed(out)["b"]
    assert reports(out)[-1]["key"] == "0001" and reports(out)[-1]["status"] == "ok"
    if rows == 0:
        assert len(reports(out)) == 2


def test_a_damaged_parquet_file_costs_only_itself(extract, tmp_path):
    pytest.importorskip("pyarrow")
    _, first = extract(make_photos(tmp_path / "p", 6, broken=False), "--output-format", "parquet", out="first")
    (good,) = (first / "data").iterdir()
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(good.read_bytes()[:2000])
    (folder / "b.parquet").write_bytes(good.read_bytes())
    (folder / "c.parquet").write_bytes(b"")
    code, out = extract(folder)
    assert code == 1
    assert sorted(failed(out)) == ["00000/a", "00002/c"]
    assert str(folder / "a.parquet") in failed(out)["00000/a"]
    assert Counter(row["status"] for row in reports(out)) == {"ok": 6, "failed": 2}
    assert [row["image_id"] for row in reports(out)] == list(range(8))


@pytest.mark.parametrize(
    ("value", "text"),
    [("a cat", "a cat"), (["one", "two"], "one"), (5, "5"), (0, "0"), (1.5, "1.5"), ([], ""), (None, "")],
)
@pytest.mark.parametrize("layout", ["imagefolder", "webdataset", "parquet"])
def test_captions_that_are_no_strings(extract, tmp_path, value, text, layout):
    (tmp_path / "a.jpg").write_bytes(picture(0))
    (tmp_path / "l.jsonl").write_text(json.dumps({"image": "a.jpg", "text": value}))
    code, out = extract(tmp_path / "l.jsonl", "--output-format", layout)
    assert code == 0
    if layout == "imagefolder":
        assert json.loads((out / "metadata.jsonl").read_text())["text"] == text


def test_a_caption_that_is_no_text_at_all_is_a_failed_row(extract, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(picture(0))
    rows = [{"image": "a.jpg", "text": {"en": "a cat"}}, {"image": "b.jpg", "text": True}]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out = extract(tmp_path / "l.jsonl", "--output-format", "imagefolder")
    assert code == 1
    assert "no text but dict" in failed(out)["a"] and "no text but bool" in failed(out)["b"]
    assert extract(tmp_path / "l.jsonl", out="maps")[0] == 0  # nobody asks for captions there


@pytest.mark.parametrize("orientation", range(0, 11))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("options", [{}, {"short_side": 20}, {"want_file": True}])
def test_the_size_is_that_of_the_upright_picture(tmp_path, orientation, kind, options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.full((120, 200, 3), 90, np.uint8))
    stored.save(tmp_path / "x", kind, exif=exif.tobytes())
    one = decode(Task({"key": "x", "path": str(tmp_path / "x")}, **options))
    turned = orientation in (5, 6, 7, 8)
    assert one.size == ((200, 120) if turned else (120, 200))
    height, width = one.image.shape[:2]
    assert (height > width) == turned
    if "want_file" in options:
        copy = Image.open(io.BytesIO(one.file))
        assert copy.size == (one.size[1], one.size[0])
        if orientation not in range(2, 9):
            assert one.file == (tmp_path / "x").read_bytes()


def test_pictures_of_cameras_that_store_several_are_copied_as_jpg(extract, tmp_path):
    first, second = (Image.open(io.BytesIO(picture(i))) for i in range(2))
    (tmp_path / "in").mkdir()
    first.save(tmp_path / "in" / "x.jpg", "MPO", save_all=True, append_images=[second])
    (tmp_path / "in" / "y.jfif").write_bytes(picture(3))
    code, out = extract(tmp_path / "in", "--output-format", "imagefolder")
    assert code == 0
    assert sorted(path.name for path in (out / "images").iterdir()) == ["x.jpg", "y.jpg"]


def test_outputs_of_earlier_runs_are_no_photographs_and_what_is_not_read_is_counted(extract, photos, capsys):
    (photos / "a" / "raw.dng").write_bytes(b"")
    extract(photos, out=photos / "poses")
    capsys.readouterr()
    extract(photos, "--dry-run", out="second")
    said = capsys.readouterr().out
    assert "14 inputs" in said and ".dng (1)" in said and f"earlier output {photos / 'poses'} (1)" in said
    assert extract(photos / "poses", out="third")[0] == 0  # named itself it is read
    extract(f"{photos}/**/*.png", "--dry-run", out="second")
    assert "7 inputs" in capsys.readouterr().out.splitlines()[-1]


def test_names_in_another_encoding(extract, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "caf\udce9.jpg").write_bytes(picture(0))
    (folder / "bad\udce9.jpg").write_bytes(b"x")
    code, out = extract(folder)
    assert code == 1
    assert [(row["key"], row["status"]) for row in reports(out)] == [("bad\ufffd", "failed"), ("caf\ufffd", "ok")]


def test_links_that_lead_nowhere_are_failed_rows(extract, photos):
    (photos / "a" / "gone.jpg").symlink_to("no-such-disk/gone.jpg")
    for source in (photos, photos / "a" / "*.jpg"):
        _, out = extract(source, out=f"out{len(str(source))}")
        assert [text for key, text in failed(out).items() if key.endswith("gone")] == [
            f"no such file: {photos / 'a' / 'gone.jpg'}"
        ]


@pytest.mark.parametrize(
    ("pattern", "count"), [("a/*", 7), ("**", 14), ("b/**/*", 7), ("*", "'{}/*/**' is what lies in them"), ("x*", "")]
)
def test_patterns_need_no_suffix(extract, photos, capsys, pattern, count):
    code, _ = extract(photos / pattern, "--dry-run")
    said = capsys.readouterr()
    assert code == (0 if isinstance(count, int) else 2)
    assert (f"{count} inputs" in said.out) if code == 0 else (count.format(photos) in said.err)


@pytest.mark.parametrize("layout", ["imagefolder", "webdataset", "parquet"])
def test_captions_that_are_no_utf8_are_stored(extract, photos, layout):
    (photos / "list.csv").write_bytes(b"image,text\na/000.jpg,caf\xe9\n")
    code, out = extract(photos / "list.csv", "--output-format", layout)
    assert code == 0
    if layout == "imagefolder":
        assert json.loads((out / "metadata.jsonl").read_text())["text"] == "caf\ufffd"


def test_captions_lie_beside_images_behind_urls_too_and_may_begin_with_a_mark(extract, photos):
    pytest.importorskip("fsspec")
    (photos / "a" / "000.txt").write_bytes("\ufeffpicture 0".encode())
    texts = []
    for out, source in (("local", photos), ("remote", f"file://{photos}")):
        _, out = extract(source, "--output-format", "imagefolder", out=out)
        texts.append([json.loads(line)["text"] for line in (out / "metadata.jsonl").read_text().splitlines()])
    assert texts[0] == texts[1] and texts[0][0] == "picture 0" and sum(map(bool, texts[0])) == 4


def test_links_in_tars_are_counted(extract, tmp_path, capsys):
    file = write_tar(tmp_path / "in.tar", {"a.jpg": picture(0)})
    with tarfile.open(file, "a") as tar:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
        tar.addfile(link)
    assert extract(file)[0] == 0
    assert "not read: link in a tar (1)" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["", "*.jpg", "**"])
def test_a_link_to_itself_is_a_failed_row(tmp_path, pattern):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(picture(0))
    (tmp_path / "in" / "loop.jpg").symlink_to("loop.jpg")
    found = list(sources.items(f"{tmp_path}/in/{pattern}".rstrip("/"), "folder"))
    assert [item["key"] for item in found] == ["a", "loop"]
    assert decode(Task(found[1])).error


def test_a_glob_goes_into_no_links_to_folders(tmp_path):
    (tmp_path / "in" / "b" / ".hidden").mkdir(parents=True)
    for name in ("a.jpg", "b/c.jpg", "b/.hidden/d.jpg"):
        (tmp_path / "in" / name).write_bytes(picture(0))
    (tmp_path / "in" / "back").symlink_to(".")
    (tmp_path / "in" / "b" / "up").symlink_to("..")
    wanted = {"**": ["a", "b/c"], "**/*.jpg": ["a", "b/c"], "**/b/*.jpg": ["c"], "back/*.jpg": ["a"]}
    for pattern, keys in wanted.items():
        assert [item["key"] for item in sources.items(f"{tmp_path}/in/{pattern}", "folder")] == keys, pattern


def test_a_glob_behind_a_url_reads_what_one_on_the_disk_does(tmp_path):
    pytest.importorskip("fsspec")
    for name in ("a.jpg", "b/c.jpg", "._a.jpg", ".hidden/d.jpg", "earlier/x.png", "earlier/_dwpose/plan.json"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(picture(0))
    for pattern in ("**", "**/*.*", "*.jpg", "[ab]*/*.jpg"):
        there, here = f"file://{tmp_path}/in/{pattern}", f"{tmp_path}/in/{pattern}"
        assert sources.detect_format(there) == "folder"
        keys = [[item["key"] for item in sources.items(source, "folder")] for source in (there, here)]
        assert [key.rpartition("/")[2] for key in keys[0]] == [key.rpartition("/")[2] for key in keys[1]]
