"""Maps against the original programs' pixels, and what can go wrong with coordinates, sizes and options."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from dwpose_core.people import People
from dwpose_core.render import STYLES, overlay, render


def scene_people(shared, name: str) -> People:
    scene = np.load(shared / "golden" / "render" / f"{name}_scene.npz")
    count = len(scene["keypoints133"])
    size = int(scene["H"]), int(scene["W"])
    return People(scene["keypoints133"], scene["scores133"], np.zeros((count, 4)), np.ones(count), size)


def figure(size=(256, 192), count=1, score=1.0) -> People:
    """Standing people side by side: 133 distinct points inside the image."""
    rng = np.random.default_rng(3)
    height, width = size
    xy = rng.uniform(0.1, 0.9, (1, 133, 2)) * (width, height) + 0.3 * np.arange(count)[:, None, None]
    return People(xy, np.full((count, 133), score), np.zeros((count, 4)), np.ones(count), size)


def with_points(people: People, points: dict[int, tuple[float, float]]) -> People:
    """Only these points visible."""
    xy, score = people.xy.copy(), np.zeros_like(people.score)
    for index, place in points.items():
        xy[:, index], score[:, index] = place, 1
    return replace(people, xy=xy, score=score)


def pixels(image: np.ndarray) -> np.ndarray:
    return image.any(axis=2)


@pytest.mark.parametrize("scene", ["a", "b"])
@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("idea", {"style": "dwpose"}),
        ("controlnet_aux_512", {"style": "dwpose"}),  # scene b is detected and drawn at another size than its image
        ("comfy", {"style": "openpose"}),
        ("comfy_xinsr", {"style": "xinsir"}),
        ("comfy_body_only", {"parts": ["body"]}),
    ],
)
def test_maps_are_the_original_programs_pixels(shared, scene, program, options):
    expected = cv2.imread(str(shared / "golden" / "render" / f"{scene}_{program}.png"))[:, :, ::-1]
    got = render(scene_people(shared, scene), expected.shape[:2], **options)
    np.testing.assert_array_equal(got, expected)


def test_styles_are_told_apart_by_the_goldens(shared):
    maps = [render(scene_people(shared, "b"), style=style) for style in STYLES]
    assert not np.array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[0], maps[2])


@pytest.mark.parametrize(
    ("style", "drawn"),
    [("openpose", True), ("dwpose", False)],  # >= and > for the body
)
def test_a_body_score_of_exactly_the_threshold(style, drawn):
    people = replace(figure(), score=np.full((1, 133), 0.3, np.float32))
    assert pixels(render(people, style=style, parts="body")).any() == drawn
    assert pixels(render(people, style=style, parts="hand")).any()
    # a neck needs both shoulders strictly above, in every style
    shoulders = replace(people, score=np.where(np.isin(np.arange(133), (5, 6)), np.float32(0.3), 0)[None])
    assert len(np.unique(render(shoulders, style=style, parts="body").reshape(-1, 3), axis=0)) == (3 if drawn else 1)


def test_threshold_selects_points():
    people = figure(score=0.5)
    assert not pixels(render(people, threshold=0.51)).any()
    assert pixels(render(people, threshold=0.49)).any()


def test_a_bigger_map_is_drawn_not_resized():
    people = with_points(figure(size=(100, 80)), {0: (40, 50)})
    for scale in (1, 3):
        dot = pixels(render(people, (100 * scale, 80 * scale)))
        assert np.argwhere(dot).mean(axis=0).tolist() == [50 * scale, 40 * scale]
        assert np.ptp(np.argwhere(dot), axis=0).tolist() == [8, 8]  # radius 4 at every size
    assert np.argwhere(pixels(render(people, (50, 160)))).mean(axis=0).tolist() == [25, 80]  # each axis by itself


@pytest.mark.parametrize(("thickness", "width"), [(1, 9), (2, 17), (0.5, 5), (0.01, 3)])
def test_thickness_scales_dots(thickness, width):
    dot = pixels(render(with_points(figure(), {0: (90, 90)}), thickness=thickness))
    assert np.ptp(np.argwhere(dot), axis=0).tolist() == [width - 1, width - 1]


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("thickness", [4e4, 1e9, 1e308])
def test_any_thickness_can_be_drawn(thickness, antialias):
    assert pixels(render(figure(), thickness=thickness, antialias=antialias)).all()
    hand = with_points(figure(), dict.fromkeys(range(91, 112), (90, 90)))
    assert pixels(render(hand, thickness=thickness, antialias=antialias)).all()


@pytest.mark.parametrize(("side", "half_width"), [(499, 4), (500, 8), (999, 8), (1000, 12), (2000, 16), (6000, 28)])
def test_xinsir_stick_rule(side, half_width):
    people = with_points(figure(size=(64, side)), {5: (10, 32), 7: (210, 32)})
    middle = pixels(render(people, style="xinsir", parts="body"))[:, 110]
    assert middle.sum() == 2 * half_width + 1


@pytest.mark.parametrize("style", list(STYLES))
def test_limbs_have_six_tenths_of_their_colour_and_joints_all_of_it(style):
    drawn = render(with_points(figure(), {5: (50, 90), 7: (120, 90)}), style=style)
    assert drawn[90, 85].tolist() == [int(0.6 * channel) for channel in (170, 255, 0)]  # left upper arm
    assert drawn[90, 50].tolist() == [85, 255, 0]  # left shoulder


def test_parts_and_feet():
    people = figure()
    maps = {part: pixels(render(people, parts=[part])) for part in ("body", "hand", "face")}
    assert all(drawn.any() for drawn in maps.values())
    np.testing.assert_array_equal(pixels(render(people)), maps["body"] | maps["hand"] | maps["face"])
    assert not pixels(render(people, parts=[])).any()
    feet = pixels(render(people, parts="body", feet=True))
    for x, y in people.part("foot")[0][0].astype(int):
        assert feet[y, x]
    np.testing.assert_array_equal(render(people, parts="hand", feet=True), render(people, parts="hand"))


def test_a_face_brings_the_body_eyes_in_the_openpose_style_only():
    people = with_points(figure(), {23 + 30: (90, 90), 1: (60, 60)})
    assert pixels(render(people, parts="face"))[60, 60]
    assert not pixels(render(people, style="dwpose", parts="face"))[60, 60]
    assert not pixels(render(with_points(figure(), {1: (60, 60)}), parts="face")).any()  # no face, no eyes


def test_people_keep_their_colour_by_track_id():
    people = replace(figure(count=3), id=np.array([7, 2, 9]))
    colors = [set(map(tuple, render(people[i], color_by_person=True).reshape(-1, 3).tolist())) for i in range(3)]
    assert colors[0] & colors[1] == colors[1] & colors[2] == {(0, 0, 0)}
    again = replace(people[[1, 0]], id=np.array([9, 7]))
    assert set(map(tuple, render(again[1], color_by_person=True).reshape(-1, 3).tolist())) == colors[0]


def test_empty_people_give_an_empty_map():
    got = render(People.empty((30, 40)), (60, 80), "dwpose", feet=True)
    assert got.shape == (60, 80, 3) and got.dtype == np.uint8 and not got.any()


@pytest.mark.parametrize("style", list(STYLES))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e38, 4e6])
def test_points_that_are_nowhere_are_invisible(style, value):
    people = figure()
    xy, score = people.xy.copy(), people.score.copy()
    broken = np.arange(0, 133, 3)
    xy[:, broken, 0] = value
    score[:, broken] = 0
    expected = render(replace(people, score=score), style=style, feet=True)
    np.testing.assert_array_equal(render(replace(people, xy=xy), (256, 192), style, feet=True), expected)


@pytest.mark.parametrize("far", [-1e6, -3e4, 3e4, 1e6])
def test_a_limb_to_a_far_point_is_clipped(far):
    people = with_points(figure(), {5: (90, 100), 7: (far, 100)})
    drawn = pixels(render(people, parts="body"))
    assert drawn[100, 90]
    assert not drawn[90:111, 150:].any() if far < 0 else not drawn[90:111, :50].any()


@pytest.mark.parametrize("shift", [(-150, 0), (150, 0), (0, -200), (0, 200)])
def test_people_partly_outside_are_a_window_of_the_whole(shift):
    """What leaves the canvas changes no pixel that stays (hand and face points at 0 or less are skipped: body only)."""
    people = figure()
    wide = replace(people, xy=people.xy + 300, image_size=(900, 900))
    moved = replace(people, xy=people.xy + np.float32(shift))
    left, top = 300 - shift[0], 300 - shift[1]
    window = render(wide, parts="body", feet=True)[top : top + 256, left : left + 192]
    got = render(moved, parts="body", feet=True)
    assert got.any()
    # truncation toward zero moves a negative coordinate by a pixel, as in the original; only few pixels can notice
    assert (got != window).any(axis=2).mean() < 0.02


def test_background_is_copied():
    people = figure()
    photo = np.full((256, 192, 3), 77, np.uint8)
    pose_map = render(people)
    got = render(people, background=photo)
    assert (photo == 77).all()
    np.testing.assert_array_equal(got[pixels(pose_map)], pose_map[pixels(pose_map)])
    assert (got[~pixels(pose_map)] == 77).all()
    np.testing.assert_array_equal(render(people, background=(77, 77, 77)), got)


def test_overlay_changes_the_photograph_only_where_something_is_drawn():
    photo = np.random.default_rng(0).integers(0, 256, (256, 192, 3), dtype=np.uint8)
    before = photo.copy()
    people = figure()
    got = overlay(photo, people)
    np.testing.assert_array_equal(photo, before)
    changed = (got != photo).any(axis=2)
    near_map = cv2.dilate(pixels(render(people)).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert changed.any() and not (changed & ~near_map).any()
    np.testing.assert_array_equal(overlay(photo, people, opacity=0), photo)
    np.testing.assert_array_equal(overlay(photo, People.empty((256, 192))), photo)
    half = overlay(photo, people, opacity=0.5)
    np.testing.assert_allclose(half, (photo.astype(float) + got) / 2, atol=1)
    # a joint in the open is opaque in its own colour
    nose = overlay(photo, with_points(people, {0: (90, 90)}))
    assert nose[90, 90].tolist() == [255, 0, 0]


def test_overlays_have_smooth_edges():
    red = overlay(np.zeros((256, 192, 3), np.uint8), with_points(figure(), {0: (90, 90)}))[..., 0]
    assert ((red > 0) & (red < 255)).any()


def test_overlay_lines_grow_with_the_photograph():
    people = with_points(figure(), {0: (96, 128)})
    widths = [np.ptp(np.argwhere(pixels(overlay(np.zeros((side, side, 3), np.uint8), people)))) for side in (512, 2560)]
    assert widths[1] > 3 * widths[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "sketch"}, "openpose, dwpose, xinsir"),
        ({"parts": ["body", "tail"]}, "'tail'.*body, hand, face"),
        ({"parts": "tail"}, "'tail'|unknown part"),
        ({"size": (0, 10)}, ">= 1"),
        ({"size": (10, -1)}, ">= 1"),
        ({"size": (10.5, 10)}, "whole numbers"),
        ({"size": 512}, "whole numbers"),
        ({"size": (10, 10, 3)}, "whole numbers"),
        ({"thickness": 0}, "thickness"),
        ({"thickness": float("nan")}, "thickness"),
        ({"threshold": float("nan")}, "threshold"),
        ({"background": np.zeros((3, 3, 3), np.uint8)}, "background"),
        ({"background": np.zeros((256, 192, 3), np.float32)}, "background"),
        ({"background": (0, 0, 300)}, "background"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        render(figure(), **options)


def test_people_of_several_images_are_no_map():
    with pytest.raises(ValueError, match="People of one image, got list"):
        render([figure()])


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (np.zeros((8, 8), np.uint8), {}),
        (np.zeros((8, 8, 4), np.uint8), {}),
        (np.zeros((8, 8, 3), np.float32), {}),
        (np.zeros((0, 8, 3), np.uint8), {}),
        (np.zeros((8, 8, 3), np.uint8), {"opacity": 1.5}),
        (np.zeros((8, 8, 3), np.uint8), {"style": "sketch"}),
    ],
)
def test_bad_overlays_are_refused(image, options):
    with pytest.raises(ValueError):
        overlay(image, figure(), **options)


def test_an_own_style():
    people = figure()
    bright = replace(STYLES["openpose"], limb_brightness=1.0, stick=2)
    colors = set(map(tuple, render(people, style=bright, parts="body").reshape(-1, 3).tolist()))
    assert all(max(color) in (0, 255) for color in colors)


def test_antialias_is_the_average_of_a_larger_drawing():
    """Against the same figures drawn 16 times as large and averaged down; the plain map is further away."""
    points = {5: (60.4, 80.6), 6: (130.7, 84.2), 7: (40.2, 150.9), 91: (50.5, 170.5), 30: (90, 40)}
    people = with_points(figure(), points)
    style = replace(STYLES["openpose"], stick=64, joint=64, hand_joint=64, face_point=48)
    large = cv2.resize(render(people, (16 * 256, 16 * 192), style), (192, 256), interpolation=cv2.INTER_AREA)
    # x of the small map is 16 x of the large one, which is the left of the 16 pixels that became one
    truth = cv2.warpAffine(large.astype(float), np.float32([[1, 0, 0.5], [0, 1, 0.5]]), (192, 256))
    smooth, plain = (np.abs(render(people, antialias=on) - truth).mean() for on in (True, False))
    assert smooth < 0.5 * plain, (smooth, plain)


def test_antialias_follows_a_sixteenth_of_a_pixel():
    people = with_points(figure(), {5: (60.0, 80.0), 6: (130.0, 84.0)})
    moved = replace(people, xy=people.xy + np.float32(1 / 8))
    assert np.array_equal(render(people), render(moved))
    assert not np.array_equal(render(people, antialias=True), render(moved, antialias=True))
