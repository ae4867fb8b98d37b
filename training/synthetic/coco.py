"""Labels of scenes in COCO-WholeBody form (Jin et al., ECCV 2020), read by `training.data.wholebody` and pycocotools.

Conventions, where COCO leaves a choice or has none:
    bbox, segmentation, area   of the pixels in which the person is seen; the box ends one past the last pixel
    keypoints, foot_kpts       value 2 seen, 1 hidden (by the own body, other people or things), 0 outside the picture;
                               0 too for the nose and eyes of a head seen from behind, as annotators leave them out
    face, hands                labelled as a whole or not at all, as in COCO-WholeBody: valid when half of the part lies
                               in the picture and a quarter of it is seen; otherwise flag false, box and points zero
    face_box, ..hand_box       of the part's points in the picture, grown by a tenth of its size, within the picture
Points are stored with whole numbers at pixel centres, like ours; boxes with whole numbers at pixel edges, like COCO's.
Beyond COCO-WholeBody, per person:
    wholebody_xy      133 x 2, true positions of all points, outside the picture and hidden too
    wholebody_state   133 of 0 outside, 1 hidden by the own body, 2 seen, 3 hidden by another person or a thing
    full_bbox         box of the whole person, hidden and outside parts included
    pose              name of the pose
"""

from __future__ import annotations

import numpy as np
import torch

from dwpose_core.skeleton import KEYPOINT_NAMES, PARTS

from ..small_simcc import turned_away
from .labels import OUTSIDE, VISIBLE
from .scenes import PersonLabel

LISTS = {
    "keypoints": "body",
    "foot_kpts": "foot",
    "face_kpts": "face",
    "lefthand_kpts": "left_hand",
    "righthand_kpts": "right_hand",
}
PART_FIELDS = {"face": "face", "lefthand": "left_hand", "righthand": "right_hand"}
VALID_INSIDE, VALID_SEEN = 0.5, 0.25  # shares of a part's points
GROW = 0.1
# COCO's skeleton, 1-based.
SKELETON = (
    *((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11)),
    *((2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)),
)
CATEGORY = {
    "id": 1,
    "name": "person",
    "supercategory": "person",
    "keypoints": list(KEYPOINT_NAMES[:17]),
    "skeleton": [list(pair) for pair in SKELETON],
}
MAX_PEOPLE = 10  # in one picture; annotation ids are picture id * 10 + place


def encode_mask(mask: np.ndarray) -> dict:
    """(h, w) bool -> compressed run lengths as COCO json holds them."""
    try:
        from pycocotools.mask import encode
    except ImportError as error:
        raise ImportError('masks need pycocotools: pip install "dwpose-torch[synthetic]"') from error
    rle = encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(v), 2) for v in np.ravel(values)]


def _part_box(points: np.ndarray, size: tuple[int, int]) -> list[float]:
    """x, y, width, height of points (n, 2) in a (width, height) picture, pixel edges."""
    low, high = points.min(0), points.max(0)
    grow = GROW * (high - low).max() + 0.5
    low, high = np.clip((low - grow + 0.5, high + grow + 0.5), 0, size)
    return _rounded((*low, *(high - low)))


def seen_box(mask: np.ndarray) -> list[int]:
    """x, y, width, height in pixels of a mask (h, w) that is not empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def annotation(person: PersonLabel, size: tuple[int, int], image_id: int, place: int) -> dict:
    """One entry of `annotations` for a person in a picture of `size` (width, height)."""
    value = np.where(person.state == VISIBLE, 2, np.where(person.state == OUTSIDE, 0, 1))
    points, state = (torch.from_numpy(column[None]) for column in (person.keypoints, person.state))
    value[turned_away(points, state)[0].numpy()] = 0
    labelled = np.column_stack((np.where(value[:, None] > 0, person.keypoints, 0), value))
    entry = {
        "id": image_id * MAX_PEOPLE + place,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": seen_box(person.mask),
        "area": int(person.mask.sum()),
        "segmentation": encode_mask(person.mask),
        "num_keypoints": int((value[:17] > 0).sum()),
    }
    for field, part in PART_FIELDS.items():
        state = person.state[PARTS[part]]
        inside = state != OUTSIDE
        valid = bool(inside.mean() >= VALID_INSIDE and (state == VISIBLE).mean() >= VALID_SEEN)
        entry[f"{field}_valid"] = valid
        entry[f"{field}_box"] = _part_box(person.keypoints[PARTS[part]][inside], size) if valid else [0.0] * 4
        if not valid:
            labelled[PARTS[part]] = 0
    entry["foot_valid"] = bool((value[PARTS["foot"]] > 0).any())
    for field, part in LISTS.items():
        entry[field] = _flat(labelled[PARTS[part]])
    low, high = person.full_box[:2] + 0.5, person.full_box[2:] + 0.5
    entry["full_bbox"] = _rounded((*low, *(high - low)))
    entry["wholebody_xy"] = _rounded(person.keypoints)
    entry["wholebody_state"] = person.state.tolist()
    entry["pose"] = person.style
    return entry


def _flat(rows: np.ndarray) -> list[float | int]:
    return [number for x, y, v in rows for number in (round(float(x), 2), round(float(y), 2), int(v))]
