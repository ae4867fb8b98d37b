"""The starter pose models that ship with the package: from asset folder to weights, on CPU cores alone.

    python -m training.starter --assets DIR --out DIR            about four and a half hours on two cores

1. layers: rendered people and scenes (training.synthetic.generate) and objects; 2. pools: training crops made from them
(training.synthetic.pool, scene_crops); 3. training; 4. OUT/dwpose-micro.safetensors (fp16) and OUT/metrics.json.
Stages whose result exists are skipped, and training goes on at its last report, so a run may be interrupted.
`--start FILE` trains on from weights of an earlier run, or from the mean of several, with new pictures if the seed or
the assets are; a dwpose-nano goes on as a dwpose-micro. `--network dwpose-nano` makes the narrow one. `--network
dwpose-s --start FILE` goes on where training.synthetic_run left a dwpose-s on a GPU, or an earlier run of this, and a
dwpose-t likewise: with close-ups, hands alone, crowds, parts of people, people turned by any angle and, above all,
people in scenes rendered as a whole. `--mean FILE` averages the result with the weights of earlier parts.

What differs from DWPose's own training, and why (figures: cards in dwpose_core/bundled, docs/synthetic_results.md):
* A heat-map aid: for the first part of the run a small branch predicts stride-8 maps from the backbone's stages.
  SimCC alone hardly leaves the mean pose within the first ten thousand pictures.
* Muon beside AdamW (muon.py).
* Small crops first: most of what there is to learn about bodies shows at 128 x 96, at half the price of 192 x 144.
* A narrow network first, for the same reason: dwpose-nano becomes dwpose-micro by channels that nobody reads yet.
* A keypoint outside the crop is taught a flat row, with a small weight. Its maximum, the score, is then near 0 instead
  of being whatever an untaught row gives; this is what makes the score usable as a visibility.
* Processes instead of threads: each of `--workers` processes trains on its own batches with one thread and gradients
  are averaged. The networks run in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from dwpose_core.models.rtmcc import VARIANTS
from dwpose_core.simcc import label_sigma

from .growth import hold_pixels, mean_weights
from .muon import MuonAdamW
from .optim import ExponentialMovingAverage, Schedule
from .small_simcc import (
    MORE_HANDS,
    PART_WEIGHTS,
    HeatmapAid,
    heatmap_loss,
    label_table,
    loss_weights,
    simcc_loss,
    stage_features,
)
from .starter_batches import draw_batch
from .starter_score import calibrate, measure
from .starter_weights import LARGEST, NARROW, TINY, WIDE, begin, read_weights, save
from .synthetic.composite import CLOSE, CROWDED, MILD, PARTIAL, QUIET, STRONG, TUMBLING, VACANT
from .synthetic.generate import generate
from .synthetic.objects import generate_objects
from .synthetic.pool import CropPool, build_pool
from .synthetic.scene_crops import build_scene_pool
from .synthetic.scene_set import generate_scenes
from .synthetic.workers import limit_threads

BATCH = 32  # per process
REPORT_EVERY = 1000  # steps
LEARNING_RATE, MUON_RATE, WEIGHT_DECAY = 2e-3, 3e-3, 0.05
LAYER_SIZE = (192, 256)  # (W, H) of rendered people, margin included
SCENE_SIDE = 400  # longer side of scenes rendered as a whole, px; most people in them are smaller than a crop
OBJECTS = 1500  # rendered things that are not people
HELD_OUT = 600  # people nobody trains on; two thirds as many close-ups


@dataclass(frozen=True)
class Phase:
    """A stretch of training of the catalogue's `network`, with the heat-map aid for its first `aid` steps.

    `size` (H, W) is that of the crops; `pools` are (name, share of the batches); `schedule` has rate 1 and scales both
    learning rates; `absent` is the weight of flat rows relative to a seen keypoint of the same part, `parts` those of
    the parts. Where `frozen`, stem and first stage stay as they were at the start, which saves a dwpose-s a quarter of
    its time.
    """

    network: str
    size: tuple[int, int]
    pools: tuple[tuple[str, float], ...]
    steps: int
    aid: int
    schedule: Schedule
    absent: float = 0.15
    frozen: bool = False
    parts: dict[str, float] = field(default_factory=PART_WEIGHTS.copy)

    def scaled(self, length: float) -> Phase:
        """The same in `length` times as many steps."""
        times = ("warmup", "cosine_start", "cosine_end")
        schedule = replace(self.schedule, **{name: round(getattr(self.schedule, name) * length) for name in times})
        steps, aid = max(1, round(self.steps * length)), round(self.aid * length)
        return replace(self, steps=steps, aid=aid, schedule=schedule)


MOSTLY = (("strong", 2.0), ("crowded", 1.2), ("scenes", 1.0), ("mild", 0.7), ("close", 1.3))
SMALL = (*MOSTLY, ("quiet", 0.25))
# Pictures without a person: until then scores tell hidden from seen, but not somebody from nobody.
LARGE = (*MOSTLY, ("quiet", 0.3), ("vacant", 0.9))
# For who has learnt the others: hidden limbs, people who lie or hang, neighbours, parts of people, hands.
HARD = (
    ("scenes", 3.0),
    ("strong", 1.5),
    ("crowded", 1.0),
    ("partial", 1.5),
    ("tumbling", 0.8),
    ("mild", 0.5),
    ("close", 2.0),
    ("hands", 3.0),
    ("quiet", 0.3),
    ("vacant", 0.8),
)
FIRST = Phase(NARROW, (128, 96), SMALL, 12000, 9000, Schedule(1.0, 300, 8000, 26000, 0.01))
PHASES = {
    NARROW: (FIRST, Phase(NARROW, (192, 144), LARGE, 5400, 0, Schedule(1.0, 100, 0, 5400, 0.01), 0.25)),
    WIDE: (
        FIRST,
        Phase(WIDE, (128, 96), SMALL, 6500, 0, Schedule(1.0, 300, 0, 13000, 0.01)),
        Phase(WIDE, (192, 144), LARGE, 5400, 0, Schedule(1.0, 100, 0, 5400, 0.01), 0.25),
    ),
}
# After --start: no aid.
MORE = {
    NARROW: (
        Phase(NARROW, (128, 96), SMALL, 5000, 0, Schedule(0.8, 300, 0, 10000, 0.01)),
        Phase(NARROW, (192, 144), LARGE, 4000, 0, Schedule(1.0, 100, 0, 4000, 0.01), 0.25),
    ),
    WIDE: PHASES[WIDE][1:],
    TINY: (Phase(TINY, (256, 192), HARD, 3600, 0, Schedule(0.8, 200, 0, 3600, 0.01), 0.25, False, MORE_HANDS),),
    LARGEST: (Phase(LARGEST, (256, 192), HARD, 3600, 0, Schedule(0.5, 200, 0, 3600, 0.01), 0.25, True, MORE_HANDS),),
}


def pool_size(network: str) -> tuple[int, int]:
    """(W, H) of stored crops: the largest that a phase asks for."""
    return max(phase.size for phase in MORE[network])[::-1]


def train(rank: int, workers: int, phase: Phase, start: Sequence[Path], pools: Path, out: Path, seed: int) -> None:
    """One of `workers` equal processes; the first one keeps the average of the weights, measures and saves.

    With `start` (weights of an earlier phase or run, or of several) training goes on from their mean, with size-bound
    layers interpolated where the crops were of another size, and widened where the network was narrower.
    OUT/metrics.json grows; OUT/state.pt is for going on after a stop.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    cv2.setNumThreads(1)
    dist.init_process_group("gloo", init_method=f"file://{out / 'rendezvous'}", rank=rank, world_size=workers)
    torch.manual_seed(seed)
    sources = {name: CropPool.load(pools, name) for name, _ in phase.pools}
    shares = np.array([share for _, share in phase.pools])
    turns = np.random.default_rng(seed).choice(list(sources), phase.steps, p=shares / shares.sum())
    tests = {path.stem: CropPool.load(pools, path.stem) for path in sorted(pools.glob("test_*.npz"))}
    net = begin(start, phase.network, phase.size)
    if phase.frozen:
        hold_pixels(net.backbone)
    net = net.to(memory_format=torch.channels_last)
    tables = tuple(label_table(2 * n, s) for n, s in zip(phase.size[::-1], label_sigma(phase.size), strict=True))
    aid = HeatmapAid(net)
    both = nn.ModuleList((net, aid)).to(memory_format=torch.channels_last)
    optimizer = MuonAdamW(both, LEARNING_RATE, MUON_RATE, WEIGHT_DECAY)
    average = ExponentialMovingAverage(net, momentum=0.002, gamma=200.0)
    done, losses, began = 0, [], time.time()
    metrics, checkpoint = out / "metrics.json", out / "state.pt"
    history = json.loads(metrics.read_text()) if metrics.is_file() else []
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        done, average.step = state["step"], state["step"]
        both.load_state_dict(state["both"])
        optimizer.load_state_dict(state["optimizer"])
        average.module.load_state_dict(state["average"])
    dist.barrier()  # nobody writes these files before everybody has read them
    rng = np.random.default_rng((seed, rank, done))
    for step in tqdm(
        range(done, phase.steps),
        unit="step",
        desc=f"{phase.network} {phase.size[0]} x {phase.size[1]}",
        disable=rank > 0,
    ):
        images, points, visible = draw_batch(sources[turns[step]], BATCH, phase.size, rng)
        weight, absent = loss_weights(points, visible, phase.absent, phase.parts)
        with torch.autocast("cpu", torch.bfloat16):
            features = stage_features(net, images.contiguous(memory_format=torch.channels_last))
            logits = net.head(features[-1])
            maps = aid(features) if step < phase.aid else None
        loss = simcc_loss(logits, tables, points, weight, absent)
        total = loss if maps is None else loss + heatmap_loss(maps, points, weight)
        both.zero_grad(set_to_none=True)
        total.backward()
        average_gradients(both, workers)
        nn.utils.clip_grad_norm_(both.parameters(), 5.0)
        optimizer.step(phase.schedule.at(step))
        losses.append(loss.item())
        if rank > 0:
            continue
        average.update(net)
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == phase.steps:
            row = {
                "network": phase.network,
                "size": phase.size,
                "pictures": (step + 1) * BATCH * workers,
                "loss": float(np.mean(losses)),
            }
            row["seconds"] = round(time.time() - began)
            row |= {name.removeprefix("test_"): measure(average.module, pool) for name, pool in tests.items()}
            history.append(row)
            losses.clear()
            tqdm.write(json.dumps(row))
            save(average.module, out / f"{phase.network}.safetensors")
            metrics.write_text(json.dumps(history, indent=1) + "\n")
            state = {"both": both.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state | {"average": average.module.state_dict()}, out / "state.tmp")
            os.replace(out / "state.tmp", checkpoint)
    dist.barrier()
    dist.destroy_process_group()


