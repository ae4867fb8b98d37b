"""The score on labelled photographs: both forms of labels, and what counts as right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.photographs import SEEN, read_labels, score_people
from dwpose_core.skeleton import NUM_KEYPOINTS
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
