"""What each lever of realism is worth: dwpose-nano trained with everything, and without one lever at a time.

    python -m benchmarks.realism --layers LAYERS --held-out LAYERS --objects DIR --assets DIR --out DIR \
        [--labels labels.json --images DIR] [--json benchmarks/results/realism.json]

Every variant has the same people, crops, steps and seed; only its `Disturbance` differs. Judged on held-out people,
plain and strongly disturbed, and with --labels on photographs (see benchmarks/photographs.py). Variants that are done
are not repeated. One seed and a small budget: differences of a few points are noise.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.photographs import read_labels, score_photographs
from dwpose_core.backends import TorchRunner
from training.optim import Schedule
from training.starter import Phase, pool_size, train
from training.starter_weights import NARROW, read_weights
from training.synthetic.composite import STRONG
from training.synthetic.pool import build_pool
from training.synthetic.workers import limit_threads

LEVERS = {
    "everything": {},
    "plain backgrounds": {"scenery": False},
    "no other people": {"people": False},
    "no things, no occluders": {"things": False},
    "no light and colour changes": {"light": False},
    "no blur, noise, low resolution": {"camera": False},
    "no JPEG": {"jpeg": False},
}
SEED = 21
CROP_SIZE = (128, 96)  # (H, W) of what the network sees
FIGURES = ("body_pck_torso", "body_oks", "foot_oks", "face_oks", "hand_oks", "face_error", "hand_error")


def one_variant(name: str, args: argparse.Namespace) -> dict:
    """Figures of the network trained on crops with the changes of lever `name`."""
    folder = args.out / name.replace(" ", "_").replace(",", "")
    result = folder / "figures.json"
    if result.is_file():
        return json.loads(result.read_text())
    sources = (args.layers, args.objects, args.assets)
    disturb = replace(STRONG, **LEVERS[name])
    build_pool(*sources, folder, "train", args.crops, SEED, pool_size(NARROW), 1, disturb)
    for test in ("test_plain", "test_strong"):
        for suffix in ("npy", "npz"):
            link = folder / f"{test}.{suffix}"
            link.unlink(missing_ok=True)
            link.symlink_to((args.out / "tests" / link.name).resolve())
    (folder / "rendezvous").unlink(missing_ok=True)
    schedule = Schedule(1.0, warmup=50, cosine_start=args.steps // 2, cosine_end=args.steps, final=0.01)
    phase = Phase(NARROW, CROP_SIZE, (("train", 1.0),), args.steps, int(0.7 * args.steps), schedule)
    train(0, 1, phase, (), None, folder, folder.resolve(), SEED)
    figures = json.loads((folder / "metrics.json").read_text())[-1]
    if args.labels:
        network = read_weights(folder / f"{NARROW}.safetensors", NARROW, CROP_SIZE).eval()
        figures["photographs"] = score_photographs(TorchRunner(network, "cpu"), read_labels(args.labels), args.images)
    (folder / "train.npy").unlink()
    (folder / "state.pt").unlink()
    result.write_text(json.dumps(figures, indent=1))
    return figures


def table(rows: dict[str, dict]) -> str:
    """Markdown: body PCK@0.2 torso on both synthetic tests, and the photographs' figures where there are any."""
    pictured = all("photographs" in row for row in rows.values())
    heads = ["plain", "strong", *(name.replace("_", " ") for name in FIGURES if pictured)]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, row in rows.items():
        cells = [row["plain"]["body_pck"], row["strong"]["body_pck"]]
        cells += [row["photographs"][figure] for figure in FIGURES if pictured]
        lines.append(f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=Path, required=True, help="written by training.synthetic.generate --layers")
    parser.add_argument("--held-out", type=Path, required=True, help="the same, other people")
    parser.add_argument("--objects", type=Path, required=True, help="written by training.synthetic.objects")
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crops", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=800, help="of 32 crops")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="variants at a time, one core each")
    parser.add_argument("--labels", type=Path, help="of photographs")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    limit_threads()
    sources = (args.held_out, args.objects, args.assets)
    for name, disturb in (("test_plain", None), ("test_strong", STRONG)):
        if not (args.out / "tests" / f"{name}.npz").is_file():
            build_pool(*sources, args.out / "tests", name, 600, SEED + 1, pool_size(NARROW), 1, disturb)
    # Not a multiprocessing.Pool: its processes may not have the children that fill a pool.
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        rows = dict(zip(LEVERS, pool.map(one_variant, LEVERS, repeat(args)), strict=True))
    print(table(rows))
    if args.json:
        record = {"crops": args.crops, "steps": args.steps, "seed": SEED, "torch": torch.__version__, "variants": rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
