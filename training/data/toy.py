"""Drawn people with 133 keypoints: a data set that needs no download, for the `debug` configuration and the tests."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from dwpose_core.skeleton import NUM_KEYPOINTS, PARTS

from ..pictures import imwrite
from .wholebody import FIELDS, DataSource

# Limbs as pairs of COCO body keypoints; each has a colour of its own, so left and right can be told apart.
LIMBS = (
    *((5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16)),
    *((5, 6), (11, 12), (5, 11), (6, 12), (0, 5), (0, 6)),
)


def pose(rng: np.random.Generator, center: np.ndarray, height: float) -> np.ndarray:
    """(133, 2) keypoints of one figure with random arms and legs."""
    xy = np.zeros((NUM_KEYPOINTS, 2))
    unit = height / 8
    body = xy[PARTS["body"]]
    for side, sign in ((0, 1), (1, -1)):  # the person's left is on the image's right
        body[5 + side] = (sign * unit, -2 * unit)
        body[11 + side] = (sign * 0.6 * unit, 0.5 * unit)
        angle = rng.uniform(-1.2, 1.4, 2)
        body[7 + side] = body[5 + side] + 1.3 * unit * np.array((sign * np.cos(angle[0]), np.sin(angle[0])))
        body[9 + side] = body[7 + side] + 1.2 * unit * np.array((sign * np.cos(angle[1]), np.sin(angle[1])))
        angle = rng.uniform(-0.2, 0.5, 2)
        body[13 + side] = body[11 + side] + 1.6 * unit * np.array((sign * np.sin(angle[0]), np.cos(angle[0])))
        body[15 + side] = body[13 + side] + 1.5 * unit * np.array((sign * np.sin(angle[1]), np.cos(angle[1])))
        body[1 + side] = (sign * 0.25 * unit, -3.3 * unit)
        body[3 + side] = (sign * 0.6 * unit, -3.2 * unit)
        foot = body[15 + side] + unit * np.array(((sign * 0.5, 0.2), (sign * 0.6, 0.3), (-sign * 0.1, 0.25)))
        xy[17 + 3 * side : 20 + 3 * side] = foot
        fan = np.linspace(-0.8, 0.8, 5)[:, None] + np.arctan2(*(body[9 + side] - body[7 + side])[::-1])
        reach = np.linspace(0.25, 0.7, 4)[None] * unit
        hand = body[9 + side] + np.stack((reach * np.cos(fan), reach * np.sin(fan)), axis=-1).reshape(20, 2)
        xy[PARTS["left_hand" if side == 0 else "right_hand"]] = np.concatenate((body[[9 + side]], hand))
    body[0] = (0, -3.1 * unit)
    turn = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    xy[PARTS["face"]] = body[0] + 0.5 * unit * np.stack((np.cos(turn), 1.2 * np.sin(turn)), axis=1)
    return xy + center


def draw(image: np.ndarray, xy: np.ndarray) -> None:
    """One figure onto an (H, W, 3) uint8 image, in place."""
    points = [tuple(point) for point in np.rint(xy).astype(int).tolist()]
    width = max(2, int(np.ptp(xy[:, 1]) / 30))
    for i, (a, b) in enumerate(LIMBS):
        hue = np.uint8([[[i * 180 // len(LIMBS), 255, 255]]])
        colour = tuple(int(value) for value in cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0])
        cv2.line(image, points[a], points[b], colour, width, cv2.LINE_AA)
    for index in range(17, NUM_KEYPOINTS):
        shade = 120 + index
        cv2.circle(image, points[index], max(1, width // 3), (shade, shade, 255 - shade // 2), -1, cv2.LINE_AA)


def write_toy_data(
    folder: str | Path, people: int = 8, seed: int = 0, size: tuple[int, int] = (160, 128)
) -> DataSource:
    """`people` images with one figure each plus their annotation file; size (H, W) of an image."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    cuts = [PARTS[name].start for name in ("foot", "face", "left_hand", "right_hand")]
    for i in range(1, people + 1):
        image = np.full((*size, 3), rng.integers(20, 120, 3), np.uint8)
        xy = pose(rng, np.array((size[1] / 2, size[0] * 0.5)) + rng.normal(0, 3, 2), size[0] * 0.75)
        draw(image, xy)
        imwrite(folder / f"{i:06d}.jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))
        low, high = xy.min(0).clip(0), np.minimum(xy.max(0), (size[1] - 1, size[0] - 1))
        labelled = np.column_stack((xy, np.full(NUM_KEYPOINTS, 2.0)))
        lists = {name: part.ravel().tolist() for name, part in zip(FIELDS, np.split(labelled, cuts), strict=True)}
        box = [*low.tolist(), *(high - low).tolist()]
        images.append({"id": i, "file_name": f"{i:06d}.jpg", "height": size[0], "width": size[1]})
        annotations.append(
            {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "num_keypoints": 17, "bbox": box}
            | {"area": box[2] * box[3] * 0.5, **lists}
        )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return DataSource(str(folder / "annotations.json"), str(folder))
