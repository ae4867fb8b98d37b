"""COCO-WholeBody AP and AR per part, as `CocoWholeBodyMetric` of mmpose on xtcocotools, but on pycocotools.

pycocotools knows 17 keypoints; the five lists of a person are joined here and each part is one evaluation on a slice.
Rules that move the numbers, all from the original:
* One score per detected person, for every part: box score x mean of its keypoint scores above 0.2.
* OKS-NMS over all 133 keypoints before anything else.
* Ground truth without a labelled point in a part is ignored for it; every part uses the *person's* area.
* A detection's own area, which decides "medium" and "large", is the box of its 17 body points.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dwpose_core.skeleton import NUM_KEYPOINTS, OKS_SIGMAS, PARTS

from .data.wholebody import FIELDS, read_json, whole_body_keypoints

# Legend: D detected people, K = 133 keypoints.

WHOLE = {**PARTS, "whole": slice(0, NUM_KEYPOINTS)}
STATS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
KEYPOINT_THRESHOLD = 0.2  # scores above count for the person's score
NMS_THRESHOLD = 0.9  # OKS above which two detections are one person


@dataclass(frozen=True, eq=False)
class Detections:
    """Estimated people of a whole data set.

    Attributes:
        image_id: (D,) int64.
        keypoints: (D, K, 2) float32, image pixels.
        scores: (D, K) float32, raw keypoint scores.
        person_score: (D,) float, the score people are ranked by (see `rescore`).
        area: (D,) float, of the padded, aspect-fixed box, for OKS-NMS.
    """

    image_id: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray
    person_score: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        return len(self.image_id)

    def __getitem__(self, index: np.ndarray) -> Detections:
        return Detections(**{name: value[index] for name, value in vars(self).items()})


def rescore(box_score: np.ndarray, scores: np.ndarray, mode: str = "bbox_keypoint") -> np.ndarray:
    """Scores of people (D,) from box scores (D,) and keypoint scores (D, K).

    mode: "bbox_keypoint" is box score x mean of the keypoint scores above 0.2 (0 when there is none); "keypoint" the
    mean of all keypoint scores; "bbox" the box score alone.
    """
    if mode == "bbox":
        return box_score
    if mode == "keypoint":
        return scores.mean(axis=1)
    if mode != "bbox_keypoint":
        raise ValueError(f"mode must be bbox_keypoint, keypoint or bbox, got {mode!r}")
    counted = scores > KEYPOINT_THRESHOLD
    return box_score * np.where(counted, scores, 0).sum(axis=1) / counted.sum(axis=1).clip(min=1)


def oks(
    keypoints: np.ndarray, area: float, others: np.ndarray, other_areas: np.ndarray, sigmas: np.ndarray = OKS_SIGMAS
) -> np.ndarray:
    """Object keypoint similarity of one person (K, 2) with others (D, K, 2), by the mean of both areas: (D,)."""
    squared = ((others - keypoints) ** 2).sum(-1).astype(np.float64)
    scale = (2 * sigmas.astype(np.float64)) ** 2 * 2
    return np.exp(-squared / scale / ((area + other_areas)[:, None] / 2 + np.spacing(1))).mean(axis=1)


def oks_nms(people: Detections, threshold: float = NMS_THRESHOLD) -> Detections:
    """Per image, keep a person when its OKS with every better one is <= `threshold`; best first within an image."""
    kept = []
    for image in np.unique(people.image_id):
        order = np.flatnonzero(people.image_id == image)
        order = order[np.argsort(-people.person_score[order], kind="stable")]
        while len(order):
            first, order = order[0], order[1:]
            kept.append(first)
            overlap = oks(people.keypoints[first], people.area[first], people.keypoints[order], people.area[order])
            order = order[overlap <= threshold]
    return people[np.array(kept, np.int64)]


def check_judging(truth: dict, use_area: bool = True, fast: bool = False) -> None:
    """What `coco_stats` would fail at, before the hours that come first.

    Raises:
        ValueError: when somebody has no whole-body keypoints, or no annotated area, which every OKS is measured by.
        ImportError: without the package that judges.
    """
    _judge_classes(fast)
    for annotation in people_of(truth):
        true_keypoints(annotation)
        if use_area and "area" not in annotation:
            raise ValueError(
                f"annotation {annotation['id']} has no area: add it, or take 0.53 x the box with `python -m "
                "training.evaluate --no-area`, as UBody's evaluation does"
            )


def shown(value: float, digits: int) -> str:
    """A stat as text; "-" where nothing of the part is labelled."""
    return "-" if value < 0 else f"{value:.{digits}f}"


def people_of(truth: dict) -> list[dict]:
    """The annotations of category 1, COCO's person; those that name no category are people too."""
    return [annotation for annotation in truth["annotations"] if annotation.get("category_id", 1) == 1]


def true_keypoints(annotation: dict) -> np.ndarray:
    """(133, 3) of `whole_body_keypoints`; a crowd, which is a region and nobody, may have none."""
    if annotation.get("iscrowd") and "foot_kpts" not in annotation:
        return np.zeros((NUM_KEYPOINTS, 3), np.float32)
    return whole_body_keypoints(annotation)


