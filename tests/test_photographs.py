"""The score on labelled photographs: both forms of labels, and what counts as right."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.photographs import SEEN, read_labels, score_people, score_photographs, score_varied
from dwpose_core.backends import TorchRunner
from dwpose_core.models.weights import load_pose
from dwpose_core.skeleton import FLIP_INDICES, NUM_KEYPOINTS
from training.data.wholebody import FIELDS


@pytest.fixture
def points() -> np.ndarray:
    points = np.random.default_rng(0).uniform(20, 180, (NUM_KEYPOINTS, 3))
    points[:, 2] = 2
    return points


def written(folder, content):
    path = folder / "labels.json"
    path.write_text(json.dumps(content))
    return path


def test_a_coco_wholebody_file_is_read_like_our_own(points, tmp_path):
    ours = {"annotations": [{"image": "a.jpg", "bbox": [0, 0, 200, 200], "keypoints": points.ravel().tolist()}]}
    person = {"image_id": 7, "bbox": [0, 0, 200, 200], "iscrowd": 0, "num_keypoints": 17}
    ends = np.cumsum((17, 6, 68, 21, 21))
    parts = np.split(points, ends[:-1])
    person |= {field: part.ravel().tolist() for field, part in zip(FIELDS, parts, strict=True)}
    nobody, crowd = person | {"num_keypoints": 0}, person | {"iscrowd": 1}
    coco = {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [person, nobody, crowd]}
    for content in (ours, coco):
        (name, people) = next(iter(read_labels(written(tmp_path, content)).items()))
        assert name == "a.jpg" and len(people) == 1
        np.testing.assert_allclose(people[0]["keypoints"], points, rtol=1e-6)


def test_plain_coco_has_bodies_alone(points, tmp_path):
    person = {"image_id": 7, "bbox": [0, 0, 50, 200], "num_keypoints": 17, "keypoints": points[:17].ravel().tolist()}
    small = person | {"bbox": [0, 0, 90, 60]}
    path = written(tmp_path, {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [person, small]})
    assert len(read_labels(path)["a.jpg"]) == 2
    (found,) = read_labels(path, least_height=64)["a.jpg"]
    np.testing.assert_allclose(found["keypoints"][:17], points[:17], rtol=1e-6)
    assert not found["keypoints"][17:].any()


def test_hidden_points_can_be_left_out(points, tmp_path):
    points[:5, 2] = 1
    entry = {"image": "a.jpg", "bbox": [0, 0, 200, 200], "keypoints": points.ravel().tolist()}
    path = written(tmp_path, {"annotations": [entry]})
    labelled = [read_labels(path, least)["a.jpg"][0]["keypoints"][:, 2] > 0 for least in (1, SEEN)]
    assert labelled[0].all() and labelled[1].tolist() == [False] * 5 + [True] * (NUM_KEYPOINTS - 5)


def test_figures_of_a_known_error(points):
    """Everything 3 px off but the nose, which is 100: 16 of 17 right, and face and hands by their size."""
    entry = {"bbox": [0, 0, 200, 200], "keypoints": points}
    found = points[:, :2] + (3, 0)
    found[0] += 100
    figures = score_people([(entry, found)])
    assert figures["body_pck_torso"] == figures["body_pck_box"] == pytest.approx(16 / 17)
    assert figures["foot_pck_box"] == 1
    face = points[23:91, :2]
    assert figures["face_error"] == pytest.approx(3 / np.ptp(face, axis=0).max())
    assert 0.9 < figures["body_oks"] < 1
    assert figures["face_pck"] == figures["hand_pck"] == 1


def test_pck_of_face_and_hands_is_of_their_own_size(points):
    entry = {"bbox": [0, 0, 200, 200], "keypoints": points}
    for part, name, share in ((slice(23, 91), "face", 0.1), (slice(91, 112), "hand", 0.2)):
        side = np.ptp(points[part, :2], axis=0).max()
        found = points[:, :2].copy()
        found[part][:7] += (1.01 * share * side, 0)
        found[part][7:] += (0.99 * share * side, 0)
        right = 1 - 7 / (68 if name == "face" else 42)
        assert score_people([(entry, found)])[f"{name}_pck"] == pytest.approx(right)


def test_a_mirrored_picture_in_the_mirror_is_the_picture(tmp_path):
    """The same figures from a picture and from its mirror image, labels mirrored too, that is looked at in a mirror."""
    picture = cv2.imread(str(Path(__file__).parents[1] / "docs" / "images" / "astronaut.jpg"))
    width = picture.shape[1]
    truth = np.random.default_rng(3).uniform(50, 400, (133, 2))
    other = (truth * (-1, 1) + (width - 1, 0))[FLIP_INDICES]
    for name, image, xy, left in (
        ("as is", picture, truth, 40),
        ("mirrored", picture[:, ::-1], other, width - 40 - 430),
    ):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), image)
        rows = np.column_stack((xy, np.full(133, 2))).ravel().tolist()
        entry = {"image": "a.png", "bbox": [left, 10, 430, 500], "keypoints": rows, "source": "x"}
        (tmp_path / name / "labels.json").write_text(json.dumps({"annotations": [entry]}))
    pose = TorchRunner(load_pose("dwpose-nano"))

    def figures(name: str, **view) -> dict[str, float]:
        return symmetric(score_photographs(pose, read_labels(tmp_path / name / "labels.json"), tmp_path / name, **view))

    def symmetric(found: dict[str, float]) -> dict[str, float]:
        """Without those whose OKS sigmas differ from left to right."""
        return {key: value for key, value in found.items() if key not in ("foot_oks", "face_oks")}

    plain, mirrored = figures("as is", move=(0.02, 0.0)), figures("mirrored", move=(-0.02, 0.0), mirror=True)
    assert plain == pytest.approx(mirrored, rel=1e-5, nan_ok=True)
    assert figures("as is") != pytest.approx(figures("as is", mirror=True), rel=1e-5, nan_ok=True)
    assert figures("as is") != pytest.approx(plain, rel=1e-5, nan_ok=True), "another box"
    folders = [tmp_path / name for name in ("as is", "mirrored")]
    views = [symmetric(score_varied(pose, read_labels(folder / "labels.json"), folder)) for folder in folders]
    assert views[0] == pytest.approx(views[1], rel=1e-5, nan_ok=True)
