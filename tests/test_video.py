"""Videos in and out: same frames, same times, same colours, upright, with their sound. All films are made here."""

from __future__ import annotations

import re
import sys
from fractions import Fraction

import numpy as np
import pytest

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
            out.write(frame.image, frame.time)
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


def test_the_rate_of_what_a_browser_records_is_measured(tmp_path):
    """Browsers write no frame duration into their WebM; FFmpeg then guesses 1000 per second, the tick of the file."""
    source = make_film(tmp_path / "in.mkv", count=30, times=[33 * i + 7 * i * i % 13 for i in range(30)])
    data = source.read_bytes()
    at = data.index(b"\x23\xe3\x83\x84")  # DefaultDuration, four bytes: make it a void element of the same length
    source.write_bytes(data[:at] + b"\xec\x86" + bytes(6) + data[at + 8 :])
    with VideoReader(source) as video:
        assert float(video.fps) == pytest.approx(1000 / 33, rel=0.02)
        assert len(list(video)) == 30


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


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotation_flags_are_obeyed(tmp_path, angle):
    """The display matrix in the file's header turns the picture; the 9 numbers are 16.16 and 2.30 fixed point."""
    source = make_film(tmp_path / "in.mp4")
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, then 5 ints, then layer, group, volume and padding
    cos, sin = round(np.cos(np.radians(angle))), round(np.sin(np.radians(angle)))
    matrix = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    data[at : at + 36] = b"".join((value & 0xFFFFFFFF).to_bytes(4, "big") for value in matrix)
    source.write_bytes(data)
    image = all_frames(source)[0].image
    expected = np.rot90(picture(0), -angle // 90)  # the matrix turns clockwise
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 4
    # and what is written is upright, with no flag
    assert all_frames(copy_film(source, tmp_path / "out.mp4"))[0].image.shape == expected.shape


@pytest.mark.parametrize(("aspect", "width"), [(Fraction(64, 45), 91), (Fraction(1, 2), 32), (Fraction(404, 405), 64)])
def test_wide_pixels_become_square_ones(tmp_path, aspect, width):
    """A DVD's 16:9 is stored as 720 x 576; an aspect near 1 is left by whoever scaled to even sides."""
    source = make_film(tmp_path / "in.mp4", count=2, aspect=aspect)
    image = all_frames(source)[0].image
    assert image.shape == (48, width, 3)
    red = (image[:24, :, 0] > 130).mean(0)  # the top left quarter
    assert abs((red > 0.5).sum() - width / 2) <= 1


def test_a_stream_that_changes_its_size_keeps_that_of_its_first_frame(tmp_path):
    parts = [make_film(tmp_path / f"{side}.ts", count=3, size=(side, side)) for side in (48, 96)]
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert {frame.image.shape for frame in all_frames(tmp_path / "joined.ts")} == {(48, 48, 3)}
    assert len(all_frames(tmp_path / "joined.ts")) == 6
    copy = copy_film(tmp_path / "joined.ts", tmp_path / "out.mp4")
    assert len(all_frames(copy)) == 6


@pytest.mark.parametrize(
    ("audio", "suffix", "kept"),
    [("aac", ".mp4", "aac"), ("libmp3lame", ".mkv", "mp3float"), ("pcm_s16le", ".mkv", "aac")],
)
@pytest.mark.parametrize("start", [0, 2])
def test_sound_is_kept_on_request(tmp_path, audio, suffix, kept, start):
    source = make_film(tmp_path / f"in{suffix}", count=50, audio=audio, start=start)
    copy_film(source, tmp_path / "silent.mp4")
    copy_film(source, tmp_path / "loud.mp4", audio=True)
    with av.open(str(tmp_path / "silent.mp4")) as container:
        assert not container.streams.audio
    with av.open(str(tmp_path / "loud.mp4")) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.name == kept
        frames = list(container.decode(sound))
        samples = np.concatenate([frame.to_ndarray().ravel() for frame in frames])
    assert len(samples) == pytest.approx(32000, abs=4096)  # 50 frames at 25 fps: two seconds
    assert float(frames[0].pts * frames[0].time_base) == pytest.approx(0, abs=0.07)
    assert np.abs(samples).mean() > 0.05  # the tone, not silence


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


def test_keypoints_that_cannot_be_written_are_told_before_the_film(tmp_path, monkeypatch, capsys):
    from dwpose_core import arguments, images
    from dwpose_core.cli import main

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arguments, "load_networks", lambda args: pytest.fail("begun"))
    monkeypatch.setattr(images.Path, "touch", full)
    source = make_film(tmp_path / "in.mp4", count=3)
    command = ["video", str(source), "-o", str(tmp_path / "pose.mp4"), "--keypoints", str(tmp_path / "pose.npz")]
    assert main(command) == 2
    assert "pose.npz cannot be written (No space left on device)" in capsys.readouterr().err
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


def test_what_a_trimmed_clip_hides_is_not_announced(tmp_path):
    """Cut without encoding: all packets from a key frame on are kept, an edit list hides those before the cut."""
    whole = make_film(tmp_path / "whole.mp4", count=50)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        stream = source.streams.video[0]
        out = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                cut = round(Fraction(30, 25) / stream.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - cut, packet.dts - cut, out
                target.mux(packet)
    with VideoReader(tmp_path / "cut.mp4") as video:
        assert video.frame_count == len(list(video)) == 20


@pytest.mark.parametrize(("rate", "kept"), [(11024, 11025), (37800, 44100), (192000, 96000), (16000, 16000)])
def test_sound_of_any_rate_becomes_aac(tmp_path, rate, kept):
    source = make_film(tmp_path / "in.mkv", count=25, audio="pcm_s16le", rate=rate)
    copy_film(source, tmp_path / "out.mp4", audio=True)
    with av.open(str(tmp_path / "out.mp4")) as container:
        sound = container.streams.audio[0]
        assert sound.rate == kept
        seconds = sum(frame.samples for frame in container.decode(sound)) / kept
    assert seconds == pytest.approx(16000 / rate, rel=0.1, abs=0.05)


def test_frames_that_the_encoder_refuses_are_said(tmp_path):
    with pytest.raises(ValueError, match="at most 16384 pixels a side, got 16386 x 4"):
        with VideoReader(make_film(tmp_path / "in.mp4", count=1)) as video:
            with VideoWriter(tmp_path / "out.mp4", video) as out:
                out.write(np.zeros((4, 16385, 3), np.uint8), Fraction(0))
