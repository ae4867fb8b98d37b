"""Contact sheet of rendered people with their labels, to check them by eye.

    python -m training.synthetic.sheet --data SCENES --out sheet.png                              photographs
    python -m training.synthetic.sheet --data LAYERS --out sheet.png [--assets DIR --objects DIR] layers

Of photographs (a folder with annotations.json) one sees boxes, masks as a tint, skeletons, and boxes of face and hands.
With --assets and --objects layers are shown as training crops (composited); without, as they are.
Body green, feet orange, face white, left hand red, right hand magenta; what is hidden is dark.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np

from dwpose_core.images import check_picture_name
from dwpose_core.skeleton import HAND_EDGES, PARTS

from ..command import at_least_one, output, run
from ..pictures import imread, imwrite
from .coco import PART_FIELDS, SKELETON
from .labels import OUTSIDE, VISIBLE

COLORS = {
    "body": (0, 255, 0),
    "foot": (255, 140, 0),
    "face": (255, 255, 255),
    "left_hand": (255, 40, 40),
    "right_hand": (255, 0, 255),
}
DARK = 0.4  # of the colour, where a point is hidden
PERSON_COLORS = ((90, 200, 255), (255, 200, 60), (170, 255, 120), (255, 130, 130), (200, 150, 255), (120, 255, 220))


def mark(image: np.ndarray, points: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """A copy of the RGB image with dots at the keypoints (133, 2) that are not outside."""
    image = image.copy()
    for part, color in COLORS.items():
        radius = max(1, round(image.shape[0] / 160)) if part in ("body", "foot") else 1
        for (x, y), flag in zip(points[PARTS[part]], visible[PARTS[part]], strict=True):
            if flag != OUTSIDE:
                shade = tuple(int(c * (1.0 if flag == VISIBLE else DARK)) for c in color)
                cv2.circle(image, (round(float(x)), round(float(y))), radius, shade, -1, cv2.LINE_AA)
    return image


def draw_labels(image: np.ndarray, annotations: list[dict]) -> np.ndarray:
    """A copy of the RGB image (h, w, 3) uint8 with everything that `coco.annotation` knows of its people."""
    from pycocotools.mask import decode

    image = image.copy()
    for k, person in enumerate(annotations):
        color = PERSON_COLORS[k % len(PERSON_COLORS)]
        mask = decode(person["segmentation"]).astype(bool)
        image[mask] = (0.72 * image[mask] + 0.28 * np.array(color)).astype(np.uint8)
        boxes = [(person["bbox"], color)] + [
            (person[f"{field}_box"], COLORS[part]) for field, part in PART_FIELDS.items() if person[f"{field}_valid"]
        ]
        for (x, y, w, h), shade in boxes:
            cv2.rectangle(image, (round(x), round(y)), (round(x + w) - 1, round(y + h) - 1), shade, 1)
    for person in annotations:
        xy = np.array(person["wholebody_xy"]).reshape(-1, 2)
        state = np.array(person["wholebody_state"])
        small = np.hypot(*person["bbox"][2:]) < 60
        links = [(a - 1, b - 1, "body") for a, b in SKELETON]
        for part in ("left_hand", "right_hand"):
            links += [(PARTS[part].start + a, PARTS[part].start + b, part) for a, b in HAND_EDGES]
        for a, b, part in links:
            if state[a] == OUTSIDE or state[b] == OUTSIDE or (small and part != "body"):
                continue
            share = 1.0 if state[a] == state[b] == VISIBLE else DARK
            ends = [tuple(int(v) for v in np.rint(xy[i] * 16)) for i in (a, b)]  # OpenCV takes 4 fractional bits
            width = 2 if part == "body" and not small else 1
            cv2.line(image, *ends, tuple(int(c * share) for c in COLORS[part]), width, cv2.LINE_AA, 4)
        image = mark(image, xy, np.where(small & (np.arange(133) > 16), OUTSIDE, state))
    return image


def fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture scaled to fit into a dark frame of `size` (width, height), in its middle."""
    scale = min(size[0] / image.shape[1], size[1] / image.shape[0])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[: size[1], : size[0]]
    frame = np.full((size[1], size[0], 3), 24, np.uint8)
    top, left = (size[1] - small.shape[0]) // 2, (size[0] - small.shape[1]) // 2
    frame[top : top + small.shape[0], left : left + small.shape[1]] = small
    return frame


