"""Pictures that have COCO-WholeBody labels already, as scenes for a detector.

Those of training.synthetic.generate, whose people stand in one space with ground, light and shadows; or COCO itself,
where its licence suits. Needs bbox, segmentation, keypoints and, where present, foot_kpts of each person.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..data.wholebody import DataSource
from ..pictures import imread
from .scenes import KEPT_SIDE, KINDS, Scene

PERSON = 1  # COCO's category
SEEN = 2  # COCO's visibility: labelled and visible


class LabelledPictures:
    """All pictures of `sources` that hold no crowd (a box around many people teaches the wrong thing).

    Raises:
        ImportError: without pycocotools.
        ValueError: for a source without people, a picture that is not there, and people without a mask; in `scene`, for
            a picture that cannot be read.
    """

    def __init__(self, sources: tuple[DataSource, ...]):
        self._pictures: list[tuple] = []  # (COCO, image row, folder)
        if not sources:
            return
        try:
            from pycocotools.coco import COCO
        except ImportError as error:
            raise ImportError('labelled pictures need pycocotools: pip install "dwpose-torch[train]"') from error
        for source in sources:
            coco = COCO(source.annotations)
            if not coco.getAnnIds(catIds=[PERSON]):
                raise ValueError(f"{source.annotations} has nobody of category {PERSON}, COCO's number for a person")
            for image in coco.loadImgs(sorted(coco.getImgIds())):
                people = coco.loadAnns(coco.getAnnIds(image["id"], catIds=[PERSON]))
                if any(person.get("iscrowd") for person in people):
                    continue
                if not (Path(source.images) / image["file_name"]).is_file():
                    raise ValueError(f"{Path(source.images) / image['file_name']} of {source.annotations} is not there")
                if bare := [person["id"] for person in people if not person.get("segmentation")]:
                    raise ValueError(f"annotation {bare[0]} of {source.annotations} has no segmentation")
                self._pictures.append((coco, image, Path(source.images)))

    def __len__(self) -> int:
        return len(self._pictures)

    def scene(self, k: int, side: int) -> Scene:
        """Picture k with its longer side at `side`."""
        coco, row, folder = self._pictures[k]
        picture = imread(folder / row["file_name"])
        if picture is None:
            raise ValueError(f"{folder / row['file_name']} is not a readable picture")
        size = np.maximum(np.round(np.array(picture.shape[1::-1]) * side / max(picture.shape[:2])).astype(int), 1)
        scale = size / picture.shape[1::-1]
        people = coco.loadAnns(coco.getAnnIds(row["id"], catIds=[PERSON]))
        mask = np.zeros(picture.shape[:2], np.uint8)
        boxes, points = [np.zeros((0, 4))], [np.zeros((0, 3))]
        for person in people:
            mask |= coco.annToMask(person)
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
