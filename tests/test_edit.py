"""People brought to other pictures and proportions: what is not seen must not change what is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dwpose_core import edit
from dwpose_core.dialects import to_posedata
from dwpose_core.openpose import extent
from dwpose_core.people import People

# A standing person, 17 body points of COCO, pixels.
BODY = np.float32(
    [
        *((200, 60), (208, 52), (192, 52), (218, 58), (182, 58)),
        *((240, 110), (160, 110), (255, 170), (145, 170), (262, 230), (138, 230)),
        *((225, 230), (175, 230), (228, 320), (172, 320), (230, 410), (170, 410)),
    ]
)
LEGS, HIPS = slice(13, 17), [11, 12]


def person(hidden=(), id: int | None = None, size=(480, 400)) -> People:
    xy = np.full((1, 133, 2), 200, np.float32)
    xy[0, :17] = BODY
    score = np.zeros((1, 133), np.float32)
    score[0, :17] = 0.9
    score[0, hidden] = 0.0
    box = extent(xy[0], score[0])[None]
    return People(xy, score, box, [0.9], size, id=None if id is None else [id])


PORTRAIT = [*HIPS, 13, 14, 15, 16]


@pytest.mark.parametrize("reference", [person(PORTRAIT), person()], ids=["portrait", "whole"])
@pytest.mark.parametrize("clip", [[person(PORTRAIT)], [person()], [person(PORTRAIT), person()]])
def test_a_body_fitted_to_itself_stays(clip, reference):
    """Whatever of it either side shows."""
    for before, after in zip(clip, edit.retarget(clip, reference), strict=True):
        np.testing.assert_allclose(after.xy[0, :17], before.xy[0, :17], atol=0.1)
    for before, after in zip(clip, edit.align(clip, reference), strict=True):
        np.testing.assert_allclose(after.xy[0, :17], before.xy[0, :17], atol=0.1)


def test_a_portrait_gives_its_arms():
    """Arms twice as long, no hips to measure them by; the legs, which a portrait hides, stay."""
    goal = person(PORTRAIT)
    xy = goal.xy.copy()
    for elbow, wrist, shoulder in ((7, 9, 5), (8, 10, 6)):
        xy[0, wrist] = xy[0, shoulder] + 2 * (BODY[wrist] - BODY[shoulder])
        xy[0, elbow] = xy[0, shoulder] + 2 * (BODY[elbow] - BODY[shoulder])
    (after,) = edit.retarget([person()], replace(goal, xy=xy))
    np.testing.assert_allclose(after.xy[0, 9] - after.xy[0, 5], 2 * (BODY[9] - BODY[5]), atol=0.1)
    np.testing.assert_allclose(after.xy[0, LEGS], BODY[LEGS], atol=0.1)


@pytest.mark.parametrize("whose", ["reference", "clip"])
def test_a_forearm_that_points_at_the_camera_shortens_nobody(whose):
    foreshortened = person()
    xy = foreshortened.xy.copy()
    xy[0, 9] = xy[0, 7] + 0.2 * (xy[0, 9] - xy[0, 7])
    foreshortened = replace(foreshortened, xy=xy)
    clip, reference = (person(), foreshortened) if whose == "reference" else (foreshortened, person())
    (after,) = edit.retarget([clip], reference)
    np.testing.assert_allclose(after.xy[0, :17], clip.xy[0, :17], atol=0.1)


def test_aligned_by_the_first_frame_that_shows_the_torso():
    """Somebody walks into view, half as large as the reference: all frames are doubled, not by their boxes."""
    half = replace(person(), xy=person().xy / 2, box=person().box / 2)
    entering = replace(half, score=person(PORTRAIT).score, box=extent(half.xy[0], person(PORTRAIT).score[0])[None])
    first, second = edit.align([entering, half], person())
    np.testing.assert_allclose(second.xy[0, :17], BODY, atol=0.1)
    np.testing.assert_allclose(first.xy[0, :11], BODY[:11], atol=0.1)


def test_aligned_by_the_person_of_that_id():
    """In the second frame somebody else comes first."""
    actor, other = person(id=4), person(id=7)
    other = replace(other, xy=other.xy + 100)
    arrays = (np.concatenate((getattr(other, n), getattr(actor, n))) for n in ("xy", "score", "box", "box_score"))
    both = People(*arrays, other.image_size, id=np.array((7, 4)))
    hidden = replace(actor, score=person(PORTRAIT).score)
    _, after = edit.align([hidden, both], person())
    np.testing.assert_allclose(after.xy[1, :17], BODY, atol=0.1)
    _, after = edit.align([hidden, both], person(), actor=7)  # who is away in the first one
    np.testing.assert_allclose(after.xy[0, :17], BODY, atol=0.1)
    wide = replace(person(), xy=person().xy * (1.5, 1))
    _, after = edit.retarget([hidden, both], wide, actor=7)
    np.testing.assert_array_equal(after.xy[1], both.xy[1])
    assert np.abs(after.xy[0] - both.xy[0]).max() > 5
    for change in (edit.align, edit.retarget):
        with pytest.raises(ValueError, match="nobody"):
            change([hidden, both], person(), actor=1)


@pytest.mark.parametrize(
    ("size", "how", "corner"),
    [((960, 800), "stretch", (800, 960)), ((240, 800), "stretch", (800, 240)), ((240, 800), "pad", (500, 240)),
     ((240, 800), "crop", (800, 600)), ((960, 400), "crop", (600, 960))],
)  # fmt: skip
def test_fitting(size, how, corner):
    """Where the picture's lower right corner comes to lie; its middle is the middle but where it is stretched."""
    people = replace(person(), xy=np.tile(np.float32((400, 480)), (1, 133, 1)))
    after = edit.fit(people, size, how)
    assert after.image_size == size
    np.testing.assert_allclose(after.xy[0, 0], corner, atol=1e-3)
    if how != "stretch":
        middle = edit.fit(replace(people, xy=np.tile(np.float32((200, 240)), (1, 133, 1))), size, how).xy[0, 0]
        np.testing.assert_allclose(middle, (size[1] / 2, size[0] / 2), atol=1e-3)


