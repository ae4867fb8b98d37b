"""Time per pose map on one core, next to a plain implementation of what the original DWPose does, in the same run.

    python benchmarks/bench_render.py --size 512 1024 2048 --people 1 5 --out benchmarks/results/render.json

The peer is written here from the original's description: NumPy scalars for every limb and point, a colour conversion
for every finger (the standard library's; the original calls matplotlib's, which takes longer), the whole canvas
dimmed in float64. Both must give the same pixels or the run fails. Times are CPU time of one thread, runs interleaved,
median.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import math
import platform
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dwpose_core.openpose import is_visible, openpose_body
from dwpose_core.people import People
from dwpose_core.render import render
from dwpose_core.skeleton import HAND_EDGES, OPENPOSE_COLORS, OPENPOSE_LIMBS

TARGET_MS = 1.3  # per person with hands and face at 1024 x 1024


def standing_people(count: int, size: int, seed: int = 0) -> People:
    """All 133 points visible and inside: body, hands and face with the proportions of a standing person."""
    rng = np.random.default_rng(seed)
    body = [(0, -90), (3, -93), (-3, -93), (8, -91), (-8, -91), (19, -72), (-19, -72), (30, -45), (-30, -45)]
    body += [(34, -20), (-34, -20), (12, -10), (-12, -10), (14, 40), (-14, 40), (15, 85), (-15, 85)]
    foot = [(18, 93), (22, 91), (13, 89), (-18, 93), (-22, 91), (-13, 89)]
    face = [(9 * math.cos(i * math.pi / 16), -90 + 11 * math.sin(i * math.pi / 16)) for i in range(17)]
    face += [(float(x), float(y)) for x, y in zip(rng.uniform(-7, 7, 51), rng.uniform(-97, -82, 51), strict=True)]
    hand = [(0, 0)] + [(2 * (finger - 2) * joint / 2, 3.0 * joint) for finger in range(5) for joint in (1, 2, 3, 4)]
    hands = [(side * 34 + x, -20 + y) for side in (1, -1) for x, y in hand]
    person = np.array(body + foot + face + hands) * size / 210
    places = np.linspace(0.25, 0.75, count) * size if count > 1 else np.array([size / 2])
    xy = (
        person[None] + np.stack([places, np.full(count, size / 2)], axis=1)[:, None] + rng.normal(0, 1, (count, 133, 2))
    )
    return People(xy, np.ones((count, 133)), np.zeros((count, 4)), np.ones(count), (size, size))


def plain_render(people: People) -> np.ndarray:
    """The original's map, point by point."""
    height, width = people.image_size
    unit = np.array([width, height], np.float32)
    canvas = np.zeros((height, width, 3), np.uint8)
    body, _, seen = openpose_body(people, strict=True)
    body = body / unit
    for (a, b), color in zip(OPENPOSE_LIMBS, OPENPOSE_COLORS[:17], strict=True):
        for person in range(len(people)):
            if not (seen[person, a] and seen[person, b]):
                continue
            x = body[person, [a, b], 0] * float(width)
            y = body[person, [a, b], 1] * float(height)
            length = ((x[0] - x[1]) ** 2 + (y[0] - y[1]) ** 2) ** 0.5
            angle = math.degrees(math.atan2(y[0] - y[1], x[0] - x[1]))
            centre = int(np.mean(x)), int(np.mean(y))
            polygon = cv2.ellipse2Poly(centre, (int(length / 2), 4), int(angle), 0, 360, 1)
            cv2.fillConvexPoly(canvas, polygon, color)
    canvas = (canvas * 0.6).astype(np.uint8)
    for joint, color in enumerate(OPENPOSE_COLORS):
        for person in range(len(people)):
            if seen[person, joint]:
                x, y = body[person, joint]
                cv2.circle(canvas, (int(x * width), int(y * height)), 4, color, thickness=-1)
    for side in ("left_hand", "right_hand"):
        xy, score = people.part(side)
        hands = np.where(is_visible(xy, score, 0.3)[..., None], xy / unit, -1)
        for hand in hands:
            for i, (a, b) in enumerate(HAND_EDGES):
                (x1, y1), (x2, y2) = hand[a], hand[b]
                ends = int(x1 * width), int(y1 * height), int(x2 * width), int(y2 * height)
                if min(ends) > 0.01:
                    color = tuple(255 * channel for channel in colorsys.hsv_to_rgb(i / 20, 1.0, 1.0))
                    cv2.line(canvas, ends[:2], ends[2:], color, thickness=2)
            for x, y in hand:
                x, y = int(x * width), int(y * height)
                if x > 0.01 and y > 0.01:
                    cv2.circle(canvas, (x, y), 4, (0, 0, 255), thickness=-1)
    xy, score = people.part("face")
    for face in np.where(is_visible(xy, score, 0.3)[..., None], xy / unit, -1):
        for x, y in face:
            x, y = int(x * width), int(y * height)
            if x > 0.01 and y > 0.01:
                cv2.circle(canvas, (x, y), 3, (255, 255, 255), thickness=-1)
    return canvas


def measure(people: People, repeat: int) -> tuple[float, float]:
    """Median CPU milliseconds per map: ours, the peer's."""
    times: tuple[list, list] = [], []
    for _ in range(repeat):
        for draw, taken in zip(
            (lambda: render(people, style="dwpose"), lambda: plain_render(people)), times, strict=True
        ):
            start = time.thread_time()
            draw()
            taken.append(1e3 * (time.thread_time() - start))
    return float(np.median(times[0])), float(np.median(times[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[512, 1024, 2048], help="side of the square map")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 5], help="people on the map")
    parser.add_argument("--repeat", type=int, default=50, help="maps per figure")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    print(f"{'map':>10} {'people':>6} {'ours ms':>8} {'per person':>10} {'plain ms':>8} {'plain / ours':>12}")
    for size in args.size:
        for count in args.people:
            people = standing_people(count, size)
            if not np.array_equal(render(people, style="dwpose"), plain_render(people)):
                print(f"the two maps of {count} people at {size} differ", file=sys.stderr)
                return 1
            ours, plain = measure(people, args.repeat)
            rows.append({"size": size, "people": count, "ours_ms": ours, "plain_ms": plain, "ratio": plain / ours})
            print(
                f"{size:>5}x{size:<5}{count:>5} {ours:>8.2f} {ours / count:>10.2f} {plain:>8.2f} {plain / ours:>12.1f}"
            )
    worst = max((row["ours_ms"] / row["people"] for row in rows if row["size"] == 1024), default=None)
    if worst is not None:
        print(f"worst per person at 1024: {worst:.2f} ms, target {TARGET_MS} ms")
    if args.out:
        setting = {
            "clock": "CPU time of one thread, median, ms",
            "repeat": args.repeat,
            "machine": f"{platform.machine()}, {platform.system()}",
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
