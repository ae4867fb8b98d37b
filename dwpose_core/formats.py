"""People to and from the field's formats: COCO-WholeBody results, transformers-style dicts, npz.

Each writer stands beside its reader. OpenPose JSON has a file of its own, `openpose.py`, and is importable from here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .images import atomic_write
from .openpose import as_frames, extent, from_openpose, openpose_body, openpose_face, openpose_file, to_openpose
from .people import People
from .skeleton import NUM_KEYPOINTS, PARTS

__all__ = [
    "from_coco",
    "from_openpose",
    "from_transformers",
    "load_npz",
    "openpose_body",
    "openpose_face",
    "openpose_file",
    "save_npz",
    "to_coco",
    "to_openpose",
    "to_transformers",
]

# The keys of the COCO-WholeBody results format and the part each holds.
_COCO_KEYS = {
    "keypoints": "body",
    "foot_kpts": "foot",
    "face_kpts": "face",
    "lefthand_kpts": "left_hand",
    "righthand_kpts": "right_hand",
}


def to_coco(people: People | Iterable[People], image_ids: int | Iterable[int]) -> list[dict]:
    """COCO-WholeBody results: one dict per person, ready for json.dump and for pycocotools' loadRes.

    `keypoints`, `foot_kpts`, `face_kpts`, `lefthand_kpts`, `righthand_kpts` are flat lists x, y, score, ... in pixels;
    `bbox` is [x, y, w, h]. `score` ranks the person as mmpose 1.x does: the box score times the mean of the keypoint
    scores above 0.2 (0 if there are none); the box score itself is in `bbox_score`. Nothing is thresholded.

    Args:
        people: one image or several.
        image_ids: COCO image id of each.

    Raises:
        ValueError: when there are not as many ids as images.
    """
    frames = as_frames(people)
    image_ids = [image_ids] if isinstance(image_ids, (int, np.integer)) else list(image_ids)
    if len(image_ids) != len(frames):
        raise ValueError(f"{len(frames)} images but {len(image_ids)} image ids")
    results = []
    for image_id, frame in zip(image_ids, frames, strict=True):
        triples = np.concatenate([frame.xy, frame.score[..., None]], axis=-1)
        for person, score, (left, top, right, bottom), box_score in zip(
            triples, frame.score, frame.box.tolist(), frame.box_score.tolist(), strict=True
        ):
            sure = score[score > 0.2]
            results.append(
                {
                    "image_id": int(image_id) if isinstance(image_id, np.integer) else image_id,
                    "category_id": 1,
                    **{key: person[PARTS[part]].reshape(-1).tolist() for key, part in _COCO_KEYS.items()},
                    "bbox": [left, top, right - left, bottom - top],
                    "bbox_score": box_score,
                    "score": box_score * float(sure.mean()) if len(sure) else 0.0,
                }
            )
    return results


def from_coco(results: Iterable[Mapping], image_sizes: Mapping[int, Sequence[int]]) -> list[People]:
    """People of each image from COCO-WholeBody results; the inverse of `to_coco`.

    A missing part has score 0; a missing `bbox` is the extent of the points of positive score; a missing `bbox_score`
    is `score`, or 1.

    Args:
        results: as `to_coco` writes them.
        image_sizes: (H, W) by COCO image id. It decides which images come back, in its order, found people or not.

    Raises:
        ValueError: for a result of an image not in `image_sizes`, or with a list of wrong length.
    """
    by_image: dict[int, list] = {image_id: [] for image_id in image_sizes}
    for number, result in enumerate(results):
        if not isinstance(result, Mapping) or result.get("image_id") not in by_image:
            raise ValueError(f"result {number}: has no image_id, or one that is not among the image_sizes")
        person = np.zeros((NUM_KEYPOINTS, 3), np.float32)
        for key, part in _COCO_KEYS.items():
            if result.get(key) is not None:
                person[PARTS[part]] = _numbers(result[key], person[PARTS[part]].shape, f"result {number}: {key}")
        box = extent(person[:, :2], person[:, 2])
        if result.get("bbox") is not None:
            left, top, width, height = _numbers(result["bbox"], (4,), f"result {number}: bbox")
            box = np.array([left, top, left + width, top + height])
        score = result.get("bbox_score", result.get("score", 1.0))
        by_image[result["image_id"]].append((person, box, _numbers(score, (), f"result {number}: score")))
    return [_stack(persons, image_sizes[image_id]) for image_id, persons in by_image.items()]


def to_transformers(
    people: People | Iterable[People], *, threshold: float | None = None, return_tensors: str = "np"
) -> list[list[dict]]:
    """What `post_process_pose_estimation` of transformers' pose processors returns: per image, a list of person dicts.

    `keypoints` (n, 2) and `bbox` (4,) xyxy in pixels, `scores` (n,), `labels` (n,) the COCO-WholeBody indices 0..132.

    Args:
        people: one image or several.
        threshold: keep the keypoints of score > threshold, as transformers does; None keeps all 133.
        return_tensors: "np" or "pt" (torch, on the CPU).

    Raises:
        ValueError: on other return_tensors.
    """
    if return_tensors not in ("np", "pt"):
        raise ValueError(f"unknown return_tensors {return_tensors!r}; choose 'np' or 'pt'")
    images = []
    for frame in as_frames(people):
        images.append([])
        for xy, score, box in zip(frame.xy, frame.score, frame.box, strict=True):
            labels = np.flatnonzero(score > (-np.inf if threshold is None else np.float32(threshold)))
            person = {"keypoints": xy[labels], "scores": score[labels], "labels": labels, "bbox": box.copy()}
            if return_tensors == "pt":
                import torch

                person = {key: torch.from_numpy(value) for key, value in person.items()}
            images[-1].append(person)
    return images


def from_transformers(results: Sequence[Sequence[Mapping]], image_sizes: Sequence[Sequence[int]]) -> list[People]:
    """People of each image; the inverse of `to_transformers`, for arrays or tensors.

    Keypoints that were filtered out have score 0 at 0, 0; without `labels` there must be 133. Without `bbox` the box is
    the extent of the points of positive score. transformers hands on no box score: it is 1.

    Args:
        results: per image, a list of person dicts.
        image_sizes: (H, W) of each image.

    Raises:
        ValueError: when shapes disagree, a label is not in 0..132, or there are not as many sizes as images.
    """
    if len(results) != len(image_sizes):
        raise ValueError(f"{len(results)} images but {len(image_sizes)} image sizes")
    frames = []
    for image, (persons, size) in enumerate(zip(results, image_sizes, strict=True)):
        rows = []
        for index, person in enumerate(persons):
            here = f"image {image}, person {index}"
            if missing := {"keypoints", "scores"} - set(person):
                raise ValueError(f"{here}: has no {sorted(missing)[0]!r}")
            labels = np.asarray(_cpu(person.get("labels", np.arange(NUM_KEYPOINTS))))
            if labels.dtype.kind not in "iu" or not np.isin(labels, np.arange(NUM_KEYPOINTS)).all():
                raise ValueError(f"{here}: labels must be keypoint indices in 0..132")
            points = np.zeros((NUM_KEYPOINTS, 3), np.float32)
            points[labels, :2] = _numbers(person["keypoints"], (len(labels), 2), f"{here}: keypoints")
            points[labels, 2] = _numbers(person["scores"], (len(labels),), f"{here}: scores")
            box = extent(points[:, :2], points[:, 2])
            if person.get("bbox") is not None:
                box = _numbers(person["bbox"], (4,), f"{here}: bbox")
            rows.append((points, box, 1.0))
        frames.append(_stack(rows, size))
    return frames


def save_npz(path: str | os.PathLike, people: People | Iterable[People]) -> None:
    """Write all frames to one compressed .npz, whole or not at all; `load_npz` gives them back bit for bit.

    The arrays of all P people of all F frames are joined: `count` (F,) people per frame, `image_size` (F, 2), `source`
    (F,), `xy` (P, 133, 2), `score`, `box`, `box_score`, and `id`, `visibility` for the frames where `has_id`,
    `has_visibility` (F,) say so.

    Raises:
        ValueError: for a path that does not end in .npz. OSError: when it cannot be written.
    """
    if os.path.splitext(path)[1] != ".npz":
        raise ValueError(f"{os.fspath(path)} must end in .npz")
    frames = as_frames(people)
    empty = People.empty((1, 1))
    arrays = {
        "count": np.array([len(frame) for frame in frames], np.int64),
        "image_size": np.array([frame.image_size for frame in frames], np.int64).reshape(-1, 2),
        "source": np.array([frame.source for frame in frames], np.str_),
    }
    for name in ("xy", "score", "box", "box_score"):
        arrays[name] = np.concatenate([getattr(frame, name) for frame in [*frames, empty]])
    for name, shape, dtype in (("id", (0,), np.int64), ("visibility", (0, NUM_KEYPOINTS), np.float32)):
        values = [getattr(frame, name) for frame in frames]
        arrays[f"has_{name}"] = np.array([value is not None for value in values], bool)
        arrays[name] = np.concatenate([np.zeros(shape, dtype), *(value for value in values if value is not None)])
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load_npz(path: str | os.PathLike) -> list[People]:
    """The frames `save_npz` wrote.

    Raises:
        ValueError: for a file that is broken or something else. OSError: when it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        starts = np.concatenate([[0], np.cumsum(arrays["count"])])
        optional = {}
        for name in ("id", "visibility"):
            sizes = np.where(arrays[f"has_{name}"], arrays["count"], 0)
            optional[name] = np.split(arrays[name], np.cumsum(sizes)[:-1])
        frames = []
        for number, (start, stop) in enumerate(pairwise(starts)):
            frames.append(
                People(
                    **{name: arrays[name][start:stop] for name in ("xy", "score", "box", "box_score")},
                    **{name: optional[name][number] if arrays[f"has_{name}"][number] else None for name in optional},
                    image_size=tuple(arrays["image_size"][number]),
                    source=str(arrays["source"][number]),
                )
            )
    except OSError:
        raise
    except Exception as error:  # whatever damage makes zipfile and numpy raise
        raise ValueError(f"{os.fspath(path)} is not a whole file of save_npz: {error}") from error
    return frames


def _stack(persons: Sequence[tuple], image_size: Sequence[int]) -> People:
    """People of (points (133, 3), box (4,), box score) rows."""
    points = np.array([row[0] for row in persons], np.float32).reshape(-1, NUM_KEYPOINTS, 3)
    boxes = np.array([row[1] for row in persons], np.float32).reshape(-1, 4)
    box_scores = np.array([row[2] for row in persons], np.float32)
    return People(points[..., :2], points[..., 2], boxes, box_scores, tuple(image_size))


def _numbers(value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        return np.asarray(_cpu(value), np.float32).reshape(shape)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: expected {shape} numbers, got {str(value)[:60]!r}") from None


def _cpu(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value
