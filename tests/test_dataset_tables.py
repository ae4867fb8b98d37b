"""What `dwpose extract` reads from tables and large tars: paths and captions in them, and how much of them is read."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from dwpose_core.dataset import sources
from dwpose_core.dataset.containers import TableReader, tar_items
from dwpose_core.dataset.decode import Task, decode

from .dataset_tools import extractor, make_photos, picture, reports, write_tar

extract = pytest.fixture(extractor)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


def test_tables_of_paths_with_the_usual_names_of_captions(extract, photos):
    """Paths start at the table, as those of lists do."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    names = ["a/000.jpg", "b/c/001.png", "a/missing.jpg"]
    columns = {"image": names, "also": [{"bytes": None, "path": name} for name in names], "caption": list("xyz")}
    parquet.write_table(pa.table(columns), photos / "table.parquet")
    for column in ("image", "also"):
        code, out = extract(
            photos / "table.parquet", "--image-column", column, "--output-format", "imagefolder", out=column
        )
        assert code == 1 and [row["status"] for row in reports(out)] == ["ok", "ok", "failed"]
        assert [json.loads(line)["text"] for line in (out / "metadata.jsonl").read_text().splitlines()] == ["x", "y"]


def test_row_groups_are_not_held_in_memory(tmp_path):
    """Many tools write a whole file as one group."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [bytes([i]) * 100_000 for i in range(200)]
    parquet.write_table(
        pa.table({"image": rows}),
        tmp_path / "one.parquet",
        data_page_size=1000,
        write_batch_size=1,
        use_dictionary=False,
    )
    table = TableReader("image", "text")
    before = pa.total_allocated_bytes()
    for item in sources.items(str(tmp_path / "one.parquet"), "parquet"):
        assert table.read(item)[0] == rows[item["at"][1]]
        assert pa.total_allocated_bytes() - before < 8_000_000  # of 20
    table.close()


def test_of_a_tar_behind_a_url_only_the_images_are_fetched(tmp_path):
    """fsspec reads megabytes ahead, which would be fetched again for each image."""
    spec = pytest.importorskip("fsspec.spec")
    fsspec = pytest.importorskip("fsspec")
    fetched = []

    class File(spec.AbstractBufferedFile):
        def _fetch_range(self, start, end):
            fetched.append(end - start)
            return Path(self.path).read_bytes()[start:end]

    class Far(spec.AbstractFileSystem):
        protocol = "far"

        def _open(self, path, mode="rb", **options):
            return File(self, path, mode, **options)

        def info(self, path, **_):
            return {"name": path, "size": Path(path).stat().st_size, "type": "file"}

    fsspec.register_implementation("far", Far, clobber=True)
    files = {"0.txt": b"a man"} | {f"{i}.jpg": picture(i) for i in range(5)}
    found = list(tar_items(f"far://{write_tar(tmp_path / 'in.tar', files)}", "in", Counter()))
    fetched.clear()
    decoded = [decode(Task(item, want_file=True)) for item in found]
    assert [one.file for one in decoded] == [files[f"{i}.jpg"] for i in range(5)] and decoded[0].text == "a man"
    assert sum(fetched) == sum(map(len, files.values()))


@pytest.mark.parametrize("log", ["line", "json"])
def test_listing_that_takes_long_is_counted_on_the_screen(extract, photos, monkeypatch, capsys, log):
    monkeypatch.setattr("tqdm.std.time", itertools.count().__next__)  # a second for each look at the clock
    assert extract(photos, "--dry-run", "--log", log)[0] == 0
    assert ("listing: " in capsys.readouterr().err) == (log == "line")


@pytest.mark.parametrize("layout", ["files", "imagefolder", "webdataset", "parquet"])
def test_a_picture_with_nobody_in_it_is_a_row_like_any_other(extract, tmp_path, layout):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 48), (255, 255, 255)).save(tmp_path / "photos" / "a.png")
    detector = ("--detector", "yolox-cspnext-s")
    assert extract(tmp_path / "photos", "--output-format", layout, *detector)[0] == 0
    (row,) = reports(tmp_path / "out")
    assert (row["status"], row["people"]) == ("ok", 0)
