"""Lists that `dwpose extract` reads: lines, columns, and what is wrong with them."""

from __future__ import annotations

import json

import pytest

from dwpose_core.dataset import sources

from .dataset_tools import extractor, failed, make_photos, picture, reports

extract = pytest.fixture(extractor)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


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


@pytest.mark.parametrize(
    ("name", "lines", "messages"),
    [
        ("l.csv", "image,text\na.jpg,x\n,y\na.jpg,z\n", {"line_00000003": "line 3: no path in column 'image'"}),
        ("l.jsonl", '{"image": "a.jpg"}\n{"image": 7}\n{"im\n[1]\n{"text": "x"}\n', {
            "line_00000002": "line 2: no path", "line_00000003": "line 3: not JSON",
            "line_00000004": "line 4: expected an object, got list", "line_00000005": "line 5: no path",
        }),
    ],
)  # fmt: skip
def test_a_line_that_names_no_image_is_a_failed_row_with_its_number(extract, tmp_path, name, lines, messages):
    (tmp_path / "a.jpg").write_bytes(picture(0))
    (tmp_path / name).write_text(lines)
    code, out = extract(tmp_path / name)
    assert code == 1
    assert list(failed(out)) == list(messages)
    assert all(messages[key] in reason for key, reason in failed(out).items())
    assert any(row["status"] == "ok" for row in reports(out))


@pytest.mark.parametrize("option", ["--image-column", "--text-column"])
@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "t.parquet"])
def test_a_column_that_is_asked_for_must_be_there(extract, tmp_path, capsys, option, name):
    (tmp_path / "a.jpg").write_bytes(picture(0))
    (tmp_path / "l.csv").write_text("image,text\na.jpg,x\n")
    (tmp_path / "l.jsonl").write_text('{"image": "a.jpg", "text": "x"}\n')
    if name == "t.parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        pa = pytest.importorskip("pyarrow")
        pq.write_table(pa.table({"image": [picture(0)], "text": ["x"]}), tmp_path / name)
    code, out = extract(tmp_path / name, option, "captoin")
    assert code == 2
    error = capsys.readouterr().err
    assert "no column 'captoin', only image, text" in error and option in error
    assert not (out / "_dwpose").exists()


def test_lines_of_a_list_that_no_system_or_reader_takes(extract, tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(0))
    nested = "[" * 100_000 + "]" * 100_000
    (tmp_path / "list.jsonl").write_text(f'{{"image":"a.jpg"}}\n{{"image":"x\\u0000y/b.jpg"}}\n{{"image":{nested}}}\n')
    code, out = extract(tmp_path / "list.jsonl")
    assert code == 1
    messages = failed(out)
    assert "no path in column 'image'" in messages["line_00000002"]
    assert "not JSON" in messages["line_00000003"]


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_quotation_mark_that_is_never_closed_swallows_no_rows(extract, tmp_path, capsys, ending):
    (tmp_path / "a.jpg").write_bytes(picture(0))
    (tmp_path / "list.csv").write_text(f'image,text\na.jpg,one\na.jpg,"two\na.jpg,three{ending}')
    assert extract(tmp_path / "list.csv")[0] == 2
    assert "after line 2: a quotation mark is never closed" in capsys.readouterr().err
    (tmp_path / "list.csv").write_text(f'image,text\na.jpg,one\na.jpg,"two\nlines"{ending}')
    assert len(list(sources.items(str(tmp_path / "list.csv"), "list"))) == 2
