"""Every dialect of OpenPose JSON in circulation is read as the frame that it means."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dwpose_core.dialects import from_dwposes, from_posedata, to_body25, to_dwposes, to_fractions, to_posedata
from dwpose_core.formats import from_openpose, openpose_body, openpose_file, to_openpose
from dwpose_core.people import People
from tests.people_samples import LENGTHS, some_people


def normalised(frame):
    frame = json.loads(json.dumps(frame))
    for person in frame["people"]:
        for key in LENGTHS:
            table = np.reshape(person[key], (-1, 3)) / (frame["canvas_width"], frame["canvas_height"], 1)
            person[key] = table.reshape(-1).tolist()
        del person["bbox"]
    return frame


def change(frame, **changes):
    """The frame with keys of all its people replaced: a value, or a function of the old value."""
    people = [{**p, **{k: v(p[k]) if callable(v) else v for k, v in changes.items()}} for p in frame["people"]]
    return {**frame, "people": people}


def nested(values):
    return [values[i : i + 3] for i in range(0, len(values), 3)]


def body_25(values):
    points = nested(values)
    feet = [[11.0, 12.0, 1.0]] * 6
    return [number for point in [*points[:8], [33.0, 44.0, 1.0], *points[8:], *feet] for number in point]


def command_line(frame):
    people = change(frame, pose_keypoints_2d=body_25, person_id=[-1], foot_keypoints_2d=None)["people"]
    return {"version": 1.3, "people": [{**person, "pose_keypoints_3d": []} for person in people]}


DIALECTS = {
    "list": lambda frame: [frame],
    "dict": lambda frame: frame,
    "text": lambda frame: json.dumps([frame]),
    "bytes": lambda frame: json.dumps(frame).encode(),
    "bytes with a byte order mark": lambda frame: b"\xef\xbb\xbf" + json.dumps(frame).encode(),
    "side channel of ComfyUI": lambda frame: [json.dumps([frame])],
    "normalised (OpenposePreprocessor, DWposeDeluxe)": normalised,
    "normalised body, hands in pixels": lambda frame: change(
        frame, pose_keypoints_2d=normalised(frame)["people"][0]["pose_keypoints_2d"]
    ),
    "nested (Magos), face of 68": lambda frame: change(
        frame,
        pose_keypoints_2d=nested,
        hand_left_keypoints_2d=nested,
        hand_right_keypoints_2d=nested,
        face_keypoints_2d=lambda values: nested(values)[:68],
    ),
    "numpy arrays": lambda frame: change(frame, pose_keypoints_2d=np.array, hand_left_keypoints_2d=np.array),
    "float canvas": lambda frame: {**frame, "canvas_height": 480.0, "canvas_width": 640.0},
    "no canvas": lambda frame: {"people": frame["people"]},
    "body of 24": lambda frame: change(
        frame, pose_keypoints_2d=lambda values: values + frame["people"][0]["foot_keypoints_2d"], foot_keypoints_2d=[]
    ),
    "command line, BODY_25": command_line,
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_read(dialect):
    people = some_people(1)
    (frame,) = to_openpose(people)
    (got,) = from_openpose(DIALECTS[dialect](frame), image_size=(480, 640))
    assert got.image_size == (480, 640) and len(got) == 1
    points = np.delete(np.arange(133), np.s_[17:23]) if "BODY_25" in dialect else np.arange(133)
    np.testing.assert_allclose(got.xy[:, points], people.xy[:, points], atol=1e-3)
    np.testing.assert_array_equal(got.score, np.ones((1, 133)))
    if "BODY_25" in dialect:
        assert (got.xy[0, 17:23] == (11, 12)).all()
        assert got.id is None
    np.testing.assert_allclose(got.box, people.box, atol=1e-3)


@pytest.mark.parametrize("absent", [None, [], [0.0] * 63])
def test_absent_parts_are_missing_points(absent):
    (frame,) = to_openpose(some_people(1))
    (got,) = from_openpose(change(frame, hand_left_keypoints_2d=absent))
    assert not got.part("left_hand")[1].any() and got.part("right_hand")[1].all()
    person = dict(frame["people"][0])
    del person["hand_left_keypoints_2d"]
    (got,) = from_openpose({**frame, "people": [person]})
    assert not got.part("left_hand")[1].any()


def test_frames_without_a_canvas_take_their_neighbours():
    (frame,) = to_openpose(some_people(1))
    got = from_openpose([{"people": []}, frame, {"people": None}])
    assert [people.image_size for people in got] == [(480, 640)] * 3
    assert [len(people) for people in got] == [0, 1, 0]
    with pytest.raises(ValueError, match=r"frame 0.*image_size"):
        from_openpose({"people": []})
    assert from_openpose({"people": []}, (7, 9))[0].image_size == (7, 9)


def test_normalised_can_be_said():
    (frame,) = to_openpose(People(np.full((1, 133, 2), 1.5), np.ones((1, 133)), np.zeros((1, 4)), [1], (480, 640)))
    assert from_openpose(frame, normalized=False)[0].xy.max() == 1.5
    assert from_openpose(frame)[0].xy.max() == 960
    (frame,) = to_openpose(some_people(1))
    assert from_openpose(frame, normalized=True)[0].xy.max() > 10_000


def sparse(x, y, points=1, **more):
    """Somebody of whom so many points are seen."""
    return {"pose_keypoints_2d": [x, y, 1.0] * points + [0.0] * 3 * (18 - points), **more}


@pytest.mark.parametrize(
    ("frames", "x"),
    [
        ([[sparse(1.5, 0.5, bbox=[0.0, 0.0, 90.0, 40.0])]], 1.5),  # their box is in pixels
        ([[sparse(1.5, 0.5, hand_left_keypoints_2d=[50.0, 60.0, 1.0] * 21)]], 1.5),  # and so is the rest of them
        ([[sparse(1.5, 0.5), sparse(300.0, 200.0)]], 1.5),  # and somebody else
        ([[sparse(1.5, 0.5)], [], [sparse(300.0, 200.0, 18)]], 1.5),  # in another frame
        ([[sparse(1.5, 0.5, person_id=[-1])]], 1.5),  # the OpenPose program's file, see below
        ([[sparse(0.5, 0.5)]], 320.0),  # nobody knows; this is the middle, or a corner of a corner
        ([[sparse(0.5, 0.5, bbox=[0.0, 0.0, 1.0, 1.0])]], 320.0),
        ([[sparse(0.5, 0.5, hand_left_keypoints_2d=[0.2, 0.3, 1.0] * 21)]], 320.0),
        ([[sparse(0.5, 0.5)], [sparse(0.2, 0.3, 18)]], 320.0),
        # a node that divides the points and leaves our box: everybody else tells, else four points do
        ([[sparse(0.5, 0.5, bbox=[9.0, 9.0, 90.0, 90.0])], [sparse(0.2, 0.3, 18)]], 320.0),
        ([[sparse(0.5, 0.5, 4, bbox=[9.0, 9.0, 90.0, 90.0])]], 320.0),
    ],
)
def test_a_point_in_the_corner_has_the_unit_of_the_others(frames, x):
    frames = [{"people": people, "canvas_height": 480, "canvas_width": 640} for people in frames]
    if "person_id" in frames[0]["people"][0]:
        frames[0]["version"] = 1.3
    people = from_openpose(frames)[0]
    assert people.xy[0, 0, 0] == x
    if "bbox" in frames[0]["people"][0]:
        left, _, width, _ = frames[0]["people"][0]["bbox"]
        assert people.box[0, 2] == (left + width) * (640 if width <= 2 else 1)


def test_dwposes_without_poses_are_refused():
    for nothing in ({}, {"poses": None}):
        with pytest.raises(ValueError, match="no poses"):
            from_dwposes(nothing, (480, 640))


def test_fractions_read_back_whole():
    """Boxes, too, and somebody of whom hardly anything is seen."""
    score = np.where(np.arange(133) < 2, np.float32(1), np.float32(0))[None]
    for people in (some_people(2), some_people(1), replace(some_people(1), score=score)):
        (frame,) = to_openpose(people)
        (got,), (expected,) = from_openpose(to_fractions(frame)), from_openpose(frame)
        np.testing.assert_allclose(got.xy, expected.xy, atol=1e-3)
        np.testing.assert_allclose(got.box, expected.box, atol=1e-3)


def test_confidence_negative_and_nan_points_are_missing():
    (frame,) = to_openpose(some_people(1))
    frame["people"][0]["hand_left_keypoints_2d"][2] = -1.0
    frame["people"][0]["hand_left_keypoints_2d"][3] = float("nan")
    frame["people"][0]["hand_left_keypoints_2d"][8] = 0.25
    (got,) = from_openpose(json.dumps(frame))
    assert got.score[0, 91:95].tolist() == [0, 0, 0.25, 1]
    assert np.isfinite(got.xy).all()


def test_a_neck_without_shoulders_is_lost_and_one_between_shoulders_stays():
    (frame,) = to_openpose(some_people(1))
    assert openpose_body(from_openpose(frame)[0])[2][0, 1]
    body = frame["people"][0]["pose_keypoints_2d"]
    body[6:9] = [0.0, 0.0, 0.0]
    assert not openpose_body(from_openpose(frame)[0])[2][0, 1]


def test_posedata_has_the_left_toes_before_the_right_ones():
    """The middle of big and small toe, in pixels and in fractions of the image; read back, all toes stand there."""
    people = some_people(1)
    data = to_posedata([people])
    left, right = people.xy[0, [17, 18]].mean(axis=0), people.xy[0, [20, 21]].mean(axis=0)
    np.testing.assert_allclose(data["pose_metas"][0].kps_body[18:], [left, right])
    fractions = data["pose_metas_original"][0]["keypoints_body"][18:, :2]
    np.testing.assert_allclose(fractions * (640, 480), [left, right], rtol=1e-6)
    (again,) = from_posedata(data)
    np.testing.assert_allclose(again.xy[0, [17, 18, 20, 21]], [left, left, right, right])


def test_the_node_and_the_command_write_the_same_25_points():
    (frame,) = to_openpose(some_people(2), confidence="score")
    frame["people"][1]["pose_keypoints_2d"][24:27] = [0.0, 0.0, 0.0]
    by_node, by_command = to_body25(frame)["people"], openpose_file(frame, body_25=True)["people"]
    for one, other, person in zip(by_node, by_command, frame["people"], strict=True):
        assert one["pose_keypoints_2d"] == other["pose_keypoints_2d"] and "foot_keypoints_2d" not in one
        hips = np.reshape(person["pose_keypoints_2d"], (18, 3))[[8, 11], 2]
        assert one["pose_keypoints_2d"][26] == hips.min(), "as sure as the less sure of the hips"


def test_what_is_no_pose_type_is_told_by_frame():
    posedata, dwposes = to_posedata([some_people(1)] * 2), to_dwposes([some_people(1)] * 2)
    del posedata["pose_metas"], posedata["pose_metas_original"][1]["width"]
    with pytest.raises(ValueError, match=r"POSEDATA, frame 1.*width"):
        from_posedata(posedata)
    with pytest.raises(ValueError, match=r"POSEDATA, frame 0: .*no attribute"):
        from_posedata({"pose_metas": ["a name"]})
    dwposes["poses"][1]["body_score"] = dwposes["poses"][1]["body_score"][:0]
    with pytest.raises(ValueError, match=r"DWPOSES, frame 1: .*out of bounds"):
        from_dwposes(dwposes, (480, 640))
    del dwposes["poses"][0]["bodies"]
    with pytest.raises(ValueError, match=r"DWPOSES, frame 0: .*no 'bodies'"):
        from_dwposes(dwposes, (480, 640))


def test_an_id_that_everybody_has_is_nobodys():
    """OpenPose without tracking writes person_id [-1], others [0], for all."""
    frame = to_openpose(some_people(2))
    for number, known in ((-1, None), (0, None)):
        for somebody in frame[0]["people"]:
            somebody["person_id"] = [number]
        assert from_openpose(frame)[0].id is known
