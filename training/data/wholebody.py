"""COCO-WholeBody annotations as plain arrays, one row per person, and the training set made from them.

The json form is COCO's with four more lists per person: `foot_kpts`, `face_kpts`, `lefthand_kpts`, `righthand_kpts`
(Jin et al., ECCV 2020). UBody and any data set of yours in that form are read by the same function.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from dwpose_core.skeleton import NUM_KEYPOINTS

from .augment import AugmentConfig, augment, plan

# Legend: P people, I images, K = 133 keypoints.

FIELDS = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")


@dataclass(frozen=True)
class DataSource:
    """One annotation file with its image folder.

    Attributes:
        annotations: COCO-WholeBody json.
        images: folder that `file_name` is relative to.
        weight: how often a person of this source is seen per epoch; 0.5 takes another random half each epoch.
        sample_interval: keep images whose id is a multiple of this (DWPose takes 10 for the video frames of UBody).
    """

    annotations: str
    images: str
    weight: float = 1.0
    sample_interval: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"the weight of {self.annotations} must be above 0, got {self.weight:g}")
        if self.sample_interval < 1:
            raise ValueError(f"the interval of {self.annotations} must be at least 1, got {self.sample_interval}")

    @classmethod
    def parse(cls, text: str) -> DataSource:
        """`annotations.json,image_folder[,weight[,sample_interval]]`, the command-line form."""
        parts = text.split(",")
        if not 2 <= len(parts) <= 4:
            raise ValueError(f"a data source is 'annotations.json,images[,weight[,interval]]', got {text!r}")
        try:
            weight, interval = float(parts[2]) if len(parts) > 2 else 1.0, int(parts[3]) if len(parts) > 3 else 1
        except ValueError as error:
            raise ValueError(f"weight and interval of a data source are numbers, got {text!r}") from error
        return cls(parts[0], parts[1], weight, interval)


@dataclass(frozen=True, eq=False)
class Annotations:
    """All usable people of one file, in arrays: workers share the memory instead of copying Python objects.

    Attributes:
        file_names: (I,) str, relative to the image folder.
        image_id: (I,) int64.
        image: (P,) int64, row of `file_names` of each person.
        person_id: (P,) int64, annotation id.
        box: (P, 4) float32, xyxy in image pixels, clipped to [0, w - 1] x [0, h - 1].
        keypoints: (P, K, 2) float32, image pixels.
        visible: (P, K) float32, 0 or 1.
        image_size: (I, 2) int32, (H, W).
        dropped: reason -> number of people left out.
    """

    file_names: np.ndarray
    image_id: np.ndarray
    image: np.ndarray
    person_id: np.ndarray
    box: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray
    image_size: np.ndarray
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.image)


def whole_body_keypoints(annotation: dict) -> np.ndarray:
    """The five lists of one person joined: (133, 3) float32 of x, y and label value.

    Raises:
        ValueError: when a list is missing or has the wrong length.
    """
    missing = [field for field in FIELDS if field not in annotation]
    if missing:
        raise ValueError(
            f"annotation {annotation.get('id')} has no {', '.join(missing)}: this is not COCO-WholeBody form "
            "(plain COCO person files have body keypoints only)"
        )
    flat = [value for field in FIELDS for value in annotation[field]]
    if len(flat) != 3 * NUM_KEYPOINTS:
        raise ValueError(f"annotation {annotation.get('id')} has {len(flat) / 3:g} keypoints, expected {NUM_KEYPOINTS}")
    return np.array(flat, np.float32).reshape(NUM_KEYPOINTS, 3)


def read_json(path: str | Path):
    """What a JSON file holds.

    Raises:
        ValueError: naming the file, when it is no JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{path} is not a JSON file ({error})") from error


