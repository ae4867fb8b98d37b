"""Pose and face videos for animation pipelines: drawing, sizes, frame rates, the face's path."""

from __future__ import annotations

import zlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from dwpose_core import animate
from dwpose_core.animate import FACE_SIZE, draw_wan, fit_size, prepare_animation
from dwpose_core.people import People
from dwpose_core.pipeline import Options
from dwpose_core.render import render
from tests.animate_tools import Watcher, figure, film, walk


@pytest.mark.parametrize(
    ("scene", "threshold", "crc"),
    [("a", 0.3, 4039096286), ("a", 0.5, 2093566728), ("b", 0.3, 1700584424), ("b", 0.5, 620640978)],
)
def test_drawing_is_wan_animates(shared, scene, threshold, crc):
    """Checksums of what Wan2.2's own program draws from these keypoints (commit of March 2026)."""
    data = np.load(shared / "golden" / "render" / f"{scene}_scene.npz")
    size, count = (int(data["H"]), int(data["W"])), len(data["keypoints133"])
    people = People(data["keypoints133"], data["scores133"], np.zeros((count, 4)), np.ones(count), size)
    assert zlib.crc32(draw_wan(people, threshold).tobytes()) == crc


@pytest.mark.parametrize(
    ("size", "pixels", "expected"),
    [
        ((720, 1280), 1280 * 720, (720, 1280)),
        ((1080, 1920), 1280 * 720, (720, 1280)),
        ((1920, 1080), 832 * 480, (832, 464)),  # 842.5 x 473.9
        ((100, 100), 512 * 512, (512, 512)),
        ((10, 10000), 10000, (16, 3152)),
    ],
)
def test_sizes(size, pixels, expected):
    assert fit_size(size, pixels) == expected


def test_sizes_too_small_are_refused():
    with pytest.raises(ValueError, match="256"):
        fit_size((100, 100), 100)


def test_lists_of_frames():
    watcher = Watcher(walk(12))
    made = prepare_animation(film(12), watcher, max_pixels=320 * 256, progress=False)
    assert watcher.seen == list(range(12))
    assert (made.width, made.height, made.fps) == (320, 256, 30)
    assert len(made.pose_video) == len(made.face_video) == len(made.people) == 12
    assert {picture.size for picture in made.face_video} == {(FACE_SIZE, FACE_SIZE)}
    for person, pose_map in zip(made.people, made.pose_video, strict=True):
        np.testing.assert_array_equal(np.array(pose_map), draw_wan(person))
    # 200 x 160 becomes 320 x 256: everything times 1.6, here at the first frame, which no filter has touched.
    np.testing.assert_allclose(made.people[0].xy, figure(center=(60, 80)).xy * 1.6, atol=1e-3)
    assert made.inputs().keys() == {"pose_video", "face_video", "height", "width"}


def test_the_face_is_cut_out_with_more_room_above():
    """A face of radius 40 around row 70 of a picture whose rows say their number: the crop's middle is 2.8 above."""
    frame = np.repeat(np.arange(250, dtype=np.uint8), 200 * 3).reshape(250, 200, 3)
    made = prepare_animation([frame], Watcher([figure((100, 270), (250, 200), scale=4)]), progress=False)
    assert np.array(made.face_video[0])[256, 256, 0] == pytest.approx(67.2, abs=1)


def test_every_kind_of_frames_gives_the_same():
    frames = film(4)
    kinds = (
        [Image.fromarray(frame) for frame in frames],
        np.stack(frames),
        torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack(frames)) / 255,
    )
    made = [prepare_animation(kind, Watcher(walk(4)), max_pixels=64 * 64, progress=False) for kind in (frames, *kinds)]
    for other in made[1:]:
        for videos in zip(made[0].pose_video + made[0].face_video, other.pose_video + other.face_video, strict=True):
            np.testing.assert_array_equal(*map(np.array, videos))


