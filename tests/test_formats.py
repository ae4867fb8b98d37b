"""Each format against what its readers expect, round trips, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dwpose_core.formats import (
    from_coco,
    from_openpose,
    from_transformers,
    load_npz,
    openpose_body,
    openpose_face,
    save_npz,
    to_coco,
    to_openpose,
    to_transformers,
)
from dwpose_core.people import People
from tests.people_samples import LENGTHS, some_people


def scene_people(shared, name: str) -> tuple[People, dict]:
    scene = dict(np.load(shared / "golden" / "render" / f"{name}_scene.npz"))
    count = len(scene["keypoints133"])
    size = int(scene["H"]), int(scene["W"])
    return People(scene["keypoints133"], scene["scores133"], np.zeros((count, 4)), np.ones(count), size), scene


def assert_same(got: People, expected: People, names=("xy", "score", "box", "box_score", "id", "visibility")) -> None:
    assert got.image_size == expected.image_size
    for name in names:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("name", ["a", "b"])
def test_body_and_face_view_match_the_original(shared, name):
    people, scene = scene_people(shared, name)
    xy, score, visible = openpose_body(people)
    np.testing.assert_array_equal(xy, scene["keypoints134"][:, :18])
    others = np.arange(18) != 1
    np.testing.assert_array_equal(score[:, others], scene["scores134"][:, :18][:, others])
    np.testing.assert_array_equal(visible[:, 1], scene["scores134"][:, 1] == 1)  # the original's neck score is 0 or 1
    face, _, _ = openpose_face(people)
    np.testing.assert_array_equal(face[:, :68], scene["keypoints134"][:, 24:92])
    np.testing.assert_array_equal(face[:, 68:], xy[:, 14:16])


@pytest.mark.parametrize("name", ["a", "b"])
def test_openpose_json_matches_the_incumbent(shared, name):
    """Its JSON differs by our producer rule only: null becomes zeros, weak face points keep their place."""
    people, _ = scene_people(shared, name)
    expected = json.loads((shared / "golden" / "render" / f"{name}_openpose.json").read_text())
    (got,) = to_openpose(people)
    assert (got["canvas_height"], got["canvas_width"]) == (expected["canvas_height"], expected["canvas_width"])
    assert len(got["people"]) == len(expected["people"])
    for ours, theirs in zip(got["people"], expected["people"], strict=True):
        for key, values in theirs.items():
            values = [0.0] * LENGTHS[key] if values is None else values
            mine = np.reshape(ours[key], (-1, 3))
            mine = np.where(mine[:, 2:] == 0, 0, mine) if key.startswith("face") else mine
            np.testing.assert_array_equal(mine, np.reshape(values, (-1, 3)), err_msg=key)


def test_openpose_frames_have_the_types_readers_insist_on():
    frames = to_openpose([some_people(), People.empty((30, 40))])
    assert json.loads(json.dumps(frames)) == frames
    assert frames[1] == {"people": [], "canvas_height": 30, "canvas_width": 40}
    assert type(frames[0]["canvas_height"]) is int
    for person in frames[0]["people"]:
        for key, length in LENGTHS.items():
            assert len(person[key]) == length
            assert all(type(value) is float for value in person[key])
            assert set(person[key][2::3]) == {1.0}  # scores above and below 1 alike
    assert [person["person_id"] for person in frames[0]["people"]] == [5, 6]
    assert "person_id" not in to_openpose(replace(some_people(), id=None))[0]["people"][0]


def test_absent_parts_are_zeros_and_weak_face_points_keep_their_place():
    people = some_people(1)
    score = people.score.copy()
    score[0, 91:112] = 0.1  # left hand
    score[0, 30:40] = 0.1  # some of the face
    score[0, [1, 2]] = 0.1  # the eyes
    score[0, 0] = 0.1
    (person,) = to_openpose(replace(people, score=score))[0]["people"]
    assert person["hand_left_keypoints_2d"] == [0.0] * 63
    assert person["pose_keypoints_2d"][:3] == [0.0, 0.0, 0.0]
    face = np.reshape(person["face_keypoints_2d"], (70, 3))
    np.testing.assert_array_equal(face[:68, :2], people.xy[0, 23:91])
    np.testing.assert_array_equal(face[68:, :2], people.xy[0, [2, 1]])
    assert np.flatnonzero(face[:, 2] == 0).tolist() == [*range(7, 17), 68, 69]
    score[0, 23:91] = 0.1
    (person,) = to_openpose(replace(people, score=score))[0]["people"]
    assert person["face_keypoints_2d"] == [0.0] * 210


@pytest.mark.parametrize("place", [(0, 0), (np.nan, 3)])
def test_face_points_without_a_place_do_not_stretch_the_face(place):
    people = some_people(1)
    xy, score = people.xy.copy(), people.score.copy()
    xy[0, [1, 2, 50]], score[0, [1, 2, 50]] = place, 0
    (person,) = to_openpose(replace(people, xy=xy, score=score))[0]["people"]
    face = np.reshape(person["face_keypoints_2d"], (70, 3))
    assert face[[27, 68, 69], 2].tolist() == [0, 0, 0]
    seen = face[face[:, 2] > 0, :2]
    assert (face[:, :2] >= seen.min(axis=0)).all() and (face[:, :2] <= seen.max(axis=0)).all()


def test_a_nan_coordinate_never_reaches_the_json():
    people = some_people(1)
    people.xy[0, ::2] = np.nan
    (frame,) = to_openpose(people, confidence="score")
    json.dumps({key: value for key, value in frame["people"][0].items() if key != "bbox"}, allow_nan=False)
    assert sum(frame["people"][0]["hand_left_keypoints_2d"][2::3]) > 0


def test_openpose_round_trip_with_scores():
    frames = [some_people(3), People.empty((480, 640)), some_people(1, seed=1)]
    back = from_openpose(json.dumps(to_openpose(frames, confidence="score")))
    assert len(back) == 3
    for got, expected in zip(back, frames, strict=True):
        np.testing.assert_allclose(got.box, expected.box, rtol=1e-6)
        assert_same(got, expected, ("xy", "score", "box_score") if len(expected) else ("xy", "score"))
    assert back[0].id.tolist() == [5, 6, 7]


def test_openpose_round_trip_is_stable(shared):
    """Written, read and written again gives the same people, weak points included."""
    people, _ = scene_people(shared, "a")
    first = to_openpose(people)
    second = to_openpose(from_openpose(first))
    for before, after in zip(first[0]["people"], second[0]["people"], strict=True):
        for key in LENGTHS:
            np.testing.assert_allclose(after[key], before[key], rtol=1e-6, err_msg=key)


BROKEN = {
    "empty text": ("", "not JSON"),
    "a file name": ("pose.json", "not JSON.*contents"),
    "truncated": ('[{"people": [', "not JSON"),
    "not unicode": (b"\xff\xfe\xfa", "not JSON"),
    "bottomless": ("[" * 100_000, "not JSON"),
    "a number": ("3", "expected a frame"),
    "a number among frames": ([3], "frame 0: expected an object"),
    "nobody's frame": ([{"people": [], "canvas_height": 4, "canvas_width": 4}, {}], "frame 1: has no 'people'"),
    "animals": ({"version": "ap10k", "animals": [], "canvas_height": 4, "canvas_width": 4}, "frame 0: has animals"),
    "people as text": ({"people": "x", "canvas_height": 4, "canvas_width": 4}, "frame 0: 'people' must be a list"),
    "coco": ([{"image_id": 0, "keypoints": [0] * 51}], "frame 0: has no 'people': COCO-WholeBody.*DWPose Convert"),
    "no canvas": ({"people": []}, "frame 0: has no canvas_height.*connect an image"),
    "canvas of zero": ({"people": [], "canvas_height": 0, "canvas_width": 4}, "frame 0: canvas_height"),
    "half a canvas": ({"people": [], "canvas_height": 4}, "frame 0: canvas_height"),
    "canvas as text": ({"people": [], "canvas_height": "high", "canvas_width": 4}, "frame 0: canvas_height"),
    "endless canvas": ({"people": [], "canvas_height": 1e999, "canvas_width": 4}, "frame 0: canvas_height"),
}


def test_text_may_begin_with_a_byte_order_mark():
    """As an editor of Windows saves it, and as its text is pasted."""
    text = json.dumps(to_openpose(some_people(1)))
    for obj in ("\ufeff" + text, ("\ufeff" + text).encode()):
        assert len(from_openpose(obj)[0]) == 1


@pytest.mark.parametrize("case", BROKEN)
def test_broken_json_is_refused(case):
    obj, message = BROKEN[case]
    with pytest.raises(ValueError, match=message):
        from_openpose(obj)


def test_a_box_or_score_that_is_no_number_is_as_if_absent():
    (frame,) = to_openpose(some_people(1))
    frame["people"][0] |= {"bbox": [float("nan"), 0, 5, 5], "score": float("inf")}
    (people,) = from_openpose(json.dumps(frame))
    del frame["people"][0]["bbox"], frame["people"][0]["score"]
    (without,) = from_openpose(frame)
    np.testing.assert_array_equal(people.box, without.box)
    np.testing.assert_array_equal(people.box_score, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pose_keypoints_2d": [0.0] * 53}, "pose_keypoints_2d: has 53 numbers; expected 54 or 72 or 75"),
        ({"pose_keypoints_2d": [0.0] * 51}, "pose_keypoints_2d: has 51 numbers"),
        ({"face_keypoints_2d": [1.0] * 30}, "face_keypoints_2d: has 30 numbers; expected 210 or 204"),
        ({"hand_left_keypoints_2d": [1.0] * 60}, "hand_left_keypoints_2d: has 60 numbers"),
        ({"hand_left_keypoints_2d": ["a"] * 63}, "hand_left_keypoints_2d: expected a list of numbers"),
        ({"hand_left_keypoints_2d": {"0": 1}}, "hand_left_keypoints_2d: expected a list of numbers"),
        ({"hand_left_keypoints_2d": [[1.0, 2.0]] * 21}, "nested list must hold x, y, c"),
        ({"foot_keypoints_2d": 5}, "foot_keypoints_2d: has 1 numbers"),
        ({"bbox": [1, 2, 3]}, "bbox: has 3 numbers"),
        ({"score": "high"}, "score: expected"),
        ({"person_id": float("nan")}, "person_id: expected a whole number, got nan"),
        ({"person_id": float("inf")}, "person_id: expected"),
        ({"person_id": 1e30}, "person_id: expected"),
    ],
)
def test_broken_people_are_refused_by_place(changes, message):
    frames = to_openpose([some_people(1), some_people(2)])
    frames[1]["people"][1].update(changes)
    with pytest.raises(ValueError, match=f"frame 1, person 1.*{message}"):
        from_openpose(frames)
    frames[1]["people"][1] = None
    with pytest.raises(ValueError, match="frame 1, person 1: expected an object"):
        from_openpose(frames)


@pytest.mark.parametrize(("arguments", "options"), [((some_people(),), {"confidence": "logit"}), (([1],), {})])
def test_to_openpose_refuses(arguments, options):
    with pytest.raises(ValueError, match=r"choose 'binary' or 'score'|expected People"):
        to_openpose(*arguments, **options)


def test_coco_results_round_trip_and_rank_as_mmpose_does(shared):
    frames = [some_people(2), People.empty((100, 50)), some_people(1, seed=4)]
    results = json.loads(json.dumps(to_coco(frames, [7, 8, 9])))
    assert [result["image_id"] for result in results] == [7, 7, 9]
    assert {key: len(results[0][key]) for key in ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts")} == {
        "keypoints": 51,
        "foot_kpts": 18,
        "face_kpts": 204,
        "lefthand_kpts": 63,
    }
    back = from_coco(results, {7: (480, 640), 8: (100, 50), 9: (480, 640)})
    for got, expected in zip(back, frames, strict=True):
        assert_same(got, expected, ("xy", "score", "box_score"))
        np.testing.assert_allclose(got.box, expected.box, rtol=1e-6)
    weak = replace(frames[0], score=np.where(np.arange(133) < 2, np.float32(0.5), np.float32(0.2))[None].repeat(2, 0))
    np.testing.assert_allclose([r["score"] for r in to_coco(weak, 7)], 0.5 * weak.box_score)
    assert to_coco(replace(weak, score=np.zeros((2, 133))), 7)[0]["score"] == 0


def test_pycocotools_reads_our_results():
    coco = pytest.importorskip("pycocotools.coco").COCO()
    coco.dataset = {"images": [{"id": 7}], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    coco.createIndex()
    loaded = coco.loadRes(to_coco(some_people(2), 7))
    assert len(loaded.getAnnIds(imgIds=[7])) == 2


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([{"image_id": 1, "keypoints": [0] * 50}], "result 0: keypoints"),
        ([{"image_id": 1, "bbox": [0, 0, 1]}], "result 0: bbox"),
        ([{"image_id": 1}, {"image_id": 5}], "result 1: .*image_id"),
        (["x"], "result 0"),
    ],
)
def test_broken_coco_results_are_refused(results, message):
    with pytest.raises(ValueError, match=message):
        from_coco(results, {1: (10, 10)})
    with pytest.raises(ValueError, match="2 image ids"):
        to_coco(some_people(), [1, 2])


@pytest.mark.parametrize("return_tensors", ["np", "pt"])
def test_transformers_round_trip(return_tensors):
    frames = [some_people(2), People.empty((100, 50))]
    results = to_transformers(frames, return_tensors=return_tensors)
    assert [len(persons) for persons in results] == [2, 0]
    assert {key: tuple(value.shape) for key, value in results[0][0].items()} == {
        "keypoints": (133, 2),
        "scores": (133,),
        "labels": (133,),
        "bbox": (4,),
    }
    for got, expected in zip(from_transformers(results, [(480, 640), (100, 50)]), frames, strict=True):
        assert_same(got, expected, ("xy", "score", "box"))


def test_transformers_threshold_keeps_labels():
    people = some_people(1)
    people.score[0, :100] = 0.3
    (((person),),) = to_transformers(people, threshold=0.3)
    assert person["labels"].tolist() == list(range(100, 133))
    (back,) = from_transformers([[person]], [(480, 640)])
    np.testing.assert_array_equal(back.score[0, 100:], people.score[0, 100:])
    assert not back.score[0, :100].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([133])}, "labels"),
        ({"labels": np.array([0.5])}, "labels"),
        ({"labels": np.arange(3)}, "keypoints: expected"),
        ({"scores": np.zeros(5)}, "scores: expected"),
        ({"bbox": np.zeros(3)}, "bbox: expected"),
    ],
)
def test_broken_transformers_results_are_refused(changes, message):
    ((person,),) = to_transformers(some_people(1))
    with pytest.raises(ValueError, match=f"image 0, person 0: {message}"):
        from_transformers([[{**person, **changes}]], [(480, 640)])
    with pytest.raises(ValueError, match="1 images but 2"):
        from_transformers([[person]], [(1, 1), (1, 1)])
    with pytest.raises(ValueError, match="choose 'np' or 'pt'"):
        to_transformers(some_people(1), return_tensors="tf")
    del person["scores"]
    with pytest.raises(ValueError, match="has no 'scores'"):
        from_transformers([[person]], [(480, 640)])


def test_npz_round_trip(tmp_path):
    rng = np.random.default_rng(2)
    frames = [
        some_people(3),
        People.empty((10, 20)),
        replace(some_people(2, (7, 9), seed=1), id=None, visibility=rng.random((2, 133)), source="dwpose-m on cpu"),
        some_people(1, seed=3),
    ]
    path = tmp_path / "clip.npz"
    save_npz(path, frames)
    for got, expected in zip(load_npz(path), frames, strict=True):
        assert_same(got, expected)
        assert got.source == expected.source
    assert [file.name for file in tmp_path.iterdir()] == ["clip.npz"]
    save_npz(path, frames[0])
    assert len(load_npz(path)) == 1
    save_npz(path, [])
    assert load_npz(path) == []


def test_an_interrupted_npz_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "clip.npz"
    save_npz(path, some_people(3))

    def full_disk(file, **arrays):
        with open(file, "wb") as stream:
            stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_npz(path, some_people(1))
    assert len(load_npz(path)[0]) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["clip.npz"]


def test_broken_npz_is_refused(tmp_path):
    path = tmp_path / "clip.npz"
    save_npz(path, some_people(3))
    whole = path.read_bytes()
    arrays = dict(np.load(path))
    for content in (b"", b"junk", whole[: len(whole) // 2], whole[:3000] + bytes(200) + whole[3200:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"clip\.npz is not a whole file"):
            load_npz(path)
    for wrong in ({"xy": arrays["xy"][:1]}, {"count": np.array([1, 1])}, {"box": np.zeros(3)}):
        np.savez(path, **{**arrays, **wrong})
        with pytest.raises(ValueError, match=r"clip\.npz is not a whole file"):
            load_npz(path)
    np.savez(path, xy=arrays["xy"])
    with pytest.raises(ValueError, match=r"clip\.npz is not a whole file"):
        load_npz(path)
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        save_npz(tmp_path / "clip.bin", some_people(1))


def test_an_image_id_may_be_numpys():
    (result,) = to_coco(some_people(1), np.int64(3))
    assert result["image_id"] == 3 and json.dumps(result)
    assert to_coco([some_people(1)], 3) == [result], "as `detect` gives the people of a list of one"
    with pytest.raises(ValueError, match="2 images but 1 image ids"):
        to_coco([some_people(1)] * 2, 3)


def test_nobody_may_be_picked():
    assert len(some_people(2)[[]]) == 0


def test_whatever_damage_makes_an_npz_raise_is_a_value_error(tmp_path):
    path = tmp_path / "people.npz"
    save_npz(path, People.empty((8, 8)))
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    for place in (6, 8, 10):  # version, flags, method of the first member, in zipfile's table of contents
        data = bytearray(whole)
        data[directory + place] = 0x61
        path.write_bytes(data)
        with pytest.raises(ValueError, match="not a whole file of save_npz"):
            load_npz(path)
