"""A folder of labelled scenes: pictures, one small label file each, and the json made of them at the end.

    OUT/images/SEED_NUMBER.jpg        OUT/labels/SEED_NUMBER.json        OUT/annotations.json        OUT/settings.json

A scene is done when its label file exists. The same command continues an interrupted folder, and more people extend it;
the result is the same as if it had been made in one go, for any number of workers.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from .body import assets_digest, check_assets
from .coco import CATEGORY, annotation
from .motion import motion_file
from .render import check_opengl
from .scenes import SCENES_PER_CAST, SceneGenerator
from .staging import draw_plan
from .workers import Workers

VERSION = 11  # of what a seed gives; a folder is not continued with another
UNFINISHED = ("images/*.jpg.*.part", "labels/*.json.*.part", "*.json.*.part")  # what a killed run leaves, see `_write`


def scenes_for(people: int, seed: int, longest: int) -> int:
    """How many scenes of a seed it takes to place `people` people. Few of them end up hidden or outside."""
    placed = number = 0
    while placed < people:
        placed += draw_plan(np.random.default_rng((seed, number)), longest).people
        number += 1
    return number


def _write(path: Path, data: bytes) -> None:
    """All or nothing, so that a killed worker leaves no half file."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    os.replace(part, path)


def _start(assets: Path, longest: int, captured: float) -> None:
    global _generator
    cv2.setNumThreads(1)
    _generator = SceneGenerator(assets, longest, captured=captured)


def jpeg(image: np.ndarray, seed: int, number: int) -> bytes:
    """The file of scene `number`, an RGB picture (h, w, 3), in a quality of its own."""
    quality = int(np.random.default_rng((seed, number, 100)).integers(60, 97))
    picture = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    ok, code = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))
    if not ok:
        raise OSError(f"cannot encode scene {number} of seed {seed}")
    return code.tobytes()


def _draw(task: tuple[Path, int, int]) -> None:
    out, seed, number = task
    name = f"{seed:04d}_{number:07d}"
    scene = _generator.scene(seed, number)
    _write(out / "images" / f"{name}.jpg", jpeg(scene.image, seed, number))
    width, height = scene.plan.size
    image = {"id": number + 1, "file_name": f"{name}.jpg", "width": width, "height": height}
    people = [annotation(p, scene.plan.size, number + 1, k) for k, p in enumerate(scene.people)]
    _write(out / "labels" / f"{name}.json", json.dumps({"image": image, "annotations": people}).encode())


def generate_scenes(
    assets: Path, out: Path, people: int, seed: int, workers: int, longest: int = 640, captured: float = 0.0
) -> Path:
    """Make or continue a folder of scenes with `people` people -> path of its annotations.json.

    Args:
        assets: folder of packed body assets.
        longest: longer side of the pictures in pixels.
        captured: share of poses from motion capture, which is not CC0.

    Raises:
        ValueError: without assets, for captured poses that they lack, or when `out` was begun with other settings.
    """
    check_assets(assets)
    if captured:
        motion_file(assets)
    check_opengl()
    settings = {"version": VERSION, "seed": seed, "longest": longest, "captured": captured}
    settings |= {"assets": assets_digest(assets)}
    begun = out / "settings.json"
    # A run that failed before its first scene, for want of something in the assets, say, binds nobody.
    drawn = any(out.glob("images/*.jpg")) or any(out.glob("labels/*.json"))
    if drawn and begun.is_file() and (found := json.loads(begun.read_text())) != settings:
        raise ValueError(f"{out} was begun with {found}, this run has {settings}; choose another folder")
    for folder in (out / "images", out / "labels"):
        folder.mkdir(parents=True, exist_ok=True)
    for name in UNFINISHED:
        for unfinished in out.glob(name):
            unfinished.unlink()
    _write(begun, json.dumps(settings).encode())
    names = [f"{seed:04d}_{number:07d}" for number in range(scenes_for(people, seed, longest))]
    labels = [out / "labels" / f"{name}.json" for name in names]
    left = [(out, seed, number) for number, path in enumerate(labels) if not path.is_file()]
    if left:
        workers = min(workers, len(left))
        with Workers(workers, _start, (assets, longest, captured)) as pool:
            done = pool.imap_unordered(_draw, left, chunksize=SCENES_PER_CAST if len(left) > 50 * workers else 1)
            for _ in tqdm(done, total=len(names), initial=len(names) - len(left), unit="scene"):
                pass
    content = {
        "info": {
            "description": "rendered people with COCO-WholeBody labels",
            "license": "CC0-1.0" if not captured else "CC0-1.0, poses from the CMU motion capture database",
            "wholebody_state": {"0": "outside", "1": "hidden by the own body", "2": "seen", "3": "hidden by others"},
            **settings,
        },
        "licenses": [],
        "categories": [CATEGORY],
        "images": [],
        "annotations": [],
    }
    for path in labels:
        part = json.loads(path.read_text())
        content["images"].append(part["image"])
        content["annotations"] += part["annotations"]
    _write(out / "annotations.json", json.dumps(content).encode())
    return out / "annotations.json"
