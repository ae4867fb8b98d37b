"""What each lever of realism is worth: dwpose-nano trained with everything, and without one lever at a time.

    python -m benchmarks.realism --assets DIR --out DIR --start dwpose_core/bundled/dwpose-nano.safetensors \
        [--photographs labels.json DIR ...] [--json benchmarks/results/realism.json]

With --start a network that has learnt with everything goes on without a lever: what it unlearns is what the lever is
worth. Without --start every variant begins from nothing, which takes a hundred times as many pictures to tell anything.
Every variant has the same bodies, poses, cameras, crops, steps and seed; what it lacks is in neither its layers nor its
crops nor what a crop undergoes when it is drawn again. "Everything" is trained a second time with another seed: what
differs by no more than these two is noise. Judged on held-out people, plain and strongly disturbed, and on photographs
as means of ten views (see benchmarks/photographs.py), in COCO's of people of 64 pixels and more. Variants that are done
are not repeated. A variant takes one core; with the default numbers about 12 minutes without bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.photographs import read_labels, score_varied
from dwpose_core.backends import TorchRunner
from dwpose_core.models.rtmcc import DWPose
from training.command import at_least_one
from training.optim import Schedule
from training.starter import Phase, train
from training.starter_batches import Variation
from training.starter_pictures import HELD_OUT, LAYER_SIZE, OBJECTS, pool_size
from training.starter_score import measure
from training.starter_weights import NARROW, begin, read_weights
from training.synthetic.composite import STRONG
from training.synthetic.generate import generate
from training.synthetic.objects import generate_objects
from training.synthetic.pool import CropPool, build_pool
from training.synthetic.workers import limit_threads


@dataclass(frozen=True)
class Lever:
    """What a variant is trained on: its layers, changes to STRONG and to the Variation of its batches, its seed."""

    layers: str = "usual"
    disturb: dict[str, bool] = field(default_factory=dict)
    vary: dict[str, bool] = field(default_factory=dict)
    seed: int = 21


LEVERS = {
    "everything": Lever(),
    "plain backgrounds": Lever(disturb={"scenery": False}),
    "no other people": Lever(disturb={"people": False}),
    "no things, no occluders": Lever(disturb={"things": False}, vary={"patches": False}),
    "fitted grey suits": Lever("plain"),
    "no photometric changes": Lever(disturb={"light": False, "camera": False}, vary={"colours": False}),
    "no JPEG": Lever(disturb={"jpeg": False}),
    "everything, another seed": Lever(seed=22),
}
CROP_SIZE = (128, 96)  # (H, W) of what the network sees
LEAST_HEIGHT = 64  # of people, px
FIGURES = ("body_pck_torso", "body_oks", "foot_pck_box", "foot_oks", "face_pck", "face_oks", "hand_pck", "hand_oks")


def one_variant(name: str, args: argparse.Namespace) -> dict:
    """Figures of the network trained with lever `name` left out."""
    lever = LEVERS[name]
    folder = args.out / name.replace(" ", "_").replace(",", "")
    result = folder / "figures.json"
    if result.is_file():
        return json.loads(result.read_text())
    sources = (args.out / lever.layers, args.out / "objects", args.assets)
    if not (folder / "train.npz").is_file():
        disturb = replace(STRONG, **lever.disturb)
        build_pool(*sources, folder, "train", args.crops, lever.seed, pool_size(NARROW), 1, disturb)
    for test in ("test_plain", "test_strong"):
        for suffix in ("npy", "npz"):
            link = folder / f"{test}.{suffix}"
            link.unlink(missing_ok=True)
            link.symlink_to((args.out / "tests" / link.name).resolve())
    (folder / "rendezvous").unlink(missing_ok=True)
    schedule = Schedule(1.0, warmup=50, cosine_start=args.steps // 2, cosine_end=args.steps, final=0.01)
    aid = 0 if args.start else int(0.7 * args.steps)
    variation, parts = Variation(**lever.vary), (("train", 1.0),)
    phase = Phase(NARROW, CROP_SIZE, parts, args.steps, aid, schedule, variation=variation)
    train(0, 1, phase, tuple(args.start), None, folder, folder.resolve(), lever.seed)
    figures = json.loads((folder / "metrics.json").read_text())[-1]
    figures |= judged(read_weights(folder / f"{NARROW}.safetensors", NARROW, CROP_SIZE), args)
    result.write_text(json.dumps(figures, indent=1))
    (folder / "train.npy").unlink()
    (folder / "state.pt").unlink()
    return figures


def judged(network: DWPose, args: argparse.Namespace) -> dict:
    """Figures on the held-out people, and on each set of photographs."""
    runner = TorchRunner(network.eval(), "cpu")
    figures: dict = {
        test: measure(network, CropPool.load(args.out / "tests", f"test_{test}")) for test in ("plain", "strong")
    }
    for labels, images in args.photographs:
        scores = score_varied(runner, read_labels(labels, least_height=LEAST_HEIGHT), images)
        figures.setdefault("photographs", {})[labels.stem] = scores
    return figures


def table(rows: dict[str, dict]) -> str:
    """Markdown: body PCK@0.2 torso on both synthetic tests, then each set of photographs' figures where it has any."""
    sets = list(next(iter(rows.values())).get("photographs", {}))
    columns = [
        (name, figure)
        for name in sets
        for figure in FIGURES
        if all(row["photographs"][name][figure] == row["photographs"][name][figure] for row in rows.values())  # no nan
    ]
    heads = ["plain", "strong", *(f"{name}: {figure.replace('_', ' ')}" for name, figure in columns)]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, row in rows.items():
        cells = [row["plain"]["body_pck"], row["strong"]["body_pck"]]
        cells += [row["photographs"][photographs][figure] for photographs, figure in columns]
        lines.append(f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(lines)


def prepare(args: argparse.Namespace) -> None:
    """Layers, things and tests that do not exist yet."""
    tests = args.out / "tests"
    for folder, people, seed in (("usual", args.people, 11), ("plain", args.people, 11), ("held_out", HELD_OUT, 12)):
        if not (args.out / folder / f"labels_{seed:04d}.npz").is_file():
            extra = {"with_accessories": True, "plain_clothes": folder == "plain"}
            generate(args.assets, args.out / folder, people, seed, args.processes, LAYER_SIZE, **extra)
    if not (args.out / "objects" / "done").is_file():
        generate_objects(args.assets, args.out / "objects", OBJECTS, 11, args.processes)
    for name, disturb in (("test_plain", None), ("test_strong", STRONG)):
        if not (tests / f"{name}.npz").is_file():
            sources = (args.out / "held_out", args.out / "objects", args.assets)
            build_pool(*sources, tests, name, HELD_OUT, 12, pool_size(NARROW), args.processes, disturb)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, nargs="+", default=[], metavar="FILE", help="weights of a dwpose-nano")
    parser.add_argument("--people", type=at_least_one, default=4000, help="layers, in usual and in plain clothes")
    parser.add_argument("--crops", type=at_least_one, default=4000)
    parser.add_argument("--steps", type=at_least_one, default=500, help="of 32 crops")
    parser.add_argument("--processes", type=at_least_one, default=os.cpu_count(), help="variants at a time")
    photographs = {"action": "append", "default": [], "help": "may be repeated"}
    parser.add_argument("--photographs", type=Path, nargs=2, metavar=("LABELS", "IMAGES"), **photographs)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    limit_threads()
    prepare(args)
    # Not a multiprocessing.Pool: its processes may not have the children that fill a pool.
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        rows = dict(zip(LEVERS, pool.map(one_variant, LEVERS, repeat(args)), strict=True))
    if args.start:
        rows = {"before": judged(begin(args.start, NARROW, CROP_SIZE), args)} | rows
    print(table(rows))
    if args.json:
        begun = {"start": [path.name for path in args.start], "people": args.people}
        record = begun | {"crops": args.crops, "steps": args.steps, "torch": torch.__version__}
        args.json.write_text(json.dumps(record | {"variants": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
