"""How good a person detector is: box AP, recall and precision, false alarms; on scenes and on labelled photographs.

    python -m training.detection.evaluate WEIGHTS --pool DIR [--labels LABELS.json --images DIR] [--threshold 0.3]

WEIGHTS is a file or a catalogue name. The pool holds `test` and `test_empty` (training.train_detector makes them).
LABELS.json is a list, or a dict with the list "annotations", of {"image": file name, "bbox": [x, y, w, h]}. Where
"source" ends in "_face" or "_hand" the box is that of no person and left out.
--ignored names another such file, of people in the same photographs that carry no label: who finds one of them is
neither right nor wrong. COCO's person_keypoints_val2017.json or instances_val2017.json are read too; what is ignored
there are crowds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from dwpose_core import geometry
from dwpose_core.backends import TorchRunner
from dwpose_core.models.weights import load_detector
from dwpose_core.models.yolox import YOLOX, decode_people
from dwpose_core.pipeline import Options, find_boxes

from ..command import run
from ..pictures import imread
from .batches import to_input
from .pool import ScenePool

Found = tuple[np.ndarray, np.ndarray]  # boxes (P, 4) xyxy px, scores (P,), best first
MATCH = 0.5  # IoU
PART_ALONE = ("_face", "_hand")  # ends of sources whose boxes are of that part
PERSON = 1  # COCO's category
LOWEST = 0.01  # score kept for average precision


@torch.no_grad()
def find_in_pool(net: nn.Module, pool: ScenePool, threshold: float = LOWEST, batch: int = 32) -> list[Found]:
    """Boxes after suppression (IoU 0.45) in each scene, in pool pixels. `net` is a YOLOX in eval mode."""
    side = pool.side
    device = next(net.parameters()).device
    found = []
    for start in range(0, len(pool), batch):
        images = np.array(pool.images[start : start + batch, ..., :3])  # in memory: torch takes no read-only map
        raw = net(to_input(images, device)).float()
        for boxes, scores in decode_people(raw, (side, side), threshold):
            keep = geometry.nms(boxes, scores, Options.nms_threshold)
            found.append((boxes[keep], scores[keep]))
    return found


def average_precision(truth: list[np.ndarray], found: list[Found]) -> dict[str, float]:
    """COCO box AP over IoU 0.5:0.95 and at 0.5 (pycocotools), of boxes xyxy per picture."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rows(boxes: np.ndarray, picture: int) -> list[dict]:
        corners = np.asarray(boxes, float)
        sides = corners[:, 2:] - corners[:, :2]
        shared = {"image_id": picture, "category_id": 1}
        return [
            shared | {"bbox": [*corner[:2].tolist(), *side.tolist()], "area": float(side.prod())}
            for corner, side in zip(corners, sides, strict=True)
        ]

    people = [row for k, boxes in enumerate(truth, 1) for row in rows(boxes, k)]
    results = [
        row | {"score": float(score)}
        for k, (boxes, scores) in enumerate(found, 1)
        for row, score in zip(rows(boxes, k), scores, strict=True)
    ]
    if not results:
        return {"ap": 0.0, "ap50": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": k} for k in range(1, len(truth) + 1)],
            "categories": [{"id": 1, "name": "person"}],
            "annotations": [row | {"id": k, "iscrowd": 0} for k, row in enumerate(people, 1)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"ap": float(evaluation.stats[0]), "ap50": float(evaluation.stats[1])}


def hits(truth: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """For boxes (P, 4), best first, whether each meets (IoU >= MATCH) a labelled box (G, 4) not met before; (P,)."""
    free = np.ones(len(truth), bool)
    found = np.zeros(len(boxes), bool)
    if not len(truth):
        return found
    for k, box in enumerate(boxes):
        overlap = (np.minimum(box[2:], truth[:, 2:]) - np.maximum(box[:2], truth[:, :2])).clip(min=0).prod(1)
        areas = (truth[:, 2:] - truth[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - overlap
        iou = np.where(free, overlap / areas, 0.0)
        if iou.max() >= MATCH:
            free[iou.argmax()] = False
            found[k] = True
    return found


def mostly_within(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Which of the boxes (P, 4) have half of their area or more in one of the regions (R, 4); (P,) bool.

    COCO's rule for crowds.
    """
    low, high = np.maximum(boxes[:, None, :2], regions[:, :2]), np.minimum(boxes[:, None, 2:], regions[:, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    return (shared >= MATCH * (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]).any(1)


def recall_precision(
    truth: list[np.ndarray],
    found: list[Found],
    threshold: float,
    least_height: float = 0.0,
    ignored: list[np.ndarray] | None = None,
) -> dict[str, float]:
    """At one score threshold. Labelled people lower than `least_height` px count neither as missed nor as found.

    `ignored`: per picture boxes (R, 4) of people without a label; what is found there and meets no label is left out.
    """
    people = right = right_large = reported = 0
    for k, (labelled, (boxes, scores)) in enumerate(zip(truth, found, strict=True)):
        boxes = boxes[scores > threshold]
        large = labelled[:, 3] - labelled[:, 1] >= least_height
        met = hits(labelled, boxes)
        right += int(met.sum())
        right_large += int(hits(labelled[large], boxes).sum())
        people += int(large.sum())
        reported += len(boxes)
        if ignored is not None:
            reported -= int((mostly_within(boxes, ignored[k]) & ~met).sum())
    return {
        "people": people,
        "recall": right_large / max(people, 1),
        "precision": right / max(reported, 1),
        "reported": reported,
    }


def measure(
    net: nn.Module, pool: ScenePool, empty: ScenePool, close: ScenePool, threshold: float = 0.3
) -> dict[str, float]:
    """Figures on held-out scenes: AP, recall and precision; alarms in person-free pictures; recall of close-ups."""
    truth = [pool.boxes_of(k) for k in range(len(pool))]
    found = find_in_pool(net, pool)
    alarms = np.mean([(scores > threshold).any() for _, scores in find_in_pool(net, empty)])
    rates = recall_precision(truth, found, threshold)
    near = recall_precision([close.boxes_of(k) for k in range(len(close))], find_in_pool(net, close), threshold)
    tall = recall_precision(truth, found, threshold, least_height=pool.side / 8)
    return {
        **average_precision(truth, found),
        "recall": rates["recall"],
        "recall_tall": tall["recall"],  # people of at least an eighth of the input
        "precision": rates["precision"],
        "false_alarms": float(alarms),
        "recall_close": near["recall"],
    }


def balanced_threshold(truth: list[np.ndarray], found: list[Found]) -> float:
    """The score at which recall x precision is largest; nan where no box is right."""
    scores = np.concatenate([s for _, s in found])
    right = np.concatenate([hits(labelled, boxes) for labelled, (boxes, _) in zip(truth, found, strict=True)])
    if not right.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    met = np.cumsum(right[order])
    return float(scores[order][(met * met / np.arange(1, len(met) + 1)).argmax()])


@torch.no_grad()
def calibrate(net: YOLOX, pools: list[ScenePool]) -> float:
    """Shift objectness in place so that the default threshold is the balanced one on `pools`; returns the shift.

    A shift keeps the order of objectness; the product with the person probability is why it takes a few rounds. A
    network that finds nobody stays as it is.
    """
    truth = [pool.boxes_of(k) for pool in pools for k in range(len(pool))]
    total = 0.0
    for _ in range(4):
        found = [boxes for pool in pools for boxes in find_in_pool(net, pool)]
        best = torch.tensor(balanced_threshold(truth, found))
        if best.isnan():
            break
        shift = (torch.tensor(Options.detector_threshold).logit() - best.logit()).item()
        for predictor in net.head.obj_preds:
            predictor.bias += shift
        total += shift
        if abs(shift) < 0.02:
            break
    return total


def boxes_by_picture(labels: Path, crowds: bool = False) -> dict[str, np.ndarray]:
    """Boxes (P, 4) xyxy px of the people of a label file, or of COCO's crowds of them, by file name."""
    entries = json.loads(labels.read_bytes())
    names = {row["id"]: row["file_name"] for row in entries.get("images", ())} if isinstance(entries, dict) else {}
    boxes: dict[str, list] = {}
    for entry in entries["annotations"] if isinstance(entries, dict) else entries:
        person = entry.get("category_id", PERSON) == PERSON and not entry.get("source", "").endswith(PART_ALONE)
        if person and bool(entry.get("iscrowd")) == crowds:
            x, y, w, h = entry["bbox"]
            name = entry["image"] if "image" in entry else names[entry["image_id"]]
            boxes.setdefault(name, []).append((x, y, x + w, y + h))
    return {name: np.array(rows, np.float32) for name, rows in boxes.items()}


def photographs(labels: Path, images: Path) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Per picture with labelled people: image (h, w, 3) uint8 RGB, boxes (P, 4) xyxy px, file name.

    Pictures without any are not looked at, so alarms there do not count.
    """
    rows = []
    for name, labelled in boxes_by_picture(labels).items():
        image = imread(images / name)
        if image is None:
            raise ValueError(f"{images / name} is not a readable picture")
        rows.append((cv2.cvtColor(image, cv2.COLOR_BGR2RGB), labelled, name))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="file or catalogue name")
    parser.add_argument("--pool", type=Path, help="folder with the scenes test, test_empty, test_close")
    parser.add_argument("--labels", type=Path, help="of photographs")
    parser.add_argument("--images", type=Path, help="folder of the photographs")
    parser.add_argument("--ignored", type=Path, help="boxes of people in them that carry no label")
    parser.add_argument("--threshold", type=float, default=Options.detector_threshold)
    note = "side of the input for photographs, pixels (default: as trained)"
    parser.add_argument("--detector-size", type=int, metavar="N", help=note)
    parser.add_argument("--least-height", type=float, default=64, help="of people in photographs that count, pixels")
    args = parser.parse_args()
    if not args.pool and not args.labels:
        parser.error("say what to judge it by: --pool, --labels, or both")
    try:
        options = Options(detector_threshold=args.threshold, detector_size=args.detector_size)
    except ValueError as error:
        parser.error(str(error))
    net = load_detector(args.weights)
    if args.pool:
        pools = (ScenePool.load(args.pool, name) for name in ("test", "test_empty", "test_close"))
        print(json.dumps(measure(net, *pools, threshold=args.threshold), indent=1))
    if args.labels:
        rows = photographs(args.labels, args.images or args.labels.parent)
        runner = TorchRunner(net, "cpu")
        found = [find_boxes([image], runner, options)[0] for image, _, _ in rows]
        truth = [boxes for _, boxes, _ in rows]
        unlabelled = boxes_by_picture(args.ignored) if args.ignored else boxes_by_picture(args.labels, crowds=True)
        ignored = [unlabelled.get(name, np.zeros((0, 4), np.float32)) for _, _, name in rows]
        print(json.dumps(recall_precision(truth, found, args.threshold, args.least_height, ignored), indent=1))


if __name__ == "__main__":
    sys.exit(run(main))
