"""Folders of frames as clips, videos at another rate, and stored keypoints back to a film."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from dwpose_core.cli import main
from dwpose_core.clips import FrameFolder, Rate, open_clip
from dwpose_core.formats import load_npz, save_npz
from dwpose_core.images import write_image
from dwpose_core.people import People
from dwpose_core.render import render

from .stand_ins import FigurePose
from .test_video import all_frames, copy_film, figure_everywhere, make_film, picture  # noqa: F401

av = pytest.importorskip("av")


@pytest.fixture
def frames(tmp_path):
    """frame_1.png to frame_12.png, and what does not belong to them."""
    folder = tmp_path / "frames"
    for i in range(12):
        write_image(folder / f"frame_{i + 1}.png", picture(i))
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "notes.txt").write_text("shot 3")
    write_image(folder / "thumbs" / "frame_1.png", picture(30))
    return folder


def test_a_folder_is_read_in_the_order_of_its_numbers(frames):
    with open_clip(frames, fps=24) as clip:
        assert (clip.fps, clip.frame_count, clip.has_audio) == (24, 12, False)
        for _ in range(2):  # as often as one likes
            read = list(clip)
            assert [frame.time for frame in read] == [Fraction(i, 24) for i in range(12)]
            for i, frame in enumerate(read):
                np.testing.assert_array_equal(frame.image, picture(i))
    assert FrameFolder(frames).fps == 25


@pytest.mark.parametrize(
    ("fps", "message"), [(0, "fps must be above 0"), (-3, "above 0"), (float("nan"), "above 0"), (1e-4, "above 0")]
)
def test_a_rate_that_is_none_is_refused(frames, fps, message):
    with pytest.raises(ValueError, match=message):
        open_clip(frames, fps)
    with pytest.raises(ValueError, match=message):
        Rate.of(fps)


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture in the folder"):
        open_clip(tmp_path / "empty")


def test_the_command_takes_a_folder_of_frames(tmp_path, frames, capsys, figure_everywhere):  # noqa: F811
    out = tmp_path / "pose.mp4"
    options = ["--fps", "12", "--overlay", str(tmp_path / "both.mp4"), "--keypoints", str(tmp_path / "pose.npz")]
    assert main(["video", str(frames), "-o", str(out), *options]) == 0
    assert "12 frames at 12 per second" in capsys.readouterr().out
    assert [frame.time for frame in all_frames(out)] == [Fraction(i, 12) for i in range(12)]
    assert len(load_npz(tmp_path / "pose.npz")) == len(all_frames(tmp_path / "both.mp4")) == 12


def test_the_command_brings_a_video_to_another_rate_with_its_sound(tmp_path, figure_everywhere):  # noqa: F811
    source = make_film(tmp_path / "in.mp4", count=30, fps=Fraction(30), audio="aac")
    out, both = tmp_path / "pose.mp4", tmp_path / "both.mp4"
    assert main(["video", str(source), "-o", str(out), "--overlay", str(both), "--fps", "16"]) == 0
    assert [frame.time for frame in all_frames(out)] == [Fraction(i, 16) for i in range(16)]
    with av.open(str(both)) as film:
        assert film.streams.audio
    with open_clip(source, 16) as clip:
        assert clip.frame_count == 16
        assert [frame.time for frame in clip] == [Fraction(i, 16) for i in range(16)]


@pytest.mark.parametrize("fps", [None, 8])
def test_an_animated_webp_is_a_clip(tmp_path, figure_everywhere, fps):  # noqa: F811
    first, *others = (Image.fromarray(picture(i)) for i in range(6))
    path, durations = tmp_path / "clip.webp", [50, 50, 100, 50, 50, 200]
    first.save(path, save_all=True, append_images=others, duration=durations, lossless=True)
    with open_clip(path, fps) as clip:
        assert (clip.frame_count, clip.fps) == ((6, 12) if fps is None else (4, 8))
        read = list(clip)
    if fps is None:
        assert [frame.time * 1000 for frame in read] == [0, 50, 100, 200, 250, 300]
        for i, frame in enumerate(read):
            np.testing.assert_array_equal(frame.image, picture(i))
    options = [] if fps is None else ["--fps", str(fps)]
    assert main(["video", str(path), "-o", str(tmp_path / "pose.mp4"), *options]) == 0
    assert [frame.time for frame in all_frames(tmp_path / "pose.mp4")] == [frame.time for frame in read]


@pytest.mark.parametrize("name", ["clip.webp", "clip.gif", "clip.mp4"])
def test_a_last_frame_that_is_held_is_not_lost(tmp_path, capsys, figure_everywhere, name):  # noqa: F811
    """0.3 s of movement and 2 s of its end: at 10 per second 23 frames, and none that was announced is missed."""
    first, *others = (Image.fromarray(picture(i)) for i in range(4))
    path, options = tmp_path / name, {"save_all": True, "append_images": others, "duration": [100, 100, 100, 2000]}
    first.save(path.with_suffix(".gif") if name == "clip.mp4" else path, **options)
    if name == "clip.mp4":
        copy_film(tmp_path / "clip.gif", path)
    with open_clip(path, 10) as clip:
        assert [frame.time for frame in clip] == [Fraction(i, 10) for i in range(23)]
    assert main(["video", str(path), "-o", str(tmp_path / "pose.mp4"), "--fps", "10"]) == 0
    assert "23 frames at 10 per second" in capsys.readouterr().out


def test_times_rounded_to_milliseconds_make_no_frame_more(tmp_path):
    """The last of 30 frames is at 967 ms in a Matroska file, and ends a third of a millisecond after one second."""
    with open_clip(make_film(tmp_path / "in.mkv", count=30, fps=Fraction(30)), 30) as clip:
        assert len(list(clip)) == 30


def test_a_damaged_webp_is_refused_with_its_name(tmp_path, capsys):
    first, *others = (Image.fromarray(picture(i)) for i in range(6))
    path = tmp_path / "clip.webp"
    first.save(path, save_all=True, append_images=others, duration=50, lossless=True)
    whole = path.read_bytes()
    for contents in (b"", b"RIFF", whole[: len(whole) // 2]):
        path.write_bytes(contents)
        assert main(["video", str(path), "-o", str(tmp_path / "pose.mp4"), "--pose", "nowhere.onnx"]) == 2
        assert "clip.webp" in capsys.readouterr().err


def test_stored_keypoints_become_a_film_again(tmp_path, capsys):
    from dwpose_core.preprocessor import DWposeDetector

    detector = DWposeDetector(FigurePose())
    people = detector.detect([np.zeros((96, 128, 3), np.uint8)] * 3)
    save_npz(tmp_path / "clip.npz", people)
    out = tmp_path / "again.mp4"
    assert main(["render", str(tmp_path / "clip.npz"), "-o", str(out), "--fps", "24", "--draw-size", "256x192"]) == 0
    assert "3 frames, 3 people; wrote" in capsys.readouterr().out
    drawn = all_frames(out)
    assert [frame.time for frame in drawn] == [Fraction(i, 24) for i in range(3)]
    assert np.abs(drawn[1].image.astype(int) - render(people[1], (192, 256))).mean() < 6
    for name, fps, message in (("x.mp4", "0", "fps must be above 0"), ("x", "24", "--fps is for films")):
        assert main(["render", str(tmp_path / "clip.npz"), "-o", str(tmp_path / name), "--fps", fps]) == 2
        assert message in capsys.readouterr().err
    save_npz(tmp_path / "mixed.npz", [people[0], People.empty((50, 60))])
    assert main(["render", str(tmp_path / "mixed.npz"), "-o", str(tmp_path / "mixed.mp4")]) == 2
    assert "frames must keep their size" in capsys.readouterr().err
    assert not (tmp_path / "mixed.mp4").exists()


def test_the_command_writes_what_wan_reads(tmp_path, frames, capsys, figure_everywhere):  # noqa: F811
    write_image(tmp_path / "portrait.png", picture(0, 160, 96))
    out = tmp_path / "inputs"
    options = ["--reference", str(tmp_path / "portrait.png"), "--max-pixels", "16384", "-o", str(out)]
    assert main(["animate", str(frames), "--fps", "15", "--source-fps", "30", *options]) == 0
    assert "6 frames of 96 x 160 at 15 per second" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["src_face.mp4", "src_pose.mp4", "src_ref.png"]
    for name, size in (("src_pose.mp4", (160, 96)), ("src_face.mp4", (512, 512))):
        film = all_frames(out / name)
        assert [frame.time for frame in film] == [Fraction(i, 15) for i in range(6)]
        assert film[0].image.shape[:2] == size
    assert film[3].image.any()


def test_a_reference_that_lies_where_it_is_wanted_stays_as_it_is(tmp_path, frames, capsys, figure_everywhere):  # noqa: F811
    """Written anew it would lose its transparency."""
    out = tmp_path / "inputs"
    out.mkdir()
    Image.new("RGBA", (64, 48), (9, 9, 9, 90)).save(out / "src_ref.png")
    before = (out / "src_ref.png").read_bytes()
    options = ["--reference", str(out / "src_ref.png"), "--max-pixels", "16384", "-o", str(out)]
    assert main(["animate", str(frames), *options]) == 0
    assert (out / "src_ref.png").read_bytes() == before
    assert "wrote src_pose.mp4, src_face.mp4 in" in capsys.readouterr().out


def test_animate_says_what_is_wrong_before_it_loads_networks(tmp_path, frames, capsys):
    for arguments, message in (
        (["nowhere.mp4", "-o", "x"], "no video file"),
        ([str(frames), "-o", "x", "--reference", "nobody.png"], "no image file"),
        ([str(frames), "-o", str(frames / "notes.txt")], "names a folder"),
        (["in/src_pose.mp4", "-o", "in"], "is the input"),
        ([str(frames), "-o", str(frames), "--reference", str(frames / "frame_1.png")], "would be one of the frames"),
    ):
        assert main(["animate", *arguments, "--pose", "nowhere.onnx"]) == 2
        assert message in capsys.readouterr().err


def test_a_rate_for_a_video_that_has_its_own_is_refused(tmp_path):
    from dwpose_core.animate import prepare_animation
    from dwpose_core.preprocessor import DWposeDetector

    source = make_film(tmp_path / "in.mp4")
    with pytest.raises(ValueError, match="leave source_fps out"):
        prepare_animation(source, DWposeDetector(FigurePose()), source_fps=24)
