"""How well a model does on labelled photographs: PCK, errors of face and hands, OKS, in ground-truth boxes.

    python -m benchmarks.photographs dwpose-nano --labels labels.json --images DIR [--flip-test corrected] [--json OUT]
    python -m benchmarks.photographs dwpose-nano --labels scenes/annotations.json --images scenes/images --seen

With --detector the model finds people itself: a labelled person belongs to the best box of IoU 0.5 or more, and one
without counts as all wrong (in pictures of a face or a hand alone, whose label is no person's box, nearly always).

labels.json: {"annotations": [{"image": file name, "bbox": [x, y, w, h], "keypoints": 133 x 3, "source": name}, ...]},
in COCO-WholeBody order and image pixels; third value 0 means not labelled. Sources ending in "_hand" are pictures of
one hand whose side is unknown (labelled as left): the better of the two predicted hands counts. A file in
COCO-WholeBody form is read as well, such as that of rendered scenes, and COCO's person_keypoints_val2017.json with
bodies alone; --least-height 64 leaves out who is smaller there. Half of the points of rendered scenes are hidden, of a
photograph's one in ten; --seen leaves those out. --varied gives means over ten views of the same people: labelled boxes
as they are and moved by 2 % of their sides, in the pictures and in their mirror images. Twenty people tell little, and
a network that knows the same may differ by four points in one view.

Body: PCK@0.2 of the torso (the larger shoulder-hip diagonal; 0.3 sqrt(w h) of the box where one of the four is
unlabelled) and PCK@0.1 of the longer side of the box; foot: PCK@0.1 of that side; face and hands, where at least 8
points are labelled: PCK@0.1 and PCK@0.2 of the longer side of the labelled part, and the median over people of the
mean error over that side; OKS with COCO-WholeBody's sigmas.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from dwpose_core.backends import TorchRunner
from dwpose_core.models.weights import load_detector, load_pose
from dwpose_core.pipeline import Options, Runner, estimate_people
from dwpose_core.skeleton import FLIP_INDICES, NUM_KEYPOINTS, OKS_SIGMAS, PARTS
from training.data.wholebody import FIELDS, whole_body_keypoints

HANDS = (PARTS["left_hand"], PARTS["right_hand"])
Labels = dict[str, list[dict]]  # people by image name
SEEN = 2  # label value of a point that is seen; 1 is hidden
ALONE = ("_hand", "_face")  # how the sources of pictures that show no more end
GIVEN, WHOLE_IMAGE = "given", "whole-image"
PART_PCK = {"face": 0.1, "hand": 0.2}  # of the longer side of the part
MOVES = ((0.0, 0.0), (0.02, 0.0), (-0.02, 0.0), (0.0, 0.02), (0.0, -0.02))  # of boxes, in their sides; --varied


def read_labels(path: Path, least: int = 1, least_height: float = 0.0) -> Labels:
    """Annotations by image name; keypoints as (133, 3) arrays, those of a label value below `least` as not labelled.

    People whose box is lower than `least_height` px are left out; pictures of a hand or a face alone stay.
    """
    by_image: Labels = {}
    content = json.loads(path.read_text())
    names = {image["id"]: image["file_name"] for image in content.get("images", ())}
    for annotation in content["annotations"]:
        if "image" in annotation:
            name = annotation["image"]
            points = np.array(annotation["keypoints"], np.float64).reshape(NUM_KEYPOINTS, 3)
        elif annotation.get("iscrowd") or not annotation.get("num_keypoints"):
            continue  # crowds, and people without a labelled body
        else:
            name, points = names[annotation["image_id"]], _points_of(annotation)
        whole = not annotation.get("source", "").endswith(ALONE)
        if whole and annotation["bbox"][3] < least_height:
            continue
        points[points[:, 2] < least] = 0
        by_image.setdefault(name, []).append(annotation | {"keypoints": points})
    return by_image


def _points_of(annotation: dict) -> np.ndarray:
    """(133, 3) of a COCO-WholeBody annotation, or of a plain COCO one, whose other parts are then not labelled."""
    if not any(field in annotation for field in FIELDS[1:]):
        points = np.zeros((NUM_KEYPOINTS, 3), np.float32)
        points[PARTS["body"]] = np.reshape(annotation["keypoints"], (-1, 3))
        return points
    return whole_body_keypoints(annotation)


def score_photographs(
    pose: Runner,
    labels: Labels,
    images: Path,
    flip_test: str = "off",
    detector: Runner | str = GIVEN,
    move: tuple[float, float] = (0.0, 0.0),
    mirror: bool = False,
) -> dict[str, float]:
    """Figures of the module docstring, by name; nan where no picture is labelled for one.

    Args:
        labels: of `read_labels`; `images` holds the pictures.
        detector: GIVEN takes the labelled boxes, WHOLE_IMAGE the whole picture and two passes.
        move: of the labelled boxes, right and down in their sides.
        mirror: predict in the mirror images of the pictures, and mirror what is found back.
    """
    people = []
    options = Options(flip_test=flip_test)
    for name, persons in labels.items():
        picture = cv2.imread(str(images / name))
        if picture is None:
            raise ValueError(f"{images / name} is not a readable picture")
        boxes = np.array([person["bbox"] for person in persons], np.float32)
        boxes[:, :2] += boxes[:, 2:] * move
        boxes[:, 2:] += boxes[:, :2]
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        width = picture.shape[1]
        if any(move):
            boxes = boxes.clip(0, np.tile((width, picture.shape[0]), 2))
        if mirror:
            picture, boxes = (
                np.ascontiguousarray(picture[:, ::-1]),
                boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0) * 2,
            )
        if detector == GIVEN:
            found = estimate_people([picture], pose, None, [boxes], options)[0].xy
        else:
            seen = estimate_people([picture], pose, None if detector == WHOLE_IMAGE else detector, options=options)[0]
            found = np.full((len(boxes), NUM_KEYPOINTS, 2), np.inf)
            for truth, row in matches(boxes, seen.box):
                found[truth] = seen.xy[row]
        if mirror:
            found = (found * (-1, 1) + (width - 1, 0))[:, FLIP_INDICES]
        people += zip(persons, found, strict=True)
    return score_people(people)


def score_varied(pose: Runner, labels: Labels, images: Path, flip_test: str = "off") -> dict[str, float]:
    """Means of the figures over MOVES of the labelled boxes, in the pictures and their mirror images."""
    views = [(move, mirror) for mirror in (False, True) for move in MOVES]
    rows = [score_photographs(pose, labels, images, flip_test, GIVEN, *view) for view in views]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def matches(truth: np.ndarray, found: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row of `truth`, row of `found`) of boxes xyxy with IoU >= 0.5, each in one pair, best pairs first."""
    overlap = np.minimum(truth[:, None, 2:], found[:, 2:]) - np.maximum(truth[:, None, :2], found[:, :2])
    shared = overlap.clip(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (truth, found)]
    iou = shared / (areas[0][:, None] + areas[1] - shared)
    pairs = []
    while iou.size and iou.max() >= 0.5:
        row, column = np.unravel_index(iou.argmax(), iou.shape)
        pairs.append((int(row), int(column)))
        iou[row], iou[:, column] = 0, 0
    return pairs