def test_no_frame_of_a_nested_list_is_lost():
    """As in what diffusers' pipelines return, a list of films; and one picture is one frame."""
    frames = film(4)
    for video in ([frames], [np.stack(frames)], np.stack(frames)[None], [frames[0], np.stack(frames[1:])]):
        watcher = Watcher(walk(4))
        assert len(prepare_animation(video, watcher, max_pixels=64 * 64, progress=False).pose_video) == 4
        assert watcher.seen == [0, 1, 2, 3]
    assert len(prepare_animation(frames[0], Watcher(walk(1)), max_pixels=64 * 64, progress=False).pose_video) == 1


@pytest.mark.parametrize(
    ("source_fps", "fps", "count", "expected"),
    [
        (30, 30, 7, [0, 1, 2, 3, 4, 5, 6]),
        (30, 15, 8, [0, 2, 4, 6]),
        (15, 30, 4, [0, 0, 1, 1, 2, 2, 3, 3]),
        (25, 30, 5, [0, 1, 2, 2, 3, 4]),  # 0, .83, 1.67, 2.5, 3.33, 4.17
        (None, None, 3, [0, 1, 2]),
        (24, None, 3, [0, 1, 2]),
    ],
)
def test_frame_rates(source_fps, fps, count, expected):
    watcher = Watcher(walk(count, step=0))
    made = prepare_animation(film(count), watcher, fps=fps, source_fps=source_fps, max_pixels=64 * 64, progress=False)
    assert watcher.seen == expected
    assert made.fps == (fps or source_fps or 30)


