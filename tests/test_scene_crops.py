"""Crops of people in rendered scenes: every label stays on what it marks, whatever box, angle, size or side."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.synthetic import partial, scene_crops
from training.synthetic.labels import HIDDEN, OCCLUDED, OUTSIDE, VISIBLE
from training.synthetic.pool import CropPool
from training.synthetic.scene_crops import ScenePeople, build_scene_pool, scene_crop

SIZE = (144, 192)
DOTS = {5: (80, 60), 6: (220, 60), 11: (110, 170), 12: (190, 170)}  # shoulders and hips in the picture
SIDES = {5: (255, 0, 0), 6: (0, 0, 255), 11: (255, 0, 0), 12: (0, 0, 255)}  # RGB: left red, right blue


@pytest.fixture
def folder(tmp_path) -> Path:
    """One picture, 320 x 240, with one person large enough, whose shoulders and hips are seen as dots."""
    picture = np.full((240, 320, 3), 60, np.uint8)
    for k, place in DOTS.items():
        cv2.circle(picture, place, 9, SIDES[k][::-1], -1)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), picture)
    points, state = np.full((133, 2), 400.0), np.full(133, OUTSIDE)
    for k, place in DOTS.items():
        points[k], state[k] = place, VISIBLE
    points[13], state[13] = (150, 200), OCCLUDED
    points[14], state[14] = (150, 180), HIDDEN
    person = {
        "image_id": 7,
        "bbox": [60, 40, 180, 160],
        "full_bbox": [60.0, 40.0, 180.0, 400.0],
        "wholebody_xy": points.ravel().tolist(),
        "wholebody_state": state.tolist(),
    }
    small = person | {"bbox": [60, 40, 40, 47]}
    unseen = person | {"wholebody_state": np.where(np.arange(133) < 12, state, OUTSIDE).clip(max=HIDDEN).tolist()}
    content = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": [small, person, unseen]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return tmp_path


def test_only_those_large_and_seen_enough(folder):
    people = ScenePeople(folder)
    assert len(people) == 1 and people.seen_box[0].tolist() == [60, 40, 180, 160]
    assert people.visible[0, [5, 13, 14, 20]].tolist() == [VISIBLE, HIDDEN, HIDDEN, OUTSIDE]


def test_labels_stay_on_what_they_mark(folder):
    people, mirrored, turned = ScenePeople(folder), 0, 0
    for seed in range(40):
        crop = scene_crop(people, 0, SIZE, np.random.default_rng(seed))
        assert crop.image.shape == (192, 144, 3) and crop.image.dtype == np.uint8
        seen = [k for k in DOTS if crop.visible[k] == VISIBLE]
        x, y = crop.keypoints[seen].round().astype(int).T
        red = crop.image[y, x, 0].astype(int) - crop.image[y, x, 2]
        assert (np.abs(red) > 150).all(), "the middle of a dot"
        colours = [np.sign(value) * (1 if k in (5, 11) else -1) for k, value in zip(seen, red, strict=True)]
        assert len(set(colours)) == 1, "left and right change together"
        mirrored += colours[0] < 0
        # Seen from the hip the left shoulder is on the left, also in a mirrored crop, where it was the right one.
        across, up = crop.keypoints[6] - crop.keypoints[5], crop.keypoints[5] - crop.keypoints[11]
        assert across[0] * up[1] < across[1] * up[0]
        turned += abs(crop.keypoints[5, 1] - crop.keypoints[6, 1]) > 5
        outside = crop.visible == OUTSIDE
        beyond = ((crop.keypoints < -0.5) | (crop.keypoints > np.array(SIZE) - 0.5)).any(1)
        assert outside[beyond].all() and outside[20]
    assert 8 < mirrored < 32 and turned > 5


def test_a_box_of_what_is_seen_or_of_the_whole_person(folder, monkeypatch):
    """Undisturbed: the box, padded by 1.25, fits the crop and lies in its middle; beyond the picture is black."""
    monkeypatch.setattr(scene_crops, "draw_jitter", lambda size, rotated, turned, rng: (0.0, 1.0, np.zeros(2)))
    monkeypatch.setattr(scene_crops, "PARTIAL", 0.0)
    people = ScenePeople(folder)
    for share, bottom in ((0.0, 200), (1.0, 240)):  # the whole person ends below the picture
        monkeypatch.setattr(scene_crops, "WHOLE_BOX", share)
        crop = scene_crop(people, 0, SIZE, np.random.default_rng(0))
        scale = min(144 / (1.25 * 180), 192 / (1.25 * (bottom - 40)))
        middle = np.array((150, (40 + bottom) / 2)) - 0.5
        expected = (np.array(DOTS[5]) - middle) * scale + (71.5, 95.5)
        mirrored = (143, 0) + ((np.array(DOTS[6]) - middle) * scale + (71.5, 95.5)) * (-1, 1)
        assert min(np.abs(crop.keypoints[5] - place).max() for place in (expected, mirrored)) < 1e-3
        assert crop.image[-1].max() == 0 and crop.image[96].min() > 20


def test_parts_fill_the_crop_and_may_end_at_the_border(folder, monkeypatch):
    """The rest is larger, and either still there beyond the box or black and outside."""
    monkeypatch.setattr(scene_crops, "draw_jitter", lambda size, rotated, turned, rng: (0.0, 1.0, np.zeros(2)))
    monkeypatch.setattr(scene_crops, "WHOLE_BOX", 0.0)
    monkeypatch.setattr(scene_crops, "PARTIAL", 1.0)
    monkeypatch.setattr(partial, "FEWEST", 1)
    people, ended, larger = ScenePeople(folder), 0, 0
    whole = 0.64  # px of the crop per px of the picture, for the whole box
    for seed in range(80):
        crop = scene_crop(people, 0, SIZE, np.random.default_rng(seed))
        scale = np.linalg.norm(crop.keypoints[6] - crop.keypoints[5]) / 140
        assert scale > whole - 1e-6
        larger += scale > 1.05 * whole
        on = [k for k in (*DOTS, 13, 14) if ((crop.keypoints[k] > 0) & (crop.keypoints[k] < np.array(SIZE) - 1)).all()]
        black = [k for k in on if crop.image[tuple(crop.keypoints[k].round().astype(int)[::-1])].max() == 0]
        assert (crop.visible[black] == OUTSIDE).all()
        assert (crop.visible[[k for k in on if k not in black]] != OUTSIDE).all()
        ended += bool(black)
    assert 40 < larger and 10 < ended < 70


def test_pools_are_the_same_for_any_number_of_workers(folder):
    for workers in (1, 2):
        build_scene_pool(folder, folder / str(workers), "scenes", 250, 3, (36, 48), workers)
    one, two = (CropPool.load(folder / str(workers), "scenes") for workers in (1, 2))
    assert one.images.shape == (250, 48, 36, 3) and len(np.unique(one.images.sum((1, 2, 3)))) > 200
    for field in ("images", "keypoints", "visible"):
        assert np.array_equal(getattr(one, field), getattr(two, field))


def test_errors_say_what_to_do(folder):
    with pytest.raises(ValueError, match=r"training\.synthetic\.generate"):
        ScenePeople(folder / "nowhere")
    content = json.loads((folder / "annotations.json").read_text())
    (folder / "annotations.json").write_text(json.dumps(content | {"annotations": content["annotations"][:1]}))
    with pytest.raises(ValueError, match="nobody of 48 px"):
        ScenePeople(folder)
    del content["annotations"][0]["wholebody_state"]
    (folder / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="wholebody_state"):
        ScenePeople(folder)
