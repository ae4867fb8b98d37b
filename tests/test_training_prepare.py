"""Getting data ready: UBody's videos and the data set check."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from training.config import COCO, UBODY, UBODY_SCENES
from training.data import check, ubody
from training.data.toy import write_toy_data
from training.data.wholebody import read_annotations


def film(path, rate: int, frames: int) -> None:
    """A lossless video whose grey level is 4 x the frame number, counted from 0."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "gray"
        for i in range(frames):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32), 4 * i, np.uint8), format="gray")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    "rate, wanted, expected",
    [
        (30, [1, 2, 10, 20], [0, 1, 9, 19]),  # its own frames
        (15, [1, 2, 3, 11], [0, 1, 1, 5]),  # each frame serves two numbers
        (60, [1, 2, 3, 10], [0, 2, 4, 18]),  # every second frame
        (30, [1, 21], [0]),  # past the end
        (30, [], []),
    ],
)
def test_frames_are_counted_at_thirty_per_second(tmp_path, rate, wanted, expected):
    film(tmp_path / "film.mkv", rate, 20)
    found = list(ubody.frames_at_rate(tmp_path / "film.mkv", set(wanted)))
    assert [number for number, _ in found] == wanted[: len(expected)]
    assert [round(int(image[0, 0, 0]) / 4) for _, image in found] == expected