def coco_stats(truth: dict, people: Detections, use_area: bool = True, fast: bool = False) -> dict[str, float]:
    """{"body/AP": ..., ..., "whole/ARl": ...} for people that went through `rescore` and `oks_nms`.

    Args:
        truth: parsed COCO-WholeBody json.
        people: any `Detections`.
        use_area: the annotated area; False takes 0.53 x the box (UBody has no segmentation areas).
        fast: judge with faster-coco-eval, same numbers in a third of the time.

    "hands" is the plain mean of left and right: the published "hand" figures combine both hands, the published code
    never does, so this convention is an assumption. A stat without any ground truth is -1, as COCO prints it.
    """
    stats: dict[str, float] = {}
    for part, columns in WHOLE.items():
        values = _part_stats(truth, people, columns, use_area, fast)
        stats |= {f"{part}/{name}": float(value) for name, value in zip(STATS, values, strict=True)}
    for name in STATS:
        left, right = stats[f"left_hand/{name}"], stats[f"right_hand/{name}"]
        stats[f"hands/{name}"] = -1.0 if min(left, right) < 0 else (left + right) / 2
    return stats


def _judge_classes(fast: bool) -> tuple[type, type]:
    try:
        if fast:
            from faster_coco_eval import COCO
            from faster_coco_eval import COCOeval_faster as COCOeval
        else:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        wanted = "faster-coco-eval" if fast else '"dwpose-torch[train]"'
        raise ImportError(f"judging needs another package: pip install {wanted}") from error
    return COCO, COCOeval


def _part_stats(truth: dict, people: Detections, columns: slice, use_area: bool, fast: bool) -> np.ndarray:
    COCO, COCOeval = _judge_classes(fast)
    annotations = []
    for annotation in people_of(truth):
        points = true_keypoints(annotation)[columns]
        x, y, w, h = annotation["bbox"]
        annotations.append(
            {
                "id": annotation["id"],
                "image_id": annotation["image_id"],
                "category_id": 1,
                "bbox": [x, y, w, h],
                "area": annotation["area"] if use_area else 0.53 * w * h,
                "iscrowd": annotation.get("iscrowd", 0),
                "keypoints": points.astype(np.float64).ravel().tolist(),
                "num_keypoints": int((points[:, 2] > 0).sum()),
            }
        )
    body = people.keypoints[:, PARTS["body"]]
    areas = np.prod(body.max(axis=1) - body.min(axis=1), axis=1) if len(people) else np.zeros(0)
    found = []
    # A detection that sees nothing of the part does not take part.
    for i in np.flatnonzero((people.scores[:, columns] > 0).any(axis=1)):
        points = np.column_stack((people.keypoints[i, columns], people.scores[i, columns]))
        found.append(
            {
                "id": int(i) + 1,
                "image_id": int(people.image_id[i]),
                "category_id": 1,
                "keypoints": points.astype(np.float64).ravel().tolist(),
                "score": float(people.person_score[i]),
                "area": float(areas[i]),
                "bbox": [*body[i].min(axis=0).tolist(), *np.ptp(body[i], axis=0).tolist()],
                "iscrowd": 0,
            }
        )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by print
        both = []
        for entries in (annotations, found):
            coco = COCO()
            coco.dataset = {"images": truth["images"], "annotations": entries, "categories": [{"id": 1}]}
            coco.createIndex()
            both.append(coco)
        judge = COCOeval(*both, "keypoints")
        judge.params.kpt_oks_sigmas = OKS_SIGMAS[columns].astype(np.float64)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return np.asarray(judge.stats[: len(STATS)])


def read_results(path: str | Path, truth: dict) -> Detections:
    """A COCO-WholeBody results file: a list of {"image_id", "score", five keypoint lists or one of 399 numbers}.

    Nothing is rescored or suppressed: such a file is judged as it is.

    Raises:
        ValueError: when it is something else, or about other images.
    """
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ValueError(f"{path} is not a results file: expected a list of {{image_id, score, keypoints, ...}}")
    known = {image["id"] for image in truth["images"]}
    points = np.zeros((len(content), NUM_KEYPOINTS, 3), np.float32)
    for row, entry in zip(points, content, strict=True):
        if entry.get("image_id") not in known:
            raise ValueError(f"{path} has image_id {entry.get('image_id')}, which the annotations do not have")
        if "score" not in entry:
            raise ValueError(f"{path}: somebody in image {entry['image_id']} has no score, by which people are ranked")
        if len(entry.get("keypoints", ())) == 3 * NUM_KEYPOINTS:
            row[:] = np.array(entry["keypoints"], np.float32).reshape(NUM_KEYPOINTS, 3)
        else:
            row[:] = whole_body_keypoints(entry)
    return Detections(
        image_id=np.array([entry["image_id"] for entry in content], np.int64),
        keypoints=points[..., :2],
        scores=points[..., 2],
        person_score=np.array([entry["score"] for entry in content], np.float64),
        area=np.prod(np.ptp(points[..., :2], axis=1), axis=1),
    )


def results_json(people: Detections) -> list[dict]:
    """The same people as a COCO-WholeBody results list."""
    cuts = [PARTS[name].start for name in ("foot", "face", "left_hand", "right_hand")]
    entries = []
    for i in range(len(people)):
        points = np.column_stack((people.keypoints[i], people.scores[i])).astype(float)
        lists = zip(FIELDS, np.split(points, cuts), strict=True)
        entry = {"image_id": int(people.image_id[i]), "category_id": 1, "score": float(people.person_score[i])}
        entries.append(entry | {name: part.round(3).ravel().tolist() for name, part in lists})
    return entries
