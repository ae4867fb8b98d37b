"""Videos in and out: same frames, same times, same colours, upright, with their sound. All films are made here."""

from __future__ import annotations

import re
import sys
from fractions import Fraction

import numpy as np
import pytest

from dwpose_core.images import check_writable
from dwpose_core.people import People
from dwpose_core.skeleton import NUM_KEYPOINTS
from dwpose_core.tracking import Steady
from dwpose_core.video import Frame, VideoReader, VideoWriter, people_of

av = pytest.importorskip("av")


def picture(i: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Grey that says which frame it is, with a red top left quarter that says which way is up."""
    image = np.full((height, width, 3), 20 + 4 * i, np.uint8)
    image[: height // 2, : width // 2] = (230, 30, 30)
    return image


def make_film(
    path,
    count=12,
    fps=Fraction(25),
    times=None,
    audio=None,
    codec="libx264",
    size=(48, 64),
    start=0,
    aspect=None,
    rate=16000,
):
    """A film; `times` in ticks of 1/1000 s makes its frame rate vary; `start` shifts it in time (seconds)."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps)
        video.height, video.width = size
        video.pix_fmt = "yuv420p"
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if codec == "libx264":
            video.options = {"crf": "10"}
        tick = 1 / fps if times is None else Fraction(1, 1000)
        video.codec_context.time_base = tick
        sound = container.add_stream(audio, rate=rate, layout="mono") if audio else None
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            frame.time_base, frame.pts = tick, (i if times is None else times[i]) + round(start / tick)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            for i in range(0, 16000 * count // 25, 1024):
                tone = (8000 * np.sin(np.arange(i, i + 1024) * 0.2)).astype(np.int16)[None]
                frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
                frame.rate, frame.pts = rate, i + round(start * 16000)
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def copy_film(source, target, **options):
    with VideoReader(source) as video, VideoWriter(target, video, **options) as out:
        for frame in video:
            out.write(frame.image, frame.time, frame.length)
    return target


def all_frames(path) -> list[Frame]:
    with VideoReader(path) as video:
        return list(video)


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(30000, 1001), Fraction(60)])
def test_same_rate_same_count_same_times(tmp_path, fps):
    source = make_film(tmp_path / "in.mp4", fps=fps)
    copy = copy_film(source, tmp_path / "out.mp4")
    with VideoReader(copy) as video:
        assert video.fps == fps
        assert video.frame_count == 12
        frames = list(video)
    for i, (frame, original) in enumerate(zip(frames, all_frames(source), strict=True)):
        assert frame.time == original.time == i / fps
        assert abs(int(frame.image[-1, -1, 0]) - int(picture(i)[-1, -1, 0])) <= 2


def test_variable_frame_rate_keeps_every_frame_at_its_time(tmp_path):
    times = [0, 40, 80, 90, 100, 300, 310, 500, 540, 580, 1000, 1040]
    source = make_film(tmp_path / "in.mp4", times=times)
    frames = all_frames(copy_film(source, tmp_path / "out.mp4"))
    assert [round(float(frame.time) * 1000) for frame in frames] == times


def test_a_film_of_varying_rate_is_as_long_as_its_last_frame_is_late(tmp_path):
    """Frames that come close together first and far apart at the end: decoding times alone would end it at 1.5 s."""
    source = make_film(tmp_path / "in.mkv", times=[0, 10, 20, 500, 510, 520, 1000, 1001, 1002, 1500, 1600, 1700])
    with av.open(str(copy_film(source, tmp_path / "out.mp4"))) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(1.7 + 1 / 25, abs=0.002)


def test_colours_survive_and_the_file_says_what_they_are(tmp_path):
    source = make_film(tmp_path / "in.mp4")
    copy = copy_film(source, tmp_path / "out.mp4")
    assert np.abs(all_frames(copy)[0].image[10, 10].astype(int) - (230, 30, 30)).max() <= 6
    with av.open(str(copy)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, int(context.colorspace), int(context.color_range)) == (
            "h264", "yuv420p", 6, 1,
        )  # fmt: skip