def average_gradients(module: nn.Module, workers: int) -> None:
    """Mean over the processes, in one message."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / workers).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def check_start(network: str, start: Sequence[Path], out: Path, length: float = 1.0) -> None:
    """Make or recognise the folder of a run, which has one beginning.

    Raises:
        ValueError: when `start` can't become the `network` or is missing, `length` is not positive, or `out` was begun
            otherwise.
    """
    if not start and network not in PHASES:
        raise ValueError(f"{network} is more than CPUs learn from nothing: give --start, a file of synthetic_run")
    begin(start, network, pool_size(network)[::-1])
    if length <= 0:
        raise ValueError(f"--length must be more than 0, got {length}")
    origin = f"{network} from {', '.join(str(path.resolve()) for path in start) or 'nothing'}"
    origin += "" if length == 1.0 else f", length {length}"
    begun = out / "begun.txt"
    if begun.is_file() and (found := begun.read_text()) != origin:
        raise ValueError(f"{out} was begun as {found}, this run is {origin}; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    begun.write_text(origin)


def finish(network: str, out: Path, earlier: list[Path]) -> None:
    """Average the trained network with `earlier` files, calibrate its scores, note both in metrics.json.

    What was trained is kept in OUT/trained.safetensors, so that doing this again gives the same.
    """
    result, trained = out / f"{network}.safetensors", out / "trained.safetensors"
    if not trained.is_file():
        os.replace(result, trained)
    size = VARIANTS[network].input_size
    net = mean_weights([read_weights(path, network, size) for path in (*earlier, trained)]).eval()
    row = {}
    if earlier:
        tests = {
            path.stem: CropPool.load(out / "pool", path.stem) for path in sorted((out / "pool").glob("test_*.npz"))
        }
        row = {"mean_of": 1 + len(earlier)}
        row |= {name.removeprefix("test_"): measure(net, pool) for name, pool in tests.items()}
    row["score_factor"] = calibrate(net, CropPool.load(out / "pool", "test_strong"))
    save(net, result, row["score_factor"])
    history = [row for row in json.loads((out / "metrics.json").read_text()) if "score_factor" not in row]
    (out / "metrics.json").write_text(json.dumps([*history, row], indent=1) + "\n")


def prepare(args: argparse.Namespace, out: Path) -> None:
    """Layers and pools that do not exist yet."""
    close, size = HELD_OUT * 2 // 3, pool_size(args.network)
    drawn = {name for phase in MORE[args.network] for name, _ in phase.pools}
    in_scenes = args.people // 2 if args.scene_people is None else args.scene_people
    jobs = (
        ("layers", args.people, args.seed, "usual"),
        ("close_layers", args.people // 2, args.seed + 20, "close-ups"),
        ("hand_layers", args.people // 2 if "hands" in drawn else 0, args.seed + 40, "hands"),
        ("held_out", HELD_OUT, args.seed + 1000, "usual"),
        ("close_held_out", close, args.seed + 1020, "close-ups"),
        ("hand_held_out", HELD_OUT // 2, args.seed + 1040, "hands"),
    )
    for folder, people, seed, framings in jobs:
        if people and not (out / folder / f"labels_{seed:04d}.npz").is_file():
            extra = {"with_accessories": folder != "held_out", "framings": framings}
            generate(args.assets, out / folder, people, seed, args.workers, LAYER_SIZE, **extra)
    if not (out / "scenes" / "annotations.json").is_file():
        generate_scenes(args.assets, out / "scenes", in_scenes, args.seed + 5, args.workers, SCENE_SIDE)
    if not (out / "held_out_scenes" / "annotations.json").is_file():
        generate_scenes(args.assets, out / "held_out_scenes", HELD_OUT, args.seed + 1005, args.workers, SCENE_SIDE)
    if not (out / "objects" / "done").is_file():
        generate_objects(args.assets, out / "objects", OBJECTS, args.seed, args.workers)
    pools = (
        ("strong", "layers", args.crops, args.seed, STRONG),
        ("crowded", "layers", args.crops * 2 // 7, args.seed + 5, CROWDED),
        ("mild", "layers", args.crops // 6, args.seed + 1, MILD),
        ("quiet", "layers", args.crops // 20, args.seed + 2, QUIET),
        ("vacant", "layers", args.crops // 6, args.seed + 3, VACANT),
        ("tumbling", "layers", args.crops // 5, args.seed + 7, TUMBLING),
        ("partial", "layers", args.crops * 2 // 5, args.seed + 9, PARTIAL),
        ("close", "close_layers", args.crops // 2, args.seed + 4, CLOSE),
        ("hands", "hand_layers", args.crops // 2, args.seed + 8, CLOSE),
        ("test_strong", "held_out", HELD_OUT, args.seed, STRONG),
        ("test_plain", "held_out", HELD_OUT, args.seed, None),
        ("test_partial", "held_out", HELD_OUT, args.seed + 9, PARTIAL),
        ("test_close", "close_held_out", close, args.seed + 4, None),
        ("test_hands", "hand_held_out", HELD_OUT // 2, args.seed + 8, None),
    )
    for name, folder, count, seed, disturb in pools:
        wanted = name in drawn or name.startswith("test_")
        if wanted and not (out / "pool" / f"{name}.npz").is_file():
            sources = (out / folder, out / "objects", args.assets)
            build_pool(*sources, out / "pool", name, count, seed, size, args.workers, disturb)
    scene_pools = (("scenes", "scenes", 2 * in_scenes), ("test_scenes", "held_out_scenes", HELD_OUT))
    for name, folder, count in scene_pools:
        if not (out / "pool" / f"{name}.npz").is_file():
            build_scene_pool(out / folder, out / "pool", name, count, args.seed + 6, size, args.workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="folder of packed body assets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", choices=MORE, default=WIDE, help=f"what to make (default {WIDE})")
    parser.add_argument(
        "--start",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="train on from the weights of an earlier run (.safetensors), or from the mean of several",
    )
    parser.add_argument(
        "--mean",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="weights of an earlier part of this training; the result is their mean with what is trained (repeatable)",
    )
    note = "rendered for training; half as many close-ups, and where hands are learnt by themselves, of those"
    parser.add_argument("--people", type=int, default=18000, help=note)
    parser.add_argument(
        "--scene-people",
        type=int,
        help="rendered in whole scenes, unless OUT/scenes is there; half of --people if not given",
    )
    parser.add_argument("--crops", type=int, default=140000, help="of the strongest kind; as many others")
    parser.add_argument("--length", type=float, default=1.0, help="of the training, relative to the recipe's steps")
    parser.add_argument("--workers", type=int, default=2, help="processes; part of the recipe, keep 2 to repeat it")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    out = args.out.resolve()
    check_start(args.network, args.start, out, args.length)  # before an hour of rendering
    for path in args.mean:
        read_weights(path, args.network, VARIANTS[args.network].input_size)
    prepare(args, out)
    limit_threads()
    start = args.start
    for number, phase in enumerate((MORE if start else PHASES)[args.network]):
        if not (out / f"phase{number}.done").is_file():
            (out / "rendezvous").unlink(missing_ok=True)
            arguments = (args.workers, phase.scaled(args.length), start, out / "pool", out, args.seed + number)
            torch.multiprocessing.spawn(train, arguments, nprocs=args.workers)
            (out / "state.pt").unlink()
            (out / f"phase{number}.done").touch()
        start = [out / f"{phase.network}.safetensors"]
    finish(args.network, out, args.mean)


if __name__ == "__main__":
    main()
