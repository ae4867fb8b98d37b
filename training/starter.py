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

`--teacher FILE` trains by DWPose's distillation instead of the labels alone: stage 1 from the file's network, begun as
its strongest channels (pruning.py) or with `--start`, then stage 2, a new head that learns from the old one. Where the
file is of the network itself, stage 2 is all there is. What ships is of the stage that is better on test_strong.

What differs from DWPose's own training, and why (figures: cards in dwpose_core/bundled, docs/synthetic_results.md):
* A heat-map aid: for the first part of the run a small branch predicts stride-8 maps from the backbone's stages.
  SimCC alone hardly leaves the mean pose within the first ten thousand pictures.
* Muon beside AdamW (muon.py).
* Small crops first: most of what there is to learn about bodies shows at 128 x 96, at half the price of 192 x 144.
* A narrow network first, for the same reason: dwpose-nano becomes dwpose-micro by channels that nobody reads yet.
* A keypoint outside the crop is taught a flat row, with a small weight. Its maximum, the score, is then near 0 instead
  of being whatever an untaught row gives; this is what makes the score usable as a visibility.
* Processes instead of threads: each of `--workers` processes trains on its own batches with one thread and gradients
  are averaged. The networks run in bfloat16 where the processor has it (precision.py).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from dwpose_core.models.rtmcc import VARIANTS, DWPose

from .checkpoint import save_state, write_atomic, write_json
from .command import at_least_one, more_than_zero, not_negative, run
from .growth import hold_pixels, mean_weights
from .label_objective import as_batch
from .muon import MuonAdamW
from .optim import ExponentialMovingAverage
from .precision import autocast
from .pruning import pruned
from .starter_batches import draw_batch
from .starter_phases import MORE, PHASES, Phase, objective_of, phases_of
from .starter_pictures import CROPS_EACH, HELD_OUT, OBJECTS, pool_size, prepare, scene_people
from .starter_score import calibrate, measure
from .starter_weights import WIDE, as_trained, begin, build_network, read_weights, save
from .synthetic.pool import CropPool
from .synthetic.workers import end_with_parent, limit_threads