def test_odd_sides_are_extended_to_even_ones(tmp_path):
    source = make_film(tmp_path / "in.mp4")
    with VideoReader(source) as video, VideoWriter(tmp_path / "odd.mp4", video) as out:
        for frame in video:
            out.write(frame.image[:47, :63], frame.time)
    assert all_frames(tmp_path / "odd.mp4")[0].image.shape == (48, 64, 3)


def test_a_last_frame_that_is_held_is_held_in_the_copy(tmp_path):
    """As in most GIFs; also where frames are not decoded in the order they are shown in, as in what is written here."""
    from PIL import Image

    first, *others = (Image.fromarray(picture(i)) for i in range(4))
    first.save(tmp_path / "in.gif", save_all=True, append_images=others, duration=[100, 100, 100, 2000])
    copy = copy_film(tmp_path / "in.gif", tmp_path / "out.mp4")
    for film in (copy, copy_film(copy, tmp_path / "again.mp4")):
        with av.open(str(film)) as container:
            stream = container.streams.video[0]
            assert float(stream.duration * stream.time_base) == pytest.approx(2.3, abs=0.002)


@pytest.mark.parametrize("times", [(0, 1, 1), (0, 2, 1)])
def test_times_that_do_not_rise_are_refused(tmp_path, times):
    with pytest.raises(ValueError, match=r"rising times: 0\.04 s after"):
        with VideoReader(make_film(tmp_path / "in.mp4", count=1)) as video:
            with VideoWriter(tmp_path / "out.mp4", video) as out:
                for time in times:
                    out.write(picture(0), Fraction(time, 25))


def test_the_same_film_gives_the_same_bytes(tmp_path):
    source = make_film(tmp_path / "in.mp4")
    a, b = (copy_film(source, tmp_path / name) for name in ("a.mp4", "b.mp4"))
    assert a.read_bytes() == b.read_bytes()


def test_a_failed_film_leaves_nothing_behind(tmp_path):
    source = make_film(tmp_path / "in.mp4")
    with pytest.raises(RuntimeError), VideoReader(source) as video, VideoWriter(tmp_path / "out.mp4", video) as out:
        for i, frame in enumerate(video):
            if i == 5:
                raise RuntimeError("interrupted")
            out.write(frame.image, frame.time)
    with pytest.raises(ValueError, match="at least one"), VideoReader(source) as video:
        VideoWriter(tmp_path / "out.mp4", video).__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_what_is_no_film_is_refused_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        VideoReader(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("not a film")
    with pytest.raises(ValueError, match=r"text\.mp4"):
        VideoReader(tmp_path / "text.mp4")
    film = make_film(tmp_path / "in.mp4")
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"cut\.mp4"):
        all_frames(tmp_path / "cut.mp4")
    with VideoReader(film) as video, pytest.raises(ValueError, match="mp4"):
        VideoWriter(tmp_path / "out.png", video)


