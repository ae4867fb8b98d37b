"""The nodes that draw, pick and change keypoints, against a stub of ComfyUI."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from tests.comfy_stub import Interrupted, clip, figure, run, xs


def test_render_draws_every_frame_at_any_size(comfy):
    keypoints = clip([figure(100)], [], [figure(300)])
    result = run(comfy, "DWPoseRender", keypoints=keypoints, size="width x height", width=200, height=150)
    assert result[0].shape == (3, 150, 200, 3)
    found = [np.argwhere(frame.numpy().any(axis=2)).mean(axis=0) for frame in (result[0][0], result[0][2])]
    assert abs(found[0][1] - 50) < 5 and abs(found[1][1] - 150) < 5 and not result[0][1].any()
    latent = {"samples": torch.zeros(1, 4, 20, 30)}
    assert run(comfy, "DWPoseRender", keypoints=keypoints, size_from=latent)[0].shape == (3, 160, 240, 3)
    assert run(comfy, "DWPoseRender", keypoints=keypoints)[0].shape == (3, 512, 704, 3)  # short side, multiples of 64


def test_render_options(comfy):
    keypoints = clip([figure(200)])
    plain = run(comfy, "DWPoseRender", keypoints=keypoints, size="source")[0]
    no_head = run(comfy, "DWPoseRender", keypoints=keypoints, size="source", head=False, face=False)[0]
    assert plain[0, 20:70].any() and not no_head[0, :60].any()
    red = run(comfy, "DWPoseRender", keypoints=keypoints, size="source", background="#ff0000")[0]
    assert red[0, 0, 0].tolist() == [1, 0, 0]
    thick = run(comfy, "DWPoseRender", keypoints=keypoints, size="source", stick_width=20)[0]
    assert thick.any(-1).sum() > 1.5 * plain.any(-1).sum()
    photo = torch.full((1, 300, 400, 3), 0.5)
    over = run(comfy, "DWPoseRender", keypoints=keypoints, size="source", image=photo)[0]
    assert torch.allclose(over[0, 0, 0], torch.tensor(128 / 255)) and not torch.equal(over, plain)
    with pytest.raises(ValueError, match="background must be"):
        run(comfy, "DWPoseRender", keypoints=keypoints, background="ff0000")
    for size in ("short side", "source"):
        with pytest.raises(ValueError, match="no images"):
            run(comfy, "DWPoseRender", keypoints=keypoints, size=size, image=photo[:0])


def test_long_clips_show_their_progress_and_can_be_interrupted(comfy):
    keypoints, image = clip(*[[figure(100)]] * 3), torch.zeros(3, 300, 400, 3)
    nodes = {"DWPoseRender": {}, "DWPoseToMask": {}, "DWPoseFaceHandCrop": {"image": image}}
    for node, inputs in nodes.items():
        comfy.progress.clear()
        run(comfy, node, keypoints=keypoints, **inputs)
        assert [step[0] for step in comfy.progress] == [1, 2, 3]
    comfy.interrupt = True
    for node, inputs in nodes.items():
        with pytest.raises(Interrupted):
            run(comfy, node, keypoints=keypoints, **inputs)


EDITING = {
    "DWPoseSelect": ({}, {"threshold": 0.5}),
    "DWPoseSmooth": ({}, {"method": "savitzky-golay", "max_limb": 1.6}),
    "DWPoseTransform": ({"mirror": True}, {"fit": "retarget and align"}),
    "DWPoseMerge": ({}, {"how": "one after another"}),
    "DWPoseInterpolate": ({"frames": 30},),
    "DWPoseConvert": ({"json_layout": "nested", "coordinates": "fractions"}, {"json_layout": "BODY_25"}),
    "DWPoseSaveJSON": tuple({"layout": layout} for layout in ("one file", "one per frame", "OpenPose folder")),
}


@pytest.mark.parametrize("node", EDITING)
def test_thousands_of_frames_can_be_interrupted_at_any_of_them(comfy, monkeypatch, node):
    """The interrupt comes after so many looks at it: every one of them stops the node, and there are some per frame."""
    import comfy.model_management as management

    keypoints = clip(*[[figure(100 + i), figure(250)] for i in range(20)])
    inputs = {"pose" if node == "DWPoseConvert" else "keypoints": keypoints}
    inputs |= {"DWPoseMerge": {"other": keypoints}, "DWPoseTransform": {"reference": keypoints[:1]}}.get(node, {})
    looks, limit = [], np.inf

    def look():
        looks.append(None)
        if len(looks) > limit:
            raise Interrupted

    monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", look)
    for options in EDITING[node]:
        limit = np.inf
        looks.clear()
        run(comfy, node, **inputs, **options)
        assert len(looks) >= 40  # reading and writing, at least
        before = sorted(comfy_files(comfy))
        for limit in range(0, len(looks), 7):  # noqa: B007, `look` reads it
            looks.clear()
            with pytest.raises(Interrupted):
                run(comfy, node, **inputs, **options)
        assert sorted(comfy_files(comfy)) == before  # no half of a clip stays


def comfy_files(comfy):
    return (comfy.home / "output").rglob("*")


def test_parts_of_a_long_clip_are_smoothed_as_the_whole(comfy, monkeypatch):
    module = sys.modules[f"{comfy.package.__name__}.nodes.people"]
    noise = np.random.default_rng(0).normal(0, 3, 40)
    keypoints = clip(*[[figure(100 + n)] for n in noise])
    smoothed = []
    for part in (1000, 7):
        monkeypatch.setattr(module, "PART", part)
        smoothed.append(run(comfy, "DWPoseSmooth", keypoints=keypoints, method="savitzky-golay")[0])
    assert smoothed[0] == smoothed[1] and np.std(xs(smoothed[0])) < 0.8 * np.std(noise)


def test_a_threshold_of_one_keeps_what_is_sure(comfy):
    """Between nodes 1 is what is seen, and the highest there is: nobody may lose their neck to it."""
    keypoints = clip([figure(200)])
    selected = run(comfy, "DWPoseSelect", keypoints=keypoints, threshold=1.0)[0]
    assert selected[0]["people"][0]["pose_keypoints_2d"] == keypoints[0]["people"][0]["pose_keypoints_2d"]
    binary = run(comfy, "DWPoseConvert", pose=keypoints, confidence="binary", threshold=1.0)[0]
    assert binary[0]["people"][0]["pose_keypoints_2d"] == keypoints[0]["people"][0]["pose_keypoints_2d"]
    for node, options in (
        ("DWPoseRender", {}),
        ("DWPoseRender", {"style": "dwpose"}),
        ("DWPoseToMask", {"body": True}),
    ):
        all_of_it, sure = (run(comfy, node, keypoints=keypoints, threshold=t, **options)[0] for t in (0.3, 1.0))
        assert torch.equal(all_of_it, sure) and sure.any()
    weak = figure(200)
    weak["pose_keypoints_2d"][8] = 0.9  # the right shoulder
    (person,) = run(comfy, "DWPoseSelect", keypoints=clip([weak]), threshold=1.0)[0][0]["people"]
    assert not any(person["pose_keypoints_2d"][3:9]) and person["pose_keypoints_2d"][17] == 1


def test_a_face_without_its_body_keeps_its_eyes(comfy):
    """As it does where comfyui_controlnet_aux draws it, and in the maps of face ControlNets."""
    from dwpose_core.openpose import from_openpose
    from dwpose_core.render import render

    keypoints = clip([figure(200)])
    off = {"body": False, "hands": False}
    face = run(comfy, "DWPoseRender", keypoints=keypoints, size="source", **off)[0]
    drawn = render(from_openpose(keypoints)[0], parts=["face"])
    assert np.array_equal((face[0] * 255).round().numpy(), drawn) and face[0, 45, 195].all() and face[0, 45, 205].all()
    over = run(comfy, "DWPoseRender", keypoints=keypoints, size="source", image=torch.zeros(1, 300, 400, 3), **off)[0]
    assert over[0, 45, 195].any()
    feet = run(comfy, "DWPoseRender", keypoints=keypoints, size="source", face=False, feet=True, **off)[0]
    assert feet[0, 250:].any() and not feet[0, :240].any()
    selected = run(comfy, "DWPoseSelect", keypoints=keypoints, **off)[0][0]["people"][0]
    assert not any(selected["pose_keypoints_2d"]) and selected["face_keypoints_2d"][-6:] == [195, 45, 1, 205, 45, 1]


@pytest.mark.parametrize("off", [{"head": False}, {"body": False, "feet": True}])
@pytest.mark.parametrize("style", ["openpose", "dwpose"])
def test_a_face_keeps_its_eyes_where_the_body_shows_none(comfy, off, style):
    options = {"keypoints": clip([figure(200)]), "size": "source", "hands": False, "style": style}
    whole = run(comfy, "DWPoseRender", **options, **off)[0]
    body = run(comfy, "DWPoseRender", **options, **off, face=False)[0]
    face = run(comfy, "DWPoseRender", **options, body=False)[0]
    assert torch.equal(whole, torch.where(face.any(-1, keepdim=True), face, body))
    assert not body[0, 38:52, 190:210].any() and bool(whole[0, 45, 195].all()) == (style == "openpose")
    photo = torch.full((1, 300, 400, 3), 0.5)
    over = run(comfy, "DWPoseRender", **options, **off, image=photo)[0]
    assert (over[0, 45, 195] > 0.9).all() == (style == "openpose")


def test_render_antialias_and_beside(comfy):
    keypoints = clip([figure(200)])
    photo = torch.full((1, 300, 400, 3), 0.5)
    drawn = {
        on: run(comfy, "DWPoseRender", keypoints=keypoints, size="source", antialias=on)[0] for on in (False, True)
    }
    assert len(drawn[True].unique()) > 2 * len(drawn[False].unique())  # the shades of smooth edges
    beside = run(
        comfy,
        "DWPoseRender",
        keypoints=keypoints,
        size="source",
        image=photo,
        arrange="beside the image",
        antialias=True,
    )[0]
    assert beside.shape == (1, 300, 800, 3) and torch.equal(beside[:, :, 400:], drawn[True])
    assert torch.allclose(beside[:, :, :400], torch.tensor(128 / 255))


def test_select_follows_people_who_change_places(comfy):
    """Two people walk past each other; the left one at the start is the left one, all the way."""
    frames = [[figure(80 + 12 * i), figure(320 - 12 * i, 0.8)] for i in range(21)]
    keypoints = clip(*[people[:: 1 if i % 2 else -1] for i, people in enumerate(frames)])  # order flips, too
    smooth = run(comfy, "DWPoseSmooth", keypoints=keypoints, smooth=False)[0]
    assert all(frame["people"][0]["person_id"] in (0, 1) for frame in smooth)
    chosen = run(comfy, "DWPoseSelect", keypoints=smooth, by="largest")
    assert np.allclose(np.ravel(xs(chosen[0])), [80 + 12 * i for i in range(21)], atol=1)
    per_frame = run(comfy, "DWPoseSelect", keypoints=smooth, by="left", whole_clip=False)[0]
    assert np.ravel(xs(per_frame)).max() <= 201
    by_id = run(comfy, "DWPoseSelect", keypoints=smooth, by="id", ids="1")[0]
    assert {person["person_id"] for frame in by_id for person in frame["people"]} == {1}


@pytest.mark.parametrize(
    ("by", "expected"),
    [("largest", 300), ("centre", 210), ("left", 60), ("index", 300), ("mask", 60)],
)
def test_select_one_of_a_picture(comfy, by, expected):
    keypoints = clip([figure(300, 1.2), figure(210, 0.7), figure(60, 0.8)])
    mask = torch.zeros(1, 150, 200)
    mask[:, :, :50] = 1
    result = run(comfy, "DWPoseSelect", keypoints=keypoints, by=by, mask=mask)
    assert xs(result[0]) == [[expected]] and len(result[1][0]) == 1
    assert xs(run(comfy, "DWPoseSelect", keypoints=keypoints, by=by, mask=mask.bfloat16())[0]) == [[expected]]
    if by == "mask":
        with pytest.raises(ValueError, match="give a mask"):
            run(comfy, "DWPoseSelect", keypoints=keypoints, by=by, mask=mask[:0])


def test_select_filters_parts_and_weak_points(comfy):
    weak = figure(100)
    weak["pose_keypoints_2d"][5] = 0.4  # the confidence of the neck comes from the shoulders; of the nose from here
    weak["pose_keypoints_2d"][2] = 0.4
    result = run(comfy, "DWPoseSelect", keypoints=clip([weak]), hands=False, feet=False, threshold=0.5)
    person = result[0][0]["people"][0]
    assert not any(person["hand_left_keypoints_2d"]) and not any(person["foot_keypoints_2d"])
    assert any(person["face_keypoints_2d"]) and person["pose_keypoints_2d"][:3] == [0, 0, 0]
    assert person["pose_keypoints_2d"][3:6] == [100, 80, 1] and len(result[1][0]) == 1


def test_smooth_with_savitzky_golay_and_without_a_thrown_wrist(comfy):
    people = [[figure(100 + 0.1 * t * t)] for t in range(40)]  # ever faster: One-Euro lags, a parabola does not
    for t, (person,) in enumerate(people):
        person["bbox"] = [60 + 0.1 * t * t, 30, 80, 240]  # the detector's, as DWPose Estimate writes it
    people[20][0]["pose_keypoints_2d"][12] += 250  # the right wrist
    keypoints = clip(*people, size=(300, 800))
    done = run(comfy, "DWPoseSmooth", keypoints=keypoints, method="savitzky-golay", max_limb=1.6)[0]
    assert np.allclose(np.ravel(xs(done))[4:36], [100 + 0.1 * t * t for t in range(4, 36)], atol=0.1)
    assert done[20]["people"][0]["pose_keypoints_2d"][12] == pytest.approx(100 + 0.1 * 400 - 28, abs=0.5)
    with pytest.raises(ValueError, match="max_limb"):
        run(comfy, "DWPoseSmooth", keypoints=keypoints, max_limb=0.5)


def test_merge(comfy):
    two, three = clip([figure(100)], [figure(110)]), clip(*[[figure(300)]] * 3)
    assert xs(run(comfy, "DWPoseMerge", keypoints=two, other=three)[0]) == [[100, 300], [110, 300], [110, 300]]
    appended = run(comfy, "DWPoseMerge", keypoints=two, other=three, how="one after another")[0]
    assert xs(appended) == [[100], [110], [300], [300], [300]]


def test_interpolate(comfy):
    keypoints = clip(*[[figure(100 + 10 * t)] for t in range(25)])
    slow = run(comfy, "DWPoseInterpolate", keypoints=keypoints, fps=24.0, new_fps=48.0)[0]
    assert np.allclose(np.ravel(xs(slow)), np.arange(100, 341, 5), atol=1e-3)
    fast = run(comfy, "DWPoseInterpolate", keypoints=keypoints, fps=24.0, new_fps=16.0)[0]
    assert np.allclose(np.ravel(xs(fast)), np.arange(100, 341, 15), atol=1e-3)
    with pytest.raises(ValueError, match="no frames"):
        run(comfy, "DWPoseInterpolate", keypoints=[])
    fixed = run(comfy, "DWPoseInterpolate", keypoints=keypoints, frames=7)[0]
    assert np.allclose(np.ravel(xs(fixed)), np.arange(100, 341, 40), atol=1e-3)


def test_interpolate_between_pictures_of_two_sizes(comfy):
    keypoints = clip([figure(100)]) + clip([figure(300)], size=(600, 800))
    between = run(comfy, "DWPoseInterpolate", keypoints=keypoints, frames=3)[0]
    assert xs(between) == [[100], [125], [150]] and {frame["canvas_width"] for frame in between} == {400}


def test_smooth_fills_gaps_and_removes_jitter(comfy):
    noise = np.random.default_rng(0).normal(0, 1.5, 40)
    people = [[figure(200 + n)] for n in noise]
    people[20] = []
    result = run(comfy, "DWPoseSmooth", keypoints=clip(*people))[0]
    assert [len(frame["people"]) for frame in result] == [1] * 40
    assert np.std(np.diff(np.ravel(xs(result)))) < 0.5 * np.std(np.diff(noise))


def test_transform(comfy):
    keypoints = clip([figure(100)])
    moved = run(comfy, "DWPoseTransform", keypoints=keypoints, move_x=30.0, scale=0.5)[0]
    assert xs(moved) == [[(100 - 199.5) * 0.5 + 199.5 + 30]]  # the middle of pixels 0 to 399
    mirrored = run(comfy, "DWPoseTransform", keypoints=keypoints, mirror=True)[0][0]["people"][0]
    assert mirrored["pose_keypoints_2d"][3] == 399 - 100
    # the right wrist of the mirrored person is the left one's mirror image
    original = keypoints[0]["people"][0]["pose_keypoints_2d"]
    assert mirrored["pose_keypoints_2d"][12] == pytest.approx(399 - original[21])
    twice = run(comfy, "DWPoseTransform", keypoints=clip([mirrored]), mirror=True)[0][0]["people"][0]
    for key, values in keypoints[0]["people"][0].items():
        if key != "face_keypoints_2d":  # its two eye points come from the body
            assert np.allclose(twice[key], values, atol=1e-3), key
    with pytest.raises(ValueError, match="reference"):
        run(comfy, "DWPoseTransform", keypoints=keypoints, fit="align")


def test_transform_goes_by_people_who_have_points(comfy):
    """The older pack lists people of whom nothing is seen, too: zeros, or null for hands and face."""
    blank = {"pose_keypoints_2d": [0.0] * 54, "face_keypoints_2d": None}
    alone, crowd = clip([figure(300)]), clip([blank, figure(300)])
    for there in (alone, crowd):
        halved = run(comfy, "DWPoseTransform", keypoints=there, pivot="people", scale=0.5)[0]
        aligned = run(comfy, "DWPoseTransform", keypoints=clip([figure(100)]), reference=there, fit="align")[0]
        assert xs(halved)[0][-1] == pytest.approx(299.75) and xs(aligned) == [[300]]
    with pytest.raises(ValueError, match="nobody in the reference"):
        run(comfy, "DWPoseTransform", keypoints=alone, reference=clip([blank]), fit="align")


def test_retarget_gives_the_limb_lengths_of_the_reference(comfy):
    """A dancer with arms of double length against a reference with normal ones, of double size elsewhere."""

    def points(person):
        return np.array(person["pose_keypoints_2d"]).reshape(-1, 3)[:, :2]

    def arm(person):
        xy = points(person)
        return np.linalg.norm(xy[3] - xy[2]) / np.linalg.norm(xy[1] - (xy[8] + xy[11]) / 2)

    dancer = figure(100)
    body = np.array(dancer["pose_keypoints_2d"]).reshape(-1, 3)
    for shoulder, elbow, wrist in ((2, 3, 4), (5, 6, 7)):
        step = body[elbow, :2] - body[shoulder, :2]
        body[elbow, :2] += step
        body[wrist, :2] += step
    dancer["pose_keypoints_2d"] = body.ravel().tolist()
    reference = clip([figure(300, 1.4)], size=(600, 700))
    result = run(
        comfy, "DWPoseTransform", keypoints=clip([dancer], [dancer]), reference=reference, fit="retarget and align"
    )[0]
    person, goal = result[1]["people"][0], reference[0]["people"][0]
    assert (result[0]["canvas_height"], result[0]["canvas_width"]) == (600, 700)
    assert arm(dancer) == pytest.approx(2 * arm(goal), rel=0.01)
    assert arm(person) == pytest.approx(arm(goal), rel=0.01)
    assert np.allclose(points(person), points(goal), atol=1.5)


def test_face_crops_are_square_steady_and_of_one_size(comfy):
    noise = np.random.default_rng(0).normal(0, 3, 24)
    people = [[figure(150 + 2 * i + n)] for i, n in enumerate(noise)]
    people[10] = [figure(170, face=False)]
    images = torch.rand(24, 300, 400, 3)
    result = run(comfy, "DWPoseFaceHandCrop", image=images, keypoints=clip(*people), crop_size=64)
    assert result[0].shape == (24, 64, 64, 3)
    boxes = np.array(result[2])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides == sides[0, 0]).all()
    centers = boxes[:, [0, 2]].mean(axis=1)
    assert np.std(np.diff(centers)) < 0.4 * np.std(np.diff(noise))
    assert result[1][3][0]["width"] == sides[0, 0]
    assert result.ui["text"] == ("Face found in 23 of 24 frames; the box goes on between them.",)
    assert comfy.texts == [("7", result.ui["text"][0])]
    with pytest.raises(ValueError, match="No face of person 2"):
        run(comfy, "DWPoseFaceHandCrop", image=images, keypoints=clip(*people), person=2)
    options = {"person": 2, "missing": "black", "crop_size": 64}
    result = run(comfy, "DWPoseFaceHandCrop", image=images, keypoints=clip(*people), **options)
    assert result[0].shape == (24, 64, 64, 3) and not result[0].any()
    assert (result[1], result[2]) == ([[]] * 24, [])
    assert result.ui["text"] == ("No face of person 2 is seen in any of 24 frames.",)


def test_crops_from_keypoints_of_another_canvas(comfy):
    """The same person on a canvas of half the width and a quarter of the height."""
    person = figure(200)
    small = {key: (np.reshape(v, (-1, 3)) * (0.5, 0.25, 1)).ravel().tolist() for key, v in person.items()}
    boxes = [
        run(comfy, "DWPoseFaceHandCrop", image=torch.zeros(1, 300, 400, 3), keypoints=keypoints, crop_size=64)[2]
        for keypoints in (clip([person]), clip([small], size=(75, 200)))
    ]
    assert boxes[0] == boxes[1]


def test_mask(comfy):
    keypoints = clip([figure(200)], [])
    face, hands, body = (
        run(comfy, "DWPoseToMask", keypoints=keypoints, **{"face": False, name: True})[0]
        for name in ("face", "hands", "body")
    )
    assert face.shape == (2, 300, 400) and not face[1].any() and set(face.unique().tolist()) == {0.0, 1.0}
    assert face[0, 50, 200] and not face[0, 150, 200]
    assert body[0, 120, 200] and body[0, 220, 213] and body.sum() > 5 * face.sum()
    assert hands[0, 165, 232] and not hands[0, 50, 200]
