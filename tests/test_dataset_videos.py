"""`dwpose extract` of videos."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from fractions import Fraction

import pytest

from dwpose_core.cli import main
from dwpose_core.formats import load_npz

from .dataset_tools import extractor, reports, tree

av = pytest.importorskip("av")

extract = pytest.fixture(extractor)


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


def test_an_overlay_and_another_video_never_share_a_name(extract, tmp_path):
    from .test_video import all_frames, make_film

    (tmp_path / "films").mkdir()
    make_film(tmp_path / "films" / "a.mp4", count=6)
    make_film(tmp_path / "films" / "a.overlay.mp4", count=9)
    code, out = extract(tmp_path / "films", "--overlay")
    assert code == 0
    films = {path.name: len(all_frames(path)) for path in out.glob("*.mp4")}
    assert films == {
        "a.mp4": 6, "a.overlay.mp4": 6, "a.overlay_mp4.mp4": 9, "a.overlay_mp4.overlay.mp4": 9,
    }  # fmt: skip


def test_a_video_that_was_cut_short_says_so(extract, tmp_path, capsys):
    from .test_video import make_film

    (tmp_path / "films").mkdir()
    with av.open(str(make_film(tmp_path / "whole.mp4", count=50))) as source:  # again, with the index at the front
        with av.open(str(tmp_path / "films" / "cut.mp4"), "w", options={"movflags": "faststart"}) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    with av.open(str(tmp_path / "films" / "cut.mp4")) as film:
        ends = sorted(packet.pos + packet.size for packet in film.demux(video=0) if packet.size)
    os.truncate(tmp_path / "films" / "cut.mp4", ends[30])
    code, out = extract(tmp_path / "films")
    assert code == 0
    (row,) = reports(out)
    assert row["status"] == "ok" and 20 < row["frames"] < 40
    assert row["message"] == f"ends after {row['frames']} of the 50 frames it announces"
    assert f"incomplete: cut: ends after {row['frames']}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keypoints", "coco"), "coco is for images"),
        (("--map-format", "webp"), "webp is for images"),
        (("--detect-resolution", 256), "detect-resolution is for images"),
        (("--overlay", "--output-format", "dummy"), "draws nothing"),
        (("--output-format", "webdataset"), "videos are written as files"),
        (("--text-column", "caption"), "for lists"),
    ],
)
def test_options_that_mean_nothing_for_videos_are_refused(extract, tmp_path, capsys, options, message):
    (tmp_path / "one.mp4").write_bytes(b"")
    code, out = extract(tmp_path / "one.mp4", *options)
    assert code == 2 and not out.exists()
    assert message in capsys.readouterr().err


def test_max_people_follows_one_of_two_whose_boxes_are_surest_in_turn(tmp_path):
    from dwpose_core.dataset.plan import Config
    from dwpose_core.dataset.videos import extract_video
    from dwpose_core.pipeline import Options
    from dwpose_core.preprocessor import DWposeDetector

    from .stand_ins import FigurePose, TwoInTurn
    from .test_video import make_film

    item = {"key": "clip", "path": make_film(tmp_path / "clip.mp4", count=11)}
    detector = DWposeDetector(FigurePose(), TwoInTurn(), Options(max_people=1))
    for steady, same in (({"max_gap": 5}, True), (None, False)):
        config = Config("films", "out", "video", "dummy", ("npz",), steady=steady)
        _, extra = extract_video(item, 0, config, detector, tmp_path)
        people = load_npz(extra["files"]["keypoints/clip.npz"])
        assert [len(frame) for frame in people] == [1] * 11
        assert (len({float(frame.box[0, 0]) for frame in people}) == 1) == same


def test_extracted_videos_are_drawn_again_as_videos(extract, tmp_path, capsys):
    from dwpose_core.cli import main

    from .test_video import all_frames, make_film

    (tmp_path / "films" / "x").mkdir(parents=True)
    make_film(tmp_path / "films" / "one.mp4", count=9, fps=Fraction(24))
    make_film(tmp_path / "films" / "x" / "two.mp4", count=14, fps=Fraction(12))
    _, out = extract(tmp_path / "films")
    assert main(["render", str(out), "-o", str(tmp_path / "again"), "--draw-size", "96"]) == 0
    assert "2 films" in capsys.readouterr().out
    for name, count, fps in (("one", 9, 24), ("x/two", 14, 12)):
        again, first = (all_frames(folder / f"{name}.mp4") for folder in (tmp_path / "again", out))
        assert [frame.time for frame in again] == [frame.time for frame in first]
        assert len(again) == count and again[1].time == Fraction(1, fps)
        assert again[0].image.shape == (96, 128, 3) and again[0].image.any()
    assert main(["render", str(out), "-o", str(tmp_path / "slow"), "--fps", "6"]) == 0
    assert all_frames(tmp_path / "slow" / "one.mp4")[1].time == Fraction(1, 6)
    assert main(["render", str(out), "-o", str(tmp_path / "none"), "--fps", "0"]) == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["films.txt", "films.csv", "films.jsonl"])
def test_a_list_of_videos(extract, tmp_path, name):
    from .test_video import all_frames, make_film

    (tmp_path / "films").mkdir()
    make_film(tmp_path / "films" / "one.mp4", count=5)
    make_film(tmp_path / "films" / "two.mp4", count=7)
    paths = ["films/two.mp4", "films/gone.mp4", "films/one.mp4"]
    rows = {
        ".txt": paths,
        ".csv": ["video,caption", *(f"{path},a film" for path in paths), ",without a name"],
        ".jsonl": [*(json.dumps({"video_path": path}) for path in paths), "{"],
    }[os.path.splitext(name)[1]]
    (tmp_path / name).write_text("\n".join(rows) + "\n")
    code, out = extract(tmp_path / name)
    assert code == 1
    assert {path.name: len(all_frames(path)) for path in (out / "films").glob("*.mp4")} == {"one.mp4": 5, "two.mp4": 7}
    failed = {row["key"]: row["message"] for row in reports(out) if row["status"] == "failed"}
    assert "no video file" in failed.pop("films/gone")
    reason = {".txt": None, ".csv": "no path in column 'video'", ".jsonl": "not JSON"}[os.path.splitext(name)[1]]
    assert [reason in message for message in failed.values()] == [True] * (reason is not None)


def test_the_page_takes_no_video_for_a_shard(extract, tmp_path):
    from .test_video import make_film

    (tmp_path / "films").mkdir()
    make_film(tmp_path / "films" / "00000.mp4", count=3)
    assert extract(tmp_path / "films")[0] == 0
    assert main(["stats", str(tmp_path / "out")]) == 0