def score_people(people: list[tuple[dict, np.ndarray]]) -> dict[str, float]:
    """Figures of (annotation, predicted keypoints (133, 2)) pairs."""
    hits = {"body_pck_torso": [], "body_pck_box": [], "foot_pck_box": [], "face_pck": [], "hand_pck": []}
    error = {"face_error": [], "hand_error": []}
    similarity = {"body_oks": [], "foot_oks": [], "face_oks": [], "hand_oks": []}
    for annotation, xy in people:
        truth, labelled = annotation["keypoints"], annotation["keypoints"][:, 2] > 0
        width, height = annotation["bbox"][2:]
        distance = np.linalg.norm(xy - truth[:, :2], axis=1)
        source = annotation.get("source", "")
        if source.endswith(ALONE[0]):
            other = np.linalg.norm(xy[HANDS[1]] - truth[HANDS[0], :2], axis=1)
            seen = labelled[HANDS[0]]
            if other[seen].sum() < distance[HANDS[0]][seen].sum():
                distance[HANDS[0]] = other
        area = width * height * (1.0 if source.endswith(ALONE) else 0.53)  # 0.53: a person in its box
        oks = np.exp(-(distance**2) / (2 * area * (2 * OKS_SIGMAS) ** 2))
        body, foot = (np.flatnonzero(labelled[PARTS[name]]) + PARTS[name].start for name in ("body", "foot"))
        torso = 0.3 * np.sqrt(width * height)
        if labelled[[5, 6, 11, 12]].all():
            torso = max(np.linalg.norm(truth[a, :2] - truth[b, :2]) for a, b in ((5, 12), (6, 11)))
        hits["body_pck_torso"] += (distance[body] < 0.2 * max(torso, 1.0)).tolist()
        hits["body_pck_box"] += (distance[body] < 0.1 * max(width, height)).tolist()
        hits["foot_pck_box"] += (distance[foot] < 0.1 * max(width, height)).tolist()
        for name, rows in (("body", body), ("foot", foot)):
            if len(rows):
                similarity[f"{name}_oks"].append(oks[rows].mean())
        for name, part in (("face", PARTS["face"]), ("hand", HANDS[0]), ("hand", HANDS[1])):
            rows = np.flatnonzero(labelled[part]) + part.start
            if len(rows) >= 8:
                extent = max(np.ptp(truth[rows, :2], axis=0).max(), 1.0)
                error[f"{name}_error"].append(np.minimum(distance[rows] / extent, 2.0).mean())
                similarity[f"{name}_oks"].append(oks[rows].mean())
                hits[f"{name}_pck"] += (distance[rows] < PART_PCK[name] * extent).tolist()
    figures = {name: np.mean(values) if values else np.nan for name, values in (hits | similarity).items()}
    figures |= {name: np.median(values) if values else np.nan for name, values in error.items()}
    return {name: float(value) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="+", help="weight files or catalogue names")
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--detector", default=GIVEN, help="weights, or: given (labelled boxes), whole-image")
    parser.add_argument("--flip-test", choices=("off", "original", "corrected"), default="off")
    parser.add_argument("--seen", action="store_true", help="points labelled as seen only, not hidden ones")
    parser.add_argument("--least-height", type=float, default=0.0, help="of the boxes of people that count, px")
    parser.add_argument(
        "--varied", action="store_true", help="mean of ten views: labelled boxes moved, pictures mirrored"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.varied and args.detector != GIVEN:
        parser.error("--varied moves the labelled boxes: leave out --detector")
    results, labels = {}, read_labels(args.labels, SEEN if args.seen else 1, args.least_height)
    finder = args.detector if args.detector in (GIVEN, WHOLE_IMAGE) else TorchRunner(load_detector(args.detector))
    for model in args.model:
        pose = TorchRunner(load_pose(model))
        if args.varied:
            results[model] = score_varied(pose, labels, args.images, args.flip_test)
        else:
            results[model] = score_photographs(pose, labels, args.images, args.flip_test, finder)
        print(model, " ".join(f"{name} {value:.3f}" for name, value in results[model].items()))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
