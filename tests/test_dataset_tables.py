"""What `dwpose extract` reads from tables: paths and captions in them, and how much of them is held in memory."""

from __future__ import annotations

import json

import pytest

from dwpose_core.dataset import sources
from dwpose_core.dataset.containers import TableReader

from .dataset_tools import extractor, make_photos, reports

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