def test_without_av_the_error_names_the_extra(tmp_path, monkeypatch):
    film = make_film(tmp_path / "in.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"dwpose-torch\[video\]"):
        VideoReader(film)


def one_person(offset: float) -> People:
    xy = np.random.default_rng(0).uniform(0, 40, (1, NUM_KEYPOINTS, 2)).astype(np.float32) + np.float32(offset)
    box = np.concatenate((xy.min(1), xy.max(1)), axis=1)
    return People(xy, np.full((1, NUM_KEYPOINTS), 0.9), box, np.ones(1), (48, 64))


@pytest.mark.parametrize("count", [1, 4, 11])
def test_every_frame_comes_back_with_its_own_people(count):
    """The delay of gap filling never shifts people against pictures; frame 4 loses its person and gets them back."""
    frames = [Frame(np.full((48, 64, 3), i, np.uint8), Fraction(i, 25)) for i in range(count)]

    def detect(images):
        numbers = [int(image[0, 0, 0]) for image in images]
        return [People.empty((48, 64)) if n == 4 else one_person(n) for n in numbers]

    results = list(people_of(iter(frames), detect, Steady(), batch_size=3))
    assert [int(frame.image[0, 0, 0]) for frame, _ in results] == list(range(count))
    for i, (_, people) in enumerate(results):
        assert people.id.tolist() == [0]
        np.testing.assert_allclose(people.xy, one_person(i).xy, atol=1e-3)
    plain = list(people_of(iter(frames), detect, None, batch_size=3))
    assert [len(people) for _, people in plain] == [int(i != 4) for i in range(count)]


@pytest.fixture
def figure_everywhere(monkeypatch):
    """`dwpose video` with networks that need no weights: one figure fills every frame."""
    from dwpose_core import arguments
    from dwpose_core.preprocessor import DWposeDetector

    from .stand_ins import FigurePose

    monkeypatch.setattr(arguments, "load_networks", lambda args, with_detector=True: DWposeDetector(FigurePose()))


def test_the_command_writes_maps_overlay_and_keypoints(tmp_path, capsys, figure_everywhere):
    from dwpose_core.cli import main
    from dwpose_core.formats import from_openpose, load_npz
    from dwpose_core.render import render

    source = make_film(tmp_path / "in.mp4", count=20, audio="aac", size=(96, 128))
    outputs = [tmp_path / name for name in ("pose.mp4", "both.mp4", "pose.npz")]
    command = ["video", str(source), "-o", str(outputs[0]), "--overlay", str(outputs[1])]
    assert main([*command, "--keypoints", str(outputs[2])]) == 0
    assert "20 frames at 25 per second, 1.0 people each, 1 tracks" in capsys.readouterr().out
    people = load_npz(outputs[2])
    frames = all_frames(outputs[0])
    assert len(people) == len(frames) == 20
    assert np.abs(frames[9].image.astype(int) - render(people[9])).mean() < 6
    with av.open(str(outputs[1])) as container:
        assert len(container.streams.audio) == 1
    over = all_frames(outputs[1])[9].image
    assert np.abs(over[:5, :5].astype(int) - picture(9)[:5, :5]).mean() < 6  # the picture shows beside the figure
    assert main([*command, "--keypoints", str(tmp_path / "pose.json"), "--draw-size", "64", "--raw"]) == 0
    assert len(from_openpose((tmp_path / "pose.json").read_bytes())) == 20
    assert all_frames(outputs[0])[0].image.shape == (64, 86, 3)  # 85 made even


def test_the_command_refuses_to_overwrite_its_input_and_says_what_is_missing(tmp_path, capsys, figure_everywhere):
    from dwpose_core.cli import main

    source = make_film(tmp_path / "in.mp4")
    assert main(["video", str(source), "-o", str(source)]) == 2
    twice = str(tmp_path / "twice.mp4")
    assert main(["video", str(source), "-o", twice, "--overlay", twice]) == 2
    assert "named twice" in capsys.readouterr().err
    for options in (["-o", "pose.gif"], ["-o", twice, "--overlay", "both.gif"]):
        assert main(["video", str(source), *options, "--pose", "nowhere.onnx"]) == 2
        assert "written as .mp4" in capsys.readouterr().err
    assert main(["video", str(tmp_path / "no.mp4"), "-o", str(tmp_path / "o.mp4")]) == 2
    assert "no video file" in capsys.readouterr().err


def test_max_people_follows_one_of_two_whose_boxes_are_surest_in_turn(tmp_path, monkeypatch):
    from dwpose_core import arguments
    from dwpose_core.cli import main
    from dwpose_core.formats import load_npz
    from dwpose_core.pipeline import Options
    from dwpose_core.preprocessor import DWposeDetector

    from .stand_ins import FigurePose, TwoInTurn

    def networks(args, with_detector=True):
        return DWposeDetector(FigurePose(), TwoInTurn(), Options(max_people=args.max_people))

    monkeypatch.setattr(arguments, "load_networks", networks)
    source = make_film(tmp_path / "in.mp4", count=11)
    command = ["video", str(source), "-o", str(tmp_path / "pose.mp4"), "--keypoints", str(tmp_path / "pose.npz")]
    assert main([*command, "--max-people", "1"]) == 0
    lefts = [people.box[:, 0].tolist() for people in load_npz(tmp_path / "pose.npz")]
    assert lefts == [lefts[0]] * 11 and len(lefts[0]) == 1
    assert main([*command, "--max-people", "1", "--raw"]) == 0  # every frame by itself
    lefts = [people.box[:, 0].tolist() for people in load_npz(tmp_path / "pose.npz")]
    assert lefts[0] != lefts[1] and [len(left) for left in lefts] == [1] * 11
    looked = TwoInTurn()
    monkeypatch.setattr(
        arguments, "load_networks", lambda args, with_detector=True: DWposeDetector(FigurePose(), looked)
    )
    assert main([*command, "--detect-every", "4", "--batch-size", "3"]) == 0  # frames 0, 3, 7, 10
    people = load_npz(tmp_path / "pose.npz")
    assert looked.pictures == 4 and [len(frame) for frame in people] == [2] * 11


@pytest.mark.parametrize("option", ["-o", "--overlay", "--keypoints"])
def test_what_cannot_be_written_is_named_before_the_film(tmp_path, monkeypatch, capsys, option):
    from dwpose_core import arguments
    from dwpose_core.cli import main

    monkeypatch.setattr(arguments, "load_networks", lambda args: pytest.fail("begun"))
    source = make_film(tmp_path / "in.mp4", count=3)
    name = source / ("pose.npz" if option == "--keypoints" else "both.mp4")  # in a folder that is a file
    assert main(["video", str(source), "-o", str(tmp_path / "pose.mp4"), option, str(name)]) == 2
    assert f"{name} cannot be written (" in capsys.readouterr().err
    assert main(["animate", str(source), "-o", str(source / "inputs")]) == 2
    assert "src_pose.mp4 cannot be written (" in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"{re.escape(str(name))} cannot be written"):
        check_writable(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]