def tile(pictures: list[np.ndarray], columns: int) -> np.ndarray:
    """Equal-sized pictures in rows of `columns`, black where they run out."""
    pictures = pictures + [np.zeros_like(pictures[0])] * (-len(pictures) % columns)
    return np.vstack([np.hstack(pictures[i : i + columns]) for i in range(0, len(pictures), columns)])


def scene_pictures(folder: Path, count: int, size: tuple[int, int], show: str, ids: list[int]) -> list[np.ndarray]:
    """Frames of `size` (width, height) with scenes of a folder of scene_set.py: the first `count`, or those of `ids`.

    `show`: "labels", "bare", or "both", one above the other.
    """
    content = json.loads((folder / "annotations.json").read_text())
    images = {entry["id"]: entry for entry in content["images"]}
    if not images:
        raise ValueError(f"{folder / 'annotations.json'} lists no pictures")
    if unknown := sorted(set(ids) - images.keys()):
        raise ValueError(f"{folder} has no image with the id {unknown[0]}; its ids are {min(images)} to {max(images)}")
    pictures = []
    for entry in [images[k] for k in ids] if ids else content["images"][:count]:
        picture = imread(folder / "images" / entry["file_name"])
        if picture is None:
            raise ValueError(f"{folder / 'images' / entry['file_name']} is not a readable picture")
        image = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        people = [person for person in content["annotations"] if person["image_id"] == entry["id"]]
        views = {"bare": image, "labels": draw_labels(image, people)}
        pictures.append(np.vstack([fitted(view, size) for name, view in views.items() if show in (name, "both")]))
    return pictures


def layer_pictures(folder: Path, count: int, size: tuple[int, int], assets: Path | None, objects: Path | None):
    """Layers as they are, or as training crops of `size` (width, height) when assets and objects are given."""
    from .backgrounds import Backgrounds
    from .composite import composite
    from .layer_store import LayerStore, read_objects

    store = LayerStore(folder)
    backgrounds = Backgrounds(assets) if assets else None
    things = read_objects(objects) if objects else []
    pictures = []
    for i in range(min(count, len(store))):
        if backgrounds:
            crop = composite(store, i, backgrounds, things, size, np.random.default_rng(i))
            pictures.append(mark(crop.image, crop.keypoints, crop.visible))
            continue
        rgba = store.rgba(i).astype(np.float32)
        alpha = rgba[..., 3:] / 255
        left, top, right, bottom = np.clip(np.round(store.frame[i]), 0, 9999).astype(int)
        image = rgba[..., :3] * alpha + (1 - alpha) * (96, 110, 96)
        dim = np.full(image.shape[:2], 0.3, np.float32)
        dim[top : bottom + 1, left : right + 1] = 1.0
        pictures.append(mark((image * dim[..., None]).astype(np.uint8), store.keypoints[i], store.visible[i]))
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--objects", type=Path)
    parser.add_argument("--count", type=at_least_one, default=24)
    parser.add_argument("--columns", type=at_least_one, default=6)
    parser.add_argument("--scenes", type=int, nargs="+", default=[], metavar="ID", help="image ids; default: the first")
    parser.add_argument("--show", choices=("labels", "bare", "both"), default="labels", help="of photographs")
    parser.add_argument(
        "--tile", type=at_least_one, nargs=2, default=(320, 320), metavar=("W", "H"), help="of a photograph"
    )
    parser.add_argument(
        "--size", type=at_least_one, nargs=2, default=(192, 256), metavar=("W", "H"), help="of a layer's crop"
    )
    args = parser.parse_args()
    photographs = (args.data / "annotations.json").is_file()
    for name in ("assets", "objects", "size") if photographs else ("scenes", "show", "tile"):
        if getattr(args, name) != parser.get_default(name):
            kind, held = ("layers", "photographs") if photographs else ("photographs", "no annotations.json")
            parser.error(f"--{name} is for {kind}; {args.data} holds {held}")
    if (args.assets is None) != (args.objects is None):
        parser.error("crops need both --assets and --objects")
    if args.size != parser.get_default("size") and args.assets is None:
        parser.error("--size is of crops, which need --assets and --objects")
    check_picture_name(output(args.out))
    if photographs:
        pictures = scene_pictures(args.data, args.count, tuple(args.tile), args.show, args.scenes)
    else:
        pictures = layer_pictures(args.data, args.count, tuple(args.size), args.assets, args.objects)
    sheet = cv2.cvtColor(tile(pictures, args.columns), cv2.COLOR_RGB2BGR)
    if not imwrite(args.out, sheet):
        raise OSError(f"cannot write {args.out}")


if __name__ == "__main__":
    sys.exit(run(main))
