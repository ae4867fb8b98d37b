"""Contact sheet of layers with their keypoints, to check labels by eye.

    python -m training.synthetic.sheet --data LAYERS --out sheet.png [--assets DIR --objects DIR]

With --assets and --objects the layers are shown as training crops (composited); without, as they are. Body green,
feet orange, face white, left hand red, right hand magenta; hidden points are dark.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from dwpose_core.skeleton import PARTS

from .labels import HIDDEN, OUTSIDE

COLORS = {
    "body": (0, 255, 0),
    "foot": (255, 140, 0),
    "face": (255, 255, 255),
    "left_hand": (255, 40, 40),
    "right_hand": (255, 0, 255),
}


def mark(image: np.ndarray, points: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """A copy of the RGB image with dots at the keypoints (133, 2) that are not outside."""
    image = image.copy()
    for part, color in COLORS.items():
        radius = max(1, round(image.shape[0] / 160)) if part in ("body", "foot") else 1
        for (x, y), flag in zip(points[PARTS[part]], visible[PARTS[part]], strict=True):
            if flag != OUTSIDE:
                shade = tuple(int(c * (0.4 if flag == HIDDEN else 1.0)) for c in color)
                cv2.circle(image, (round(float(x)), round(float(y))), radius, shade, -1, cv2.LINE_AA)
    return image


def tile(pictures: list[np.ndarray], columns: int) -> np.ndarray:
    """Equal-sized pictures in rows of `columns`, black where they run out."""
    pictures = pictures + [np.zeros_like(pictures[0])] * (-len(pictures) % columns)
    return np.vstack([np.hstack(pictures[i : i + columns]) for i in range(0, len(pictures), columns)])


def main() -> None:
    from .backgrounds import Backgrounds
    from .composite import LayerStore, composite, read_objects

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--objects", type=Path)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), metavar=("W", "H"))
    args = parser.parse_args()
    store = LayerStore(args.data)
    if (args.assets is None) != (args.objects is None):
        parser.error("crops need both --assets and --objects")
    backgrounds = Backgrounds(args.assets) if args.assets else None
    objects = read_objects(args.objects) if args.objects else []
    pictures = []
    for i in range(min(args.count, len(store))):
        if backgrounds:
            crop = composite(store, i, backgrounds, objects, tuple(args.size), np.random.default_rng(i))
            pictures.append(mark(crop.image, crop.keypoints, crop.visible))
            continue
        rgba = store.rgba(i).astype(np.float32)
        alpha = rgba[..., 3:] / 255
        left, top, right, bottom = np.clip(np.round(store.frame[i]), 0, 9999).astype(int)
        image = rgba[..., :3] * alpha + (1 - alpha) * (96, 110, 96)
        dim = np.full(image.shape[:2], 0.3, np.float32)
        dim[top : bottom + 1, left : right + 1] = 1.0
        pictures.append(mark((image * dim[..., None]).astype(np.uint8), store.keypoints[i], store.visible[i]))
    sheet = cv2.cvtColor(tile(pictures, args.columns), cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(args.out), sheet):
        raise OSError(f"cannot write {args.out}")


if __name__ == "__main__":
    main()
