"""Films as a player shows them: upright, with square pixels, at their own times, whatever wrote them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from dwpose_core.video import VideoReader

from .test_video import all_frames, copy_film, make_film, picture

av = pytest.importorskip("av")


def test_the_rate_of_what_a_browser_records_is_measured(tmp_path):
    """Browsers write no frame duration into their WebM; FFmpeg then guesses 1000 per second, the tick of the file."""
    source = make_film(tmp_path / "in.mkv", count=30, times=[33 * i + 7 * i * i % 13 for i in range(30)])
    data = source.read_bytes()
    at = data.index(b"\x23\xe3\x83\x84")  # DefaultDuration, four bytes: make it a void element of the same length
    source.write_bytes(data[:at] + b"\xec\x86" + bytes(6) + data[at + 8 :])
    with VideoReader(source) as video:
        assert float(video.fps) == pytest.approx(1000 / 33, rel=0.02)
        assert len(list(video)) == 30


def with_matrix(film, a, b, c, d):
    """The display matrix in the file's header turns the picture; its 9 numbers are 16.16 and 2.30 fixed point."""
    data = bytearray(film.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, then 5 ints, then layer, group, volume and padding
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data[at : at + 36] = b"".join((value & 0xFFFFFFFF).to_bytes(4, "big") for value in matrix)
    film.write_bytes(data)
    return film


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotation_flags_are_obeyed(tmp_path, angle):
    cos, sin = round(np.cos(np.radians(angle))), round(np.sin(np.radians(angle)))
    source = with_matrix(make_film(tmp_path / "in.mp4"), cos, sin, -sin, cos)
    image = all_frames(source)[0].image
    expected = np.rot90(picture(0), -angle // 90)  # the matrix turns clockwise
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 4
    # and what is written is upright, with no flag
    assert all_frames(copy_film(source, tmp_path / "out.mp4"))[0].image.shape == expected.shape


@pytest.mark.parametrize(
    ("matrix", "mirror"),
    [
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda image: image[::-1, ::-1].swapaxes(0, 1)),
    ],
)
def test_mirrored_films_are_mirrored(tmp_path, matrix, mirror):
    """A point (x, y) goes to (a x + c y, b x + d y): what is mirrored was turned by half a circle."""
    image = all_frames(with_matrix(make_film(tmp_path / "in.mp4"), *matrix))[0].image
    expected = mirror(picture(0))
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4", ".flv"])
def test_tags_in_any_encoding_do_no_harm(tmp_path, suffix):
    """Old programs wrote the titles of films in the alphabet of their country."""
    path = tmp_path / f"in{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "XcafeX"
        video = container.add_stream("mpeg4" if suffix == ".avi" else "libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        for i in range(3):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        container.mux(video.encode(None))
    data = path.read_bytes()
    assert b"XcafeX" in data
    path.write_bytes(data.replace(b"XcafeX", b"Xcaf\xe9X"))
    assert len(all_frames(path)) == 3


def test_the_picture_of_a_cover_is_not_the_film(tmp_path):
    film = make_film(tmp_path / "in.mp4", count=5)
    with av.open(str(film)) as source, av.open(str(tmp_path / "cover.mkv"), "w") as target:
        cover = target.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 96, 96, "yuvj420p"
        stream = source.streams.video[0]
        out = target.add_stream_from_template(stream)
        out.disposition = av.stream.Disposition.default
        target.mux(cover.encode(av.VideoFrame.from_ndarray(picture(0, 96, 96), format="rgb24")))
        target.mux(cover.encode(None))
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = out
                target.mux(packet)
    assert [frame.image.shape for frame in all_frames(tmp_path / "cover.mkv")] == [(48, 64, 3)] * 5


def test_a_film_can_be_read_more_than_once(tmp_path):
    with VideoReader(make_film(tmp_path / "in.mp4", count=5, start=2)) as video:
        next(iter(video))
        for _ in range(2):
            assert [frame.time for frame in video] == [Fraction(i, 25) for i in range(5)]


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
