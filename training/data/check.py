"""Look at a data set before hours are spent on it.

    python -m training.data.check coco_wholebody_train_v1.0.json,train2017 --sheet sheet.png
    python -m training.data.check a.json,images b.json,images --limit 500     a quick look at several

Reports people and labelled keypoints per part, finds missing, broken and wrongly sized images, and draws a contact
sheet of training crops as the network gets them. Exit status 1 when an image is unusable, 2 for a wrong command.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dwpose_core.images import check_picture_name, write_image
from dwpose_core.skeleton import HAND_EDGES, PARTS

from ..command import argument, at_least_one, not_negative, output, run
from .augment import NO_AUGMENT, AugmentConfig, augment, plan
from .toy import LIMBS
from .wholebody import Annotations, DataSource, NoAnnotations, read_annotations, read_image

COLOURS = {  # RGB
    "body": (255, 90, 90),
    "foot": (255, 200, 60),
    "face": (255, 255, 255),
    "left_hand": (90, 220, 255),
    "right_hand": (140, 255, 120),
}
# Finger chains of a hand: root, then four joints each.


def summary(source: DataSource, table: Annotations) -> str:
    """People, images, and the share of people with labels, per part."""
    lines = [
        f"{source.annotations}: {len(table)} people in {len(table.file_names)} images (weight {source.weight:g})",
        "  left out: " + (", ".join(f"{n} {reason}" for reason, n in table.dropped.items() if n) or "nobody"),
    ]
    for part, columns in PARTS.items():
        labelled = table.visible[:, columns] > 0
        lines.append(
            f"  {part:11} {int(labelled.sum()):9d} keypoints, on {100 * labelled.any(1).mean():5.1f} % of people"
        )
    sides = table.box[:, 3] - table.box[:, 1]
    lines.append(
        "  box height  " + " / ".join(f"{q:.0f}" for q in np.percentile(sides, (5, 50, 95))) + " px (5, 50, 95 %)"
    )
    return "\n".join(lines)


def bad_images(source: DataSource, table: Annotations, rows: np.ndarray, workers: int) -> list[str]:
    """What is wrong with the images in `rows` of the table; decodes each of them."""

    def inspect(row: int) -> str | None:
        path = Path(source.images) / str(table.file_names[row])
        if not path.is_file():
            return f"{path}: missing"
        try:
            height, width = read_image(path).shape[:2]
        except ValueError as error:
            return f"{path}: {error}"
        expected = tuple(int(side) for side in table.image_size[row])
        if (height, width) != expected:
            return f"{path}: is {width} x {height}, the annotations say {expected[1]} x {expected[0]}"
        return None

    with ThreadPoolExecutor(workers) as pool:  # OpenCV decodes outside the interpreter lock
        results = tqdm(pool.map(inspect, rows.tolist()), total=len(rows), desc="images", unit="image")
        return [problem for problem in results if problem]


def draw_keypoints(crop: np.ndarray, keypoints: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """The crop (H, W, 3), slightly dimmed, with its labelled keypoints and their limbs."""
    canvas = (crop * 0.75).astype(np.uint8)
    points = np.rint(keypoints.clip(-2000, 4000) * 16).astype(int)  # OpenCV takes 4 fractional bits
    links = [(a, b, "body") for a, b in LIMBS if 0 not in (a, b)]
    for part in ("left_hand", "right_hand"):
        links += [(PARTS[part].start + a, PARTS[part].start + b, part) for a, b in HAND_EDGES]
    for a, b, part in links:
        if visible[a] and visible[b]:
            cv2.line(canvas, points[a].tolist(), points[b].tolist(), COLOURS[part], 1, cv2.LINE_AA, 4)
    for part, columns in PARTS.items():
        radius = 3.0 if part in ("body", "foot") else 1.5
        for point in points[columns][visible[columns] > 0]:
            cv2.circle(canvas, point.tolist(), int(radius * 16), COLOURS[part], -1, cv2.LINE_AA, 4)
    return canvas


def contact_sheet(
    sources: list[tuple[DataSource, Annotations]],
    columns: int = 8,
    rows: int = 4,
    augmented: bool = True,
    seed: int = 0,
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: random people of all sources; with `augmented` every second row shows the row above again,
    as training sees it."""
    rng = np.random.default_rng(seed)
    size, gap = (256, 192), 6
    orders = [rng.permutation(len(table)) for _, table in sources]
    steps = 2 if augmented else 1
    sheet = np.full((rows * (size[0] + gap) + gap, columns * (size[1] + gap) + gap, 3), 24, np.uint8)
    for cell in range((rows // steps) * columns):
        source, table = sources[cell % len(sources)]
        order = orders[cell % len(sources)]
        person = int(order[cell // len(sources) % len(order)])
        image_row = int(table.image[person])
        try:
            image = read_image(Path(source.images) / str(table.file_names[image_row]))
        except ValueError:
            continue  # an empty cell; `bad_images` names the file
        for i, config in enumerate((NO_AUGMENT, AugmentConfig())[:steps]):
            crop = plan(
                table.box[person], table.keypoints[person], table.visible[person], image.shape[:2], size, config, rng
            )
            tile = draw_keypoints(*augment(image, 1, crop, config, rng))
            y = gap + ((cell // columns) * steps + i) * (size[0] + gap)
            x = gap + (cell % columns) * (size[1] + gap)
            sheet[y : y + size[0], x : x + size[1]] = tile
    return sheet


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=argument(DataSource.parse), metavar="JSON,IMAGES[,WEIGHT[,N]]")
    parser.add_argument("--sheet", help="write the contact sheet here, e.g. sheet.png")
    parser.add_argument("--limit", type=not_negative, default=0, help="decode only this many images per source; 0: all")
    parser.add_argument("--workers", type=at_least_one, default=4)
    parser.add_argument("--show", type=not_negative, default=20, help="bad images to list per source")
    args = parser.parse_args(argv)
    if args.sheet:
        check_picture_name(output(args.sheet))
    tables, failed = [], 0
    for source in args.sources:
        try:
            table = read_annotations(source.annotations, source.sample_interval)
        except NoAnnotations as error:  # training leaves such a file out
            print(error)
            continue
        tables.append((source, table))
        print(summary(source, table))
        rows = np.arange(len(table.file_names))
        if args.limit:
            rows = np.random.default_rng(0).permutation(rows)[: args.limit]
        problems = bad_images(source, table, rows, args.workers)
        failed += len(problems)
        print(f"  {len(rows) - len(problems)} of {len(rows)} images are good")
        for problem in problems[: args.show]:
            print(f"  bad: {problem}")
        if len(problems) > args.show:
            print(f"  ... and {len(problems) - args.show} more")
    if not tables:
        raise ValueError("there is nobody in any of these files")
    if args.sheet:
        write_image(args.sheet, contact_sheet(tables))
        print(f"contact sheet: {args.sheet}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run(main))