def test_from_a_file(tmp_path):
    """12 frames at 24 per second are half a second: 15 frames at 30, 12 at their own rate."""
    av = pytest.importorskip("av", reason='needs PyAV: pip install "dwpose-torch[video]"')
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 200, 160, "yuv420p"
        for number in range(12):
            picture = av.VideoFrame.from_ndarray(np.full((160, 200, 3), 10 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    watcher = Watcher({value: figure() for value in range(256)})
    made = prepare_animation(path, watcher, max_pixels=64 * 64, progress=False)
    assert len(made.pose_video) == 15
    assert made.fps == 30
    own = prepare_animation(path, watcher, fps=None, max_pixels=64 * 64, progress=False)
    assert len(own.pose_video) == 12
    assert own.fps == 24
    assert Fraction(own.fps) == 24


def test_the_face_crop_does_not_shake():
    """Boxes that tremble by three pixels: the crop's path is smoother, has one size, and keeps the face in view."""
    rng = np.random.default_rng(0)
    frames = [figure(center=np.float32((100, 80)) + rng.normal(0, 3, 2)) for _ in range(40)]
    images = film(40)
    for image, person in zip(images, frames, strict=True):
        x, y = person.xy[0, 0].round().astype(int)
        image[y - 2 : y + 3, x - 2 : x + 3] = 255  # the nose
    made = prepare_animation(images, Watcher(frames), max_pixels=160 * 208, progress=False)
    noses = []
    for picture in made.face_video:
        rows, columns = np.nonzero(np.array(picture)[:, :, 1] > 200)
        assert len(rows), "the face left its crop"
        noses.append((columns.mean(), rows.mean()))
    scale = FACE_SIZE / round(20 * 1.3**0.5)  # of the crop; the face circle is 20 pixels wide
    # In the picture the trembling stays, as it is the person who moves: the crop does not follow it.
    assert np.std(noses, axis=0).min() > 0.5 * 3 * scale
    # More forehead than chin: the nose, the middle of the face here, is below the middle of the crop.
    lift = (1.3**0.5 - 1) / 4 * 20 * scale
    np.testing.assert_allclose(np.mean(noses, axis=0), (256, 256 + lift), atol=0.1 * FACE_SIZE)


def test_a_face_that_turns_away_leaves_no_hole():
    frames = walk(20)
    for number in range(6, 12):
        score = frames[number].score.copy()
        score[:, 23:91] = 0
        frames[number] = replace(frames[number], score=score)
    made = prepare_animation(film(20), Watcher(frames), max_pixels=160 * 208, progress=False)
    assert all(np.array(picture).any() for picture in made.face_video)


def test_no_face_at_all_is_black_and_said():
    frames = [replace(person, score=np.where(np.arange(133) < 23, 1, 0)[None]) for person in walk(4)]
    with pytest.warns(UserWarning, match="no face"):
        made = prepare_animation(film(4), Watcher(frames), max_pixels=64 * 64, progress=False)
    assert not any(np.array(picture).any() for picture in made.face_video)
    assert all(np.array(picture).any() for picture in made.pose_video)


def test_one_person_is_followed_among_others():
    """The larger one, from frame to frame, whatever the order in which they are found."""
    large, small = walk(10, scale=1.2), [figure(center=(150, 100), scale=0.5) for _ in range(10)]
    frames = []
    for number, pair in enumerate(zip(large, small, strict=True)):
        a, b = pair if number % 2 else pair[::-1]
        joined = {name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in ("xy", "score", "box")}
        frames.append(replace(a, **joined, box_score=np.ones(2)))
    made = prepare_animation(film(10), Watcher(frames), max_pixels=200 * 160, progress=False)
    assert [len(person) for person in made.people] == [1] * 10
    heights = [np.ptp(person.xy[0, :, 1]) for person in made.people]
    assert min(heights) > 100
    everyone = prepare_animation(film(10), Watcher(frames), people=None, max_pixels=200 * 160, progress=False)
    assert [len(person) for person in everyone.people] == [2] * 10


@pytest.mark.parametrize("people", [1, 2, None])
def test_the_face_is_that_of_the_person_selected_first(people):
    """Who is larger comes two frames after somebody smaller, who stands in the right half, which is darker."""
    large, small = figure(center=(60, 80), scale=1.2), figure(center=(150, 100), scale=0.5)
    joined = {name: np.concatenate([getattr(large, name), getattr(small, name)]) for name in ("xy", "score", "box")}
    frames = [small] * 2 + [replace(large, **joined, box_score=np.ones(2))] * 8
    images = film(10)
    for image in images:
        image[:, 100:, 1] = 10
    made = prepare_animation(images, Watcher(frames), people=people, max_pixels=64 * 64, progress=False)
    assert [int(np.array(picture)[256, 256, 1]) for picture in made.face_video] == [90] * 10


@pytest.mark.filterwarnings("ignore:no face")
def test_points_above_a_lower_threshold_are_steadied_too():
    """Of score 0.25: drawn where the threshold is 0.2, so they must not shake there, and not vanish for a frame."""
    noise, person = np.random.default_rng(0).normal(0, 2, (30, 1, 133, 2)), figure()
    frames = [replace(person, xy=person.xy + shift, score=np.full((1, 133), 0.25)) for shift in noise]
    frames[20] = replace(person, score=np.zeros((1, 133)))
    jitter = []
    for threshold in (0.3, 0.2):
        watcher = Watcher(frames)
        watcher.options = Options(keypoint_threshold=threshold)
        made = prepare_animation(film(30), watcher, max_pixels=160 * 208, progress=False)
        jitter.append(np.abs(np.diff([person.xy[0] for person in made.people], axis=0)).mean())
    assert jitter[1] < 0.5 * jitter[0]
    assert made.people[20].score.min() > 0.2


def test_reference_gives_the_shape():
    """A tall reference for a wide video: the pose is whole and in the middle, as Wan's own program pads it."""
    made = prepare_animation(
        film(3),
        Watcher(walk(3, step=0)),
        reference=np.zeros((400, 200, 3), np.uint8),
        max_pixels=208 * 416,
        progress=False,
    )
    assert (made.width, made.height) == (208, 416)
    factor = 208 / 200
    expected = figure(center=(60, 80)).xy * factor + np.float32([0, (416 - 160 * factor) / 2])
    np.testing.assert_allclose(made.people[0].xy, expected, atol=1e-2)


def test_retargeting_takes_the_place_of_the_reference():
    character = figure(center=(150, 250), size=(400, 300), scale=2.0)
    picture = np.full((400, 300, 3), 200, np.uint8)
    watcher = Watcher([*walk(5), *[None] * 195, character])
    made = prepare_animation(film(5), watcher, reference=picture, retarget=True, max_pixels=300 * 400, progress=False)
    first = made.people[0]
    factor = np.float32([made.width / 300, made.height / 400])
    np.testing.assert_allclose(first.xy[0, :17], character.xy[0, :17] * factor, atol=1.0)
    watcher = Watcher([*walk(5), *[None] * 195, character[:0]])
    with pytest.raises(ValueError, match="reference"):
        prepare_animation(film(5), watcher, reference=picture, retarget=True, progress=False)


def test_who_is_selected_first_takes_the_place_of_the_reference():
    """And not who is in the film first, of two."""
    large, small = figure(center=(60, 80), scale=1.2), figure(center=(150, 100), scale=0.5)
    joined = {name: np.concatenate([getattr(large, name), getattr(small, name)]) for name in ("xy", "score", "box")}
    both = replace(large, **joined, box_score=np.ones(2))
    character = figure(center=(150, 250), size=(400, 300), scale=2.0)
    watcher = Watcher([small, small, *[both] * 8, *[None] * 190, character])
    options = {"reference": np.full((400, 300, 3), 200, np.uint8), "retarget": True, "people": 2, "progress": False}
    made = prepare_animation(film(10), watcher, max_pixels=300 * 400, **options)
    factor = np.float32([made.width / 300, made.height / 400])
    np.testing.assert_allclose(made.people[9].xy[0, :17], character.xy[0, :17] * factor, atol=1.0)


def test_other_styles():
    made = prepare_animation(film(2), Watcher(walk(2)), style="dwpose", max_pixels=160 * 208, progress=False)
    np.testing.assert_array_equal(np.array(made.pose_video[0]), render(made.people[0], style="dwpose"))


@pytest.mark.parametrize(
    ("video", "options", "message"),
    [
        ([], {}, "no frames"),
        (film(2), {"retarget": True}, "reference"),
        (film(2), {"fps": 0}, "fps"),
        (film(2), {"fps": 1e-6}, "fps"),
        (film(2), {"fps": 1e9}, "fps"),
        (film(2), {"source_fps": -3}, "fps"),
        (film(2), {"source_fps": float("inf")}, "fps"),
        (film(2), {"steadiness": float("nan")}, "steadiness"),
        (film(2), {"people": 0}, "people"),
        (film(2), {"select": "prettiest"}, "largest"),
        (film(2), {"style": "cubist"}, "dwpose"),
        (film(2), {"max_pixels": 10}, "max_pixels"),
        (film(2), {"reference": "nowhere.png"}, "nowhere.png"),
        (film(2), {"reference": film(2)}, "reference must be one picture, got 2"),
    ],
)
def test_mistakes_are_named_before_the_film_is_looked_at(video, options, message):
    watcher = Watcher([])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare_animation(video, watcher, **({"progress": False, "max_pixels": 64 * 64} | options))


def test_nobody():
    with pytest.raises(ValueError, match="nobody"):
        prepare_animation(film(2), Watcher([figure()[:0]] * 2), progress=False)


def test_frames_are_gone_through_one_by_one():
    """The clip holds no frames but the one it compares the next one with."""
    taken = []

    class Frames(list):
        def __iter__(self):
            for number, frame in enumerate(list.__iter__(self)):
                taken.append(number)
                yield frame

    for number, frame in enumerate(animate._Clip(Frames(film(5)), 30, 30)):
        assert int(frame.image[0, 0, 0]) == number
        assert len(taken) <= number + 2