BATCH = 32  # per process
LEAST_CROPS = 20 * BATCH  # a twentieth of --crops is undisturbed
REPORT_EVERY = 1000  # steps
LEAST_SCENE_PEOPLE = -(-BATCH // CROPS_EACH)
LEARNING_RATE, MUON_RATE, WEIGHT_DECAY = 2e-3, 3e-3, 0.05


def train(
    rank: int,
    workers: int,
    phase: Phase,
    start: Sequence[Path],
    teacher: Path | None,
    pools: Path,
    out: Path,
    seed: int,
) -> None:
    """One of `workers` equal processes; the first one keeps the average of the weights, measures and saves.

    With `start` (weights of an earlier phase or run, or of several) training goes on from their mean, with size-bound
    layers interpolated where the crops were of another size, and widened where the network was narrower. The second
    stage of the distillation has that as its `teacher`, the first one the file's.
    OUT/metrics.json grows; OUT/state.pt is for going on after a stop.
    """
    end_with_parent()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    cv2.setNumThreads(1)
    dist.init_process_group("gloo", init_method=f"file://{out / 'rendezvous'}", rank=rank, world_size=workers)
    torch.manual_seed(seed)
    sources = {name: CropPool.load(pools, name) for name, _ in phase.pools}
    shares = np.array([share for _, share in phase.pools])
    turns = np.random.default_rng(seed).choice(list(sources), phase.steps, p=shares / shares.sum())
    tests = {path.stem: CropPool.load(pools, path.stem) for path in sorted(pools.glob("test_*.npz"))}
    net = beginning(start, teacher, phase.network, phase.size)
    if phase.kind == "stage2":  # a new head on the trained backbone learns from the trained head
        net, taught_by = build_network(phase.network, phase.size), net
    else:
        taught_by = as_trained(teacher) if teacher else None
    objective = objective_of(phase, net, taught_by).to(memory_format=torch.channels_last).train()
    if phase.frozen:
        hold_pixels(net.backbone)
    optimizer = MuonAdamW(objective, LEARNING_RATE, MUON_RATE, WEIGHT_DECAY)
    average = ExponentialMovingAverage(net, momentum=0.002, gamma=200.0)
    done, losses, began = 0, [], time.time()
    metrics, checkpoint = out / "metrics.json", out / "state.pt"
    history = json.loads(metrics.read_text()) if metrics.is_file() else []
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        done, average.step = state["step"], state["step"]
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        average.module.load_state_dict(state["average"])
        history = state.get("history", history)

    def publish() -> None:
        save(average.module, weights_of(phase, out))
        write_json(metrics, history)

    dist.barrier()  # nobody writes these files before everybody has read them
    if rank == 0 and done:  # what went before may have ended between the state and these
        publish()
    rng = np.random.default_rng((seed, rank, done, 1))  # without the 1 the first one's numbers were those of `turns`
    for step in tqdm(
        range(done, phase.steps),
        unit="step",
        desc=f"{phase.network} {phase.size[0]} x {phase.size[1]}",
        disable=rank > 0,
    ):
        batch = as_batch(draw_batch(sources[turns[step]], BATCH, phase.size, rng, phase.variation))
        objective.set_epoch(step)
        with autocast(torch.device("cpu")):
            result = objective(batch)
        objective.zero_grad(set_to_none=True)
        result["loss"].backward()
        average_gradients(objective, workers)
        nn.utils.clip_grad_norm_(objective.parameters(), 5.0)
        optimizer.step(phase.schedule.at(step))
        losses.append(result.get("loss_task", result["loss"]).item())
        if rank > 0:
            continue
        average.update(net)
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == phase.steps:
            row = {
                "network": phase.network,
                "kind": phase.kind,
                "size": phase.size,
                "pictures": (step + 1) * BATCH * workers,
                "loss": float(np.mean(losses)),
            }
            row["seconds"] = round(time.time() - began)
            row |= {name.removeprefix("test_"): measure(average.module, pool) for name, pool in tests.items()}
            history.append(row)
            losses.clear()
            tqdm.write(json.dumps(row))
            state = {"objective": objective.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save_state(checkpoint, state | {"average": average.module.state_dict(), "history": history})
            publish()
    dist.barrier()
    dist.destroy_process_group()


def beginning(start: Sequence[Path], teacher: Path | None, network: str, size: tuple[int, int]) -> DWPose:
    """A network before its first step: `begin`, or the strongest channels of its teacher.

    Raises:
        ValueError: where a file can't become, or hasn't got, such a network.
    """
    if start or not teacher:
        return begin(start, network, size)
    return pruned(as_trained(teacher), replace(VARIANTS[network], input_size=size), network)


def weights_of(phase: Phase, out: Path) -> Path:
    """What a phase leaves in `out`: the first stage's stays, for where the second does not beat it."""
    return out / f"{phase.network}{'-stage1' if phase.kind == 'stage1' else ''}.safetensors"


def average_gradients(module: nn.Module, workers: int) -> None:
    """Mean over the processes, in one message."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / workers).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def check_start(
    network: str, start: Sequence[Path], out: Path, length: float = 1.0, teacher: Path | None = None, **options: object
) -> tuple[Phase, ...]:
    """The phases of a run, after making or recognising its folder, which has one beginning, with `options` of its own.

    Raises:
        ValueError: when `start` can't become the `network` or is missing, `teacher` can't teach it, `length` is not
            positive, or `out` was begun otherwise.
    """
    if not start and not teacher and network not in PHASES:
        raise ValueError(f"{network} is more than CPUs learn from nothing: give --start, a file of synthetic_run")
    net = beginning(start, teacher, network, pool_size(network)[::-1])
    taught_by = as_trained(teacher) if teacher else None
    phases = phases_of(network, bool(start), taught_by.name if taught_by else None)
    if start and phases[0].kind == "stage2":
        raise ValueError(f"{teacher} is a {network} and its own teacher: leave out --start")
    objective_of(phases[0], net, taught_by)
    if not 0 < length < math.inf:
        raise ValueError(f"--length must be more than 0, got {length}")
    origin = f"{network} from {', '.join(str(path.resolve()) for path in start) or 'nothing'}"
    origin += "" if length == 1.0 else f", length {length}"
    origin += f", taught by {teacher.resolve()}" if teacher else ""
    origin += "".join(f", {name} {value}" for name, value in options.items())
    begun = out / "begun.txt"
    if begun.is_file() and (found := begun.read_text(encoding="utf-8")) != origin:
        raise ValueError(f"{out} was begun as {found}, this run is {origin}; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    begun.write_text(origin, encoding="utf-8")
    return tuple(phase.scaled(length) for phase in phases)


def finish(network: str, out: Path, earlier: list[Path], teacher: Path | None = None) -> None:
    """Average the trained network with `earlier` files, calibrate its scores, note both in metrics.json.

    What was trained is kept in OUT/trained.safetensors, so that doing this again gives the same. Of a distillation that
    is the second stage's network where it beats the one that it began with: the first stage's, or the `teacher`.
    """
    result, trained = out / f"{network}.safetensors", out / "trained.safetensors"
    if not trained.is_file():
        rows = {row.get("kind"): row for row in json.loads((out / "metrics.json").read_text())}
        before, first = rows.get("stage1"), out / f"{network}-stage1.safetensors"
        if before is None and "stage2" in rows:
            before = {"strong": measure(as_trained(teacher).eval(), CropPool.load(out / "pool", "test_strong"))}
        if not before or before["strong"]["body_pck"] <= rows["stage2"]["strong"]["body_pck"]:
            write_atomic(trained, lambda temporary: shutil.copyfile(result, temporary))
        elif first.is_file():
            write_atomic(trained, lambda temporary: shutil.copyfile(first, temporary))
        else:
            save(as_trained(teacher), trained)
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
    write_json(out / "metrics.json", [*history, row])


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
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="learn from this network, by DWPose's two stages")
    parser.add_argument(
        "--mean",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="weights of an earlier part of this training; the result is their mean with what is trained (repeatable)",
    )
    note = "rendered for training; half as many close-ups, and where hands are learnt by themselves, of those"
    parser.add_argument("--people", type=at_least_one, default=18000, help=note)
    parser.add_argument(
        "--scene-people",
        type=at_least_one,
        help="rendered in whole scenes, unless OUT/scenes is there; half of --people if not given",
    )
    parser.add_argument("--things", type=at_least_one, default=OBJECTS, help=f"rendered, not people ({OBJECTS})")
    note = f"people to measure on, as many again in scenes, and two thirds as many close-ups ({HELD_OUT})"
    parser.add_argument("--held-out", type=at_least_one, default=HELD_OUT, help=note)
    parser.add_argument("--crops", type=int, default=140000, help="of the strongest kind; as many others")
    parser.add_argument(
        "--length", type=more_than_zero, default=1.0, help="of the training, relative to the recipe's steps"
    )
    parser.add_argument(
        "--workers", type=at_least_one, default=2, help="processes; part of the recipe, keep 2 to repeat it"
    )
    parser.add_argument("--seed", type=not_negative, default=1)
    args = parser.parse_args()
    out = args.out.resolve()
    if args.crops < LEAST_CROPS:
        parser.error(f"--crops must be at least {LEAST_CROPS}, or some kinds do not fill a batch; got {args.crops}")
    if (in_scenes := scene_people(args)) < LEAST_SCENE_PEOPLE:
        parser.error(f"--scene-people must be at least {LEAST_SCENE_PEOPLE}, or they fill no batch; got {in_scenes}")
    for path in (*args.start, *args.mean, *([args.teacher] if args.teacher else [])):
        if not path.is_file():  # a catalogue name would be found, too, but keep the factor of its scores
            parser.error(f"{path} is no file")
    options = {name: getattr(args, name) for name in ("people", "scene_people", "crops", "seed", "workers")}
    options |= {
        name: getattr(args, name) for name in ("things", "held_out") if getattr(args, name) != parser.get_default(name)
    }
    phases = check_start(args.network, args.start, out, args.length, args.teacher, **options)  # before rendering
    for path in args.mean:
        read_weights(path, args.network, VARIANTS[args.network].input_size)
    prepare(args, out)
    limit_threads()
    start = args.start
    for number, phase in enumerate(phases):
        if not (out / f"phase{number}.done").is_file():
            (out / "rendezvous").unlink(missing_ok=True)
            arguments = (args.workers, phase, start, args.teacher, out / "pool", out, args.seed + number)
            torch.multiprocessing.spawn(train, arguments, nprocs=args.workers)
            os.replace(out / "state.pt", out / f"phase{number}.done")  # at once: neither without the other
            (out / f"phase{number}.done").write_bytes(b"")
        start = [weights_of(phase, out)]
    finish(args.network, out, args.mean, args.teacher)


if __name__ == "__main__":
    sys.exit(run(main))