def test_an_unknown_way_to_fit():
    with pytest.raises(ValueError, match="'stretch', 'crop' or 'pad'"):
        edit.fit(person(), (10, 10), "cover")


def marked(x: int, y: int, size=(48, 64)) -> tuple[np.ndarray, People]:
    """A black picture with one white pixel, and somebody all of whose points and box are that pixel."""
    image = np.zeros(size, np.uint8)
    image[y, x] = 255
    people = People(
        np.full((1, 133, 2), (x, y)), np.ones((1, 133)), np.float32([[x, y, x + 1, y + 1]]), np.ones(1), size
    )
    return image, people


@pytest.mark.parametrize(("rotate", "turns"), [(90, 3), (180, 2), (270, 1), (0, 0)])
def test_turned_people_lie_where_the_turned_picture_shows_them(rotate, turns):
    """np.rot90 turns the other way round; the picture is square, so that its size stays."""
    image, people = marked(10, 20, (64, 64))
    y, x = np.argwhere(np.rot90(image, turns))[0]
    turned = edit.affine(people, rotate=rotate)
    np.testing.assert_allclose(turned.xy[0, 0], (x, y), atol=1e-4)
    np.testing.assert_allclose(turned.box[0], (x, y, x + 1, y + 1), atol=1e-4)


def test_half_a_turn_of_an_oblong_picture_keeps_its_corners():
    _, people = marked(0, 0)
    np.testing.assert_allclose(edit.affine(people, rotate=180).xy[0, 0], (63, 47), atol=1e-4)


def test_feet_stay_on_their_own_ankles():
    """Shins twice as long: so are the feet, each where its ankle went."""
    clip, goal = person(), person()
    for knee, ankle, foot, out in ((13, 15, slice(17, 20), 10), (14, 16, slice(20, 23), -10)):
        clip.xy[0, foot] = BODY[ankle] + (out, 5)
        goal.xy[0, ankle] = 2 * BODY[ankle] - BODY[knee]
    (after,) = edit.retarget([clip], goal)
    np.testing.assert_allclose(after.xy[0, [15, 16]], 2 * BODY[[15, 16]] - BODY[[13, 14]], atol=0.1)
    np.testing.assert_allclose(
        after.xy[0, 17:23] - after.xy[0, [15] * 3 + [16] * 3], [[20, 10]] * 3 + [[-20, 10]] * 3, atol=0.1
    )


def test_the_box_of_the_whole_image_is_its_own_mirror_image():
    people = edit.mirror(replace(person(), box=[[0, 0, 400, 480]]))
    assert people.box.tolist() == [[0, 0, 400, 480]]


def test_a_mask_of_another_shape_covers_the_same_part_of_the_image():
    """The upper half of a mask half as high, and as wide as the image."""
    mask = np.zeros((240, 400), bool)
    mask[:120] = True
    upper = replace(person(), xy=person().xy * (1, 0.5))
    lower = replace(person(), xy=person().xy * (1, 0.5) + (0, 240))
    ranks = [edit.people_rank(people, "mask", mask).tolist() for people in (upper, lower)]
    assert ranks == [[-1], [0]]


@pytest.mark.parametrize("by", ["left", "largest", "centre", "score", "mask"])
def test_somebody_without_points_is_the_last_choice(by):
    """The older pack lists such people with zeros: further left than anybody, and as sure."""
    nobody = replace(person(), score=np.zeros((1, 133), np.float32), box=np.zeros((1, 4), np.float32))
    people = People(
        *(np.concatenate([getattr(p, name) for p in (nobody, person())]) for name in ("xy", "score", "box")),
        np.ones(2, np.float32),
        (480, 400),
    )
    (chosen,) = edit.select_per_frame([people], by, masks=[np.ones((4, 4), bool)])
    assert (chosen.score > 0).any()


def test_the_first_person_of_a_clip_is_followed_by_id():
    actor, other = person(id=4), person(id=7)
    arrays = (np.concatenate((getattr(actor, n), getattr(other, n))) for n in ("xy", "score", "box", "box_score"))
    both = People(*arrays, actor.image_size, id=np.array((4, 7)))
    clip = [both[:0], both, other, both[[1, 0]], actor]
    assert edit.follow(clip) == [None, 0, None, 1, 0]
    assert edit.follow(clip, 1) == [None, 1, 0, 0, None]
    assert edit.follow(clip, 2) == [None] * 5
    assert edit.follow([replace(people, id=None) for people in clip]) == [None, 0, 0, 0, 0]
    metas = to_posedata(clip)["pose_metas"]
    assert [meta.kps_body_p.max() > 0 for meta in metas] == [False, True, False, True, True]