def test_the_command_says_that_its_input_was_cut_short(tmp_path, monkeypatch, capsys):
    """As half of a download is: the header of 50 frames comes first, and FFmpeg reads what is there without a word."""
    from dwpose_core import arguments
    from dwpose_core.cli import main
    from dwpose_core.preprocessor import DWposeDetector

    from .stand_ins import FigurePose

    monkeypatch.setattr(arguments, "load_networks", lambda args: DWposeDetector(FigurePose()))
    source = make_film(tmp_path / "in.avi", count=50, codec="mpeg4")
    data = source.read_bytes()
    chunks = [found.start() for found in re.finditer(b"00dc", data[: data.index(b"idx1")])]
    source.write_bytes(data[: chunks[25]])  # between two frames: half a frame is damage to some builds of FFmpeg
    assert main(["video", str(source), "-o", str(tmp_path / "pose.mp4")]) == 1
    assert re.search(r"in\.avi ends after \d+ of the 50 frames", capsys.readouterr().err)
    assert 5 < len(all_frames(tmp_path / "pose.mp4")) < 50  # what there is is not lost


def test_a_film_that_cannot_be_written_is_named(tmp_path):
    name = make_film(tmp_path / "in.mp4", count=1) / "out.mp4"
    with VideoReader(tmp_path / "in.mp4") as video, pytest.raises(ValueError, match=re.escape(f"{name} cannot be")):
        VideoWriter(name, video)


def test_frames_that_the_encoder_refuses_are_said(tmp_path):
    with pytest.raises(ValueError, match="at most 16384 pixels a side, got 16386 x 4"):
        with VideoReader(make_film(tmp_path / "in.mp4", count=1)) as video:
            with VideoWriter(tmp_path / "out.mp4", video) as out:
                out.write(np.zeros((4, 16385, 3), np.uint8), Fraction(0))