def read_coco(path: str | Path) -> dict:
    """A COCO annotation file: {"images": [...], "annotations": [...]} with the fields that everything here needs.

    Raises:
        ValueError: when it is something else.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "images" not in content or "annotations" not in content:
        raise ValueError(f"{path} is not a COCO annotation file: it needs the lists 'images' and 'annotations'")
    fields = {"images": ("id", "file_name"), "annotations": ("id", "image_id", "bbox")}
    for kind, needed in fields.items():
        for entry in content[kind]:
            if lacking := [field for field in needed if field not in entry]:
                raise ValueError(f"{path}: entry {entry.get('id')} of '{kind}' has no {', '.join(lacking)}")
    return content


class NoAnnotations(ValueError):
    """A COCO file without a single annotation."""


def read_annotations(path: str | Path, sample_interval: int = 1) -> Annotations:
    """People a top-down network can be trained on, by the rules of mmpose's `CocoWholeBodyDataset`.

    Left out: other categories than person (1), crowds, people without a labelled *body* keypoint (`num_keypoints` 0),
    empty boxes, people whose coordinates are all <= 0. A keypoint is visible when its label value is positive: hands
    and faces carry confidences there.

    Raises:
        NoAnnotations: when the file lists nobody. ValueError: when it is not COCO-WholeBody json, or nobody is left.
    """
    content = read_coco(path)
    by_image: dict[int, list[dict]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    dropped = dict.fromkeys(("no person", "crowd", "no body keypoint", "empty box", "no coordinate"), 0)
    images, people = [], []
    for image in content["images"]:
        if image["id"] % sample_interval:
            continue
        if "width" not in image or "height" not in image:
            raise ValueError(f"{path}: image {image['id']} has no width and height")
        width, height = image["width"], image["height"]
        kept = len(people)
        for annotation in by_image.get(image["id"], ()):
            if annotation.get("category_id", 1) != 1 or annotation.get("iscrowd"):
                dropped["crowd" if annotation.get("iscrowd") else "no person"] += 1
                continue
            points = whole_body_keypoints(annotation)
            x, y, w, h = annotation["bbox"]
            box = np.clip((x, y, x + w, y + h), 0, (width - 1, height - 1, width - 1, height - 1))
            if annotation.get("num_keypoints") == 0:
                dropped["no body keypoint"] += 1
            elif box[2] <= box[0] or box[3] <= box[1]:
                dropped["empty box"] += 1
            elif points[:, :2].max() <= 0:
                dropped["no coordinate"] += 1
            else:
                people.append((len(images), annotation["id"], box, points))
        if len(people) > kept:
            images.append((image["file_name"], image["id"], (height, width)))
    if not content["annotations"]:
        raise NoAnnotations(f"{path} has nobody in it")
    if not people:
        raise ValueError(f"{path} has no person to train on (left out: {dropped})")
    file_names, image_ids, sizes = zip(*images, strict=True)
    rows, ids, boxes, points = zip(*people, strict=True)
    points = np.stack(points)
    return Annotations(
        file_names=np.array(file_names),
        image_id=np.array(image_ids, np.int64),
        image=np.array(rows, np.int64),
        person_id=np.array(ids, np.int64),
        box=np.array(boxes, np.float32),
        keypoints=np.ascontiguousarray(points[..., :2]),
        visible=(points[..., 2] > 0).astype(np.float32),
        image_size=np.array(sizes, np.int32),
        dropped=dropped,
    )


def read_image(path: str | Path, reduce: int = 1) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB; `reduce` 2, 4 or 8 decodes at that fraction of the size.

    Raises:
        ValueError: when the file is missing or broken.
    """
    flags = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), flags[reduce])
    except (OSError, cv2.error) as error:
        raise ValueError(
            f"cannot read {path}: {error}. `python -m training.data.check` lists every bad file"
        ) from error
    if image is None:
        raise ValueError(f"{path} is not a readable image. `python -m training.data.check` lists every bad file")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class WholeBodyDataset(Dataset):
    """Augmented training crops. The key of a sample is (epoch, index): index into all people of all sources.

    Every random draw of a sample comes from a generator seeded by (seed, epoch, index), so the samples are the same for
    any number of workers, processes and restarts.

    Args:
        sources: see `DataSource`.
        input_size: (H, W) of the crop.
        early, late: augmentation before and from epoch `switch_epoch` on.
        seed: of all draws.
        reduced_decode: decode JPEGs at 1/2, 1/4 or 1/8 where the crop is smaller than the person by at least that.
    """

    def __init__(
        self,
        sources: tuple[DataSource, ...],
        input_size: tuple[int, int],
        early: AugmentConfig,
        late: AugmentConfig | None = None,
        switch_epoch: int = 0,
        seed: int = 0,
        reduced_decode: bool = True,
    ):
        if not sources:
            raise ValueError("no training data: name at least one source, e.g. --train coco_wholebody.json,train2017")
        for source in sources:
            if not Path(source.images).is_dir():
                raise ValueError(f"no folder {source.images}: the images of {source.annotations} should be there")
        filled: list[tuple[DataSource, Annotations]] = []
        empty: list[NoAnnotations] = []
        for source in sources:
            try:
                filled.append((source, read_annotations(source.annotations, source.sample_interval)))
            except NoAnnotations as error:  # UBody has such a file for a scene whose videos are missing
                empty.append(error)
        if not filled:
            raise empty[0]
        for error in empty:
            warnings.warn(f"{error}; it is left out", stacklevel=2)
        self.tables = [table for _, table in filled]
        self.folders = [Path(source.images) for source, _ in filled]
        self.lengths = [len(table) for table in self.tables]
        self.weights = [source.weight for source, _ in filled]
        self.starts = np.cumsum([0, *self.lengths])
        self.input_size = input_size
        self.early = early
        self.late = late or early
        self.switch_epoch = switch_epoch
        self.seed = seed
        self.reduced_decode = reduced_decode

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray]:
        """image (H, W, 3) uint8 RGB, keypoints (K, 2) float32 crop pixels, visible (K,) float32, index ()."""
        epoch, index = key
        source = int(np.searchsorted(self.starts, index, side="right")) - 1
        table, row = self.tables[source], index - int(self.starts[source])
        image = int(table.image[row])
        path = self.folders[source] / str(table.file_names[image])
        config = self.late if epoch >= self.switch_epoch and self.switch_epoch else self.early
        rng = np.random.default_rng((self.seed, epoch, index))
        size = tuple(int(side) for side in table.image_size[image])
        crop = plan(table.box[row], table.keypoints[row], table.visible[row], size, self.input_size, config, rng)
        reduce = crop.reduction() if self.reduced_decode and path.suffix.lower() in (".jpg", ".jpeg") else 1
        pixels, keypoints, visible = augment(read_image(path, reduce), reduce, crop, config, rng)
        return {"image": pixels, "keypoints": keypoints, "visible": visible, "index": np.int64(index)}
