"""Pictures that have COCO-WholeBody labels already, as scenes for a detector.

Those of training.synthetic.generate, whose people stand in one space with ground, light and shadows; or COCO itself,
where its licence suits. Needs bbox, segmentation, keypoints and, where present, foot_kpts of each person.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from ..data import run_lengths
from ..data.wholebody import DataSource
from .scenes import KEPT_SIDE, KINDS, Scene

PERSON = 1  # COCO's category
SEEN = 2  # COCO's visibility: labelled and visible


def read_mask(segmentation: dict | list, size: tuple[int, int]) -> np.ndarray:
    """Run lengths as they are, or COCO's polygons in a picture of `size` (h, w) -> (h, w) uint8 of 0 and 1.

    Raises:
        ImportError: for polygons, without pycocotools.
    """
    if isinstance(segmentation, dict):
        return run_lengths.decode(segmentation)
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError('polygons need pycocotools: pip install "dwpose-torch[train]"') from error
    return mask.decode(mask.merge(mask.frPyObjects(segmentation, *size)))


class LabelledPictures:
    """All pictures of `sources` that hold no crowd (a box around many people teaches the wrong thing).

    Raises:
        ValueError: in `scene`, for a picture that cannot be read.
    """

    def __init__(self, sources: tuple[DataSource, ...]):
        self._pictures: list[tuple[Path, list[dict]]] = []  # file and its people
        for source in sources:
            content = json.loads(Path(source.annotations).read_text())
            people: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
            for annotation in content["annotations"]:
                if annotation["category_id"] == PERSON:
                    people[annotation["image_id"]].append(annotation)
            for image in sorted(content["images"], key=lambda row: row["id"]):
                if not any(person.get("iscrowd") for person in people[image["id"]]):
                    self._pictures.append((Path(source.images) / image["file_name"], people[image["id"]]))

    def __len__(self) -> int:
        return len(self._pictures)

    def scene(self, k: int, side: int) -> Scene:
        """Picture k with its longer side at `side`."""
        path, people = self._pictures[k]
        picture = cv2.imread(str(path))
        if picture is None:
            raise ValueError(f"{path} is not a readable picture")
        size = np.maximum(np.round(np.array(picture.shape[1::-1]) * side / max(picture.shape[:2])).astype(int), 1)
        scale = size / picture.shape[1::-1]
        mask = np.zeros(picture.shape[:2], np.uint8)
        boxes, points = [np.zeros((0, 4))], [np.zeros((0, 3))]
        for person in people:
            mask |= read_mask(person["segmentation"], picture.shape[:2])
            x, y, w, h = person["bbox"]
            boxes.append(np.array([(x, y, x + w, y + h)]) * np.tile(scale, 2))
            values = [*person.get("keypoints", []), *person.get("foot_kpts", [])]
            triplets = np.array(values, float).reshape(-1, 3)[:KINDS]
            kinds = np.flatnonzero(triplets[:, 2] == SEEN)
            points.append(np.column_stack(((triplets[kinds, :2] + 0.5) * scale, kinds)))
        boxes = np.concatenate(boxes).astype(np.float32)
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(1) >= KEPT_SIDE]
        shrink = cv2.INTER_AREA if scale[0] < 1 else cv2.INTER_LINEAR
        image = cv2.cvtColor(cv2.resize(picture, size.tolist(), interpolation=shrink), cv2.COLOR_BGR2RGB)
        mask = cv2.resize(mask * 255, size.tolist(), interpolation=shrink)
        return Scene(image, boxes, mask, np.concatenate(points).astype(np.float32))