@pytest.fixture
def release(tmp_path):
    """A tiny UBody: one scene, two videos of one film that is in the test list and one that is not."""
    root = tmp_path / "UBody"
    people = ("keypoints", 17), ("foot_kpts", 6), ("face_kpts", 68), ("lefthand_kpts", 21), ("righthand_kpts", 21)
    images, annotations = [], []
    for v, video in enumerate(("A_Trim1", "B_Trim1")):
        film(root / "videos" / "Olympic" / f"{video}.mkv", 30, 30)
        for number in range(1, 31):
            image_id = 100 * v + number
            slash = "/" if v else ""  # both spellings occur in the release
            images.append({"id": image_id, "file_name": f"{slash}{video}/{number:06d}.png", "width": 32, "height": 32})
            lists = {name: [5, 5, 1] * count for name, count in people}
            annotations.append(
                {
                    "id": image_id,
                    "image_id": image_id,
                    "bbox": [2, 2, 20, 20],
                    "iscrowd": 0,
                    "num_keypoints": 17,
                    **lists,
                }
            )
    scene = root / "annotations" / "Olympic"
    scene.mkdir(parents=True)
    (scene / "keypoint_annotation.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (root / "splits").mkdir()
    np.save(root / "splits" / "intra_scene_test_list.npy", np.array(["B"]))
    return root


def test_ubody_frames_and_split(release, capsys):
    ubody.main([str(release), "--workers", "1"])
    written = sorted(str(path.relative_to(release / "images")) for path in (release / "images").rglob("*.jpg"))
    assert written == [f"Olympic/{v}_Trim1/{n:06d}.jpg" for v in "AB" for n in (10, 20, 30)]
    for split, video in (("train", "A"), ("val", "B")):
        table = read_annotations(release / "annotations" / "Olympic" / f"{split}_annotations.json", 10)
        assert table.file_names.tolist() == [f"Olympic/{video}_Trim1/{n:06d}.jpg" for n in (10, 20, 30)]
        level = cv2.imread(str(release / "images" / table.file_names[1]))[0, 0, 0]
        assert level == pytest.approx(4 * 19, abs=3)
    assert "3 people to train on, 3 to test on" in capsys.readouterr().out


def test_ubody_continues_where_it_stopped(release, capsys):
    ubody.main([str(release), "--workers", "1"])
    kept = release / "images" / "Olympic" / "A_Trim1" / "000010.jpg"
    stamp = kept.stat().st_mtime_ns
    half = release / "images" / "Olympic" / "B_Trim1"
    half.rename(half.with_name("B_Trim1.part"))  # as a kill leaves it
    (half.with_name("B_Trim1.part") / "000020.jpg").write_bytes(b"half a file")
    ubody.main([str(release), "--workers", "1"])
    assert kept.stat().st_mtime_ns == stamp
    assert cv2.imread(str(half / "000020.jpg")) is not None and not half.with_name("B_Trim1.part").exists()


def test_ubody_says_what_is_missing(release, capsys):
    (release / "videos" / "Olympic" / "A_Trim1.mkv").unlink()
    assert ubody.main([str(release), "--workers", "1"]) == 1
    printed = capsys.readouterr().out
    assert "problem: Olympic/A_Trim1: not in" in printed and "0 people to train on, 3 to test on" in printed
    with pytest.raises(ValueError, match="Cooking"):
        ubody.main([str(release), "--scenes", "Cooking"])


def people_in(release) -> dict[str, int]:
    scene = release / "annotations" / "Olympic"
    return {s: len(json.loads((scene / f"{s}_annotations.json").read_text())["annotations"]) for s in ("train", "val")}


@pytest.mark.parametrize(
    "more, people, files",
    [
        (["--format", "png"], 3, {"jpg": 3, "png": 3}),
        (["--interval", "5"], 6, {"jpg": 6}),
        (["--interval", "5", "--format", "png"], 6, {"jpg": 3, "png": 6}),
        (["--interval", "15"], 2, {"jpg": 4}),
    ],
)
def test_another_format_or_interval_adds_what_is_missing(release, more, people, files):
    """What is done is judged by the frames that are wanted now, not by the folder of an earlier run."""
    assert ubody.main([str(release), "--workers", "1"]) == 0
    folder = release / "images" / "Olympic" / "A_Trim1"
    stamp = (folder / "000010.jpg").stat().st_mtime_ns
    assert ubody.main([str(release), "--workers", "1", *more]) == 0
    assert people_in(release) == {"train": people, "val": people}
    assert {suffix: len(list(folder.glob(f"*.{suffix}"))) for suffix in files} == files
    assert (folder / "000010.jpg").stat().st_mtime_ns == stamp
    table = read_annotations(release / "annotations" / "Olympic" / "train_annotations.json")
    assert all((release / "images" / name).is_file() for name in table.file_names)


def test_a_split_does_not_lose_all_of_its_people(release, capsys):
    ubody.main([str(release), "--workers", "1"])
    (release / "videos").rename(release / "elsewhere")
    assert ubody.main([str(release), "--workers", "1", "--format", "png"]) == 1
    assert people_in(release) == {"train": 3, "val": 3}
    assert "train_annotations.json stays as it was: none of its .png frames" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a video", None])
def test_a_damaged_video_does_not_stop_the_others(release, capsys, content):
    """Listed with status 1, whether it is no video at all or breaks off; and used once it is whole."""
    video = release / "videos" / "Olympic" / "A_Trim1.mkv"
    whole = video.read_bytes()
    video.write_bytes(whole[:200] if content is None else content)
    assert ubody.main([str(release), "--workers", "1"]) == 1
    printed = capsys.readouterr().out
    assert "problem: Olympic/A_Trim1: " in printed and "1 problems" in printed
    assert people_in(release) == {"train": 0, "val": 3}
    assert not (release / "images" / "Olympic" / "A_Trim1.part").exists()
    video.write_bytes(whole)
    assert ubody.main([str(release), "--workers", "1"]) == 0
    assert people_in(release) == {"train": 3, "val": 3}


def test_frames_past_the_end_are_not_looked_for_again(release, capfd):
    video = release / "videos" / "Olympic" / "A_Trim1.mkv"
    whole = video.read_bytes()
    film(video, 30, 25)
    for expected in (True, False):  # said once
        assert ubody.main([str(release), "--workers", "1"]) == 0
        assert ("1 annotated frames lie past the end" in capfd.readouterr().out) is expected
        assert people_in(release) == {"train": 2, "val": 3}
    video.write_bytes(whole)  # it had been cut off
    assert ubody.main([str(release), "--workers", "1"]) == 0
    assert people_in(release) == {"train": 3, "val": 3}


@pytest.mark.parametrize("flag", ["--interval", "--workers", "--quality"])
def test_ubody_numbers_start_at_one(release, flag, capsys):
    with pytest.raises(SystemExit):
        ubody.main([str(release), flag, "0"])
    assert f"argument {flag}: must be at least 1, got 0" in capsys.readouterr().err


def test_configured_sources_are_coco_and_all_fifteen_scenes():
    assert len(UBODY_SCENES) == len(set(UBODY_SCENES)) == len(UBODY) == 15
    assert {source.sample_interval for source in UBODY} == {10} and COCO[0].sample_interval == 1


def test_check_of_a_sound_data_set(tmp_path, capsys):
    toy = write_toy_data(tmp_path)
    sheet = tmp_path / "not yet" / "there" / "sheet.png"
    assert check.main([f"{toy.annotations},{toy.images}", "--sheet", str(sheet)]) == 0
    printed = capsys.readouterr().out
    assert "8 people in 8 images" in printed and "8 of 8 images are good" in printed
    picture = cv2.imread(str(sheet))
    assert [file.name for file in sheet.parent.iterdir()] == ["sheet.png"]
    assert picture.shape == (4 * 262 + 6, 8 * 198 + 6, 3) and picture.std() > 20


@pytest.mark.parametrize("name, match", [("sheet.txt", "no suffix of a picture"), ("", "is a folder")])
def test_a_sheet_that_cannot_be_is_refused_at_the_start(tmp_path, name, match, capsys):
    toy = write_toy_data(tmp_path)
    with pytest.raises(ValueError, match=match):
        check.main([f"{toy.annotations},{toy.images}", "--sheet", str(tmp_path / name)])
    assert not capsys.readouterr().out


def test_check_finds_every_kind_of_bad_image(tmp_path, capsys):
    toy = write_toy_data(tmp_path)
    (tmp_path / "000001.jpg").unlink()
    (tmp_path / "000002.jpg").write_bytes(b"\xff\xd8\xff")
    cv2.imwrite(str(tmp_path / "000003.jpg"), np.zeros((10, 20, 3), np.uint8))
    assert check.main([f"{toy.annotations},{toy.images}", "--sheet", str(tmp_path / "sheet.png")]) == 1
    printed = capsys.readouterr().out
    assert "5 of 8 images are good" in printed
    for words in (
        "000001.jpg: missing",
        "000002.jpg is not a readable image",
        "is 20 x 10, the annotations say 128 x 160",
    ):
        assert words in printed
