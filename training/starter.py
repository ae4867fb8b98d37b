"""The starter pose model that ships with the package: from asset folder to weights, on CPU cores alone.

    python -m training.starter --assets DIR --out DIR            about two CPU-hours, one hour on two cores

1. layers: rendered people (training.synthetic.generate) and objects; 2. pools: training crops made from them
(training.synthetic.pool); 3. training of `dwpose-nano`; 4. OUT/dwpose-nano.safetensors (fp16) and OUT/metrics.json.
Stages whose result exists are skipped, so an interrupted run goes on at the last finished stage.

What differs from DWPose's own training, and why (figures: model card in dwpose_core/bundled):
* A heat-map aid: for the first part of the run a small branch predicts stride-8 maps from the backbone's stages.
  SimCC alone hardly leaves the mean pose within the first ten thousand pictures.
* Three phases: strongly disturbed crops, among them whole photographs as boxes; milder ones; many without a person.
* A keypoint outside the crop is taught a flat row, with a small weight. Its maximum, the score, is then near 0 instead
  of being whatever an untaught row gives; this is what makes the score usable as a visibility.
* Processes instead of threads: each of `--workers` processes trains on its own batches with one thread and gradients
  are averaged. The backbone runs in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from dwpose_core.models.rtmcc import DWPose, create_model
from dwpose_core.simcc import decode, label_sigma
from dwpose_core.skeleton import FLIP_INDICES, PARTS

from .objectives import normalize
from .optim import ExponentialMovingAverage, Schedule, build_optimizer
from .small_simcc import HeatmapAid, heatmap_loss, label_table, loss_weights, simcc_loss, stage_features
from .synthetic.composite import MILD, QUIET, STRONG
from .synthetic.generate import generate
from .synthetic.labels import OUTSIDE, VISIBLE
from .synthetic.objects import generate_objects
from .synthetic.pool import CropPool, build_pool
from .synthetic.workers import limit_threads

MODEL = "dwpose-nano"
BATCH = 32  # per step, shared among the processes; 32 learn more from the same number of pictures than 64
REPORT_EVERY = 650  # steps
LAYER_SIZE = (192, 256)  # (W, H) of rendered people, margin included
POOL_SIZE = (144, 192)  # (W, H) of stored crops, half as large again as the input
OBJECTS = 1500  # rendered things that are not people
HELD_OUT = 600  # people nobody trains on


@dataclass(frozen=True)
class Phase:
    """A stretch of training on batches from each pool in turn, with the heat-map aid for its first `aid` steps.

    `absent` is the weight of flat rows relative to a seen keypoint of the same part.
    """

    pools: tuple[str, ...]
    steps: int
    aid: int
    absent: float
    schedule: Schedule


PHASES = (
    Phase(("strong",), 6500, 4680, 0.15, Schedule(2e-3, warmup=200, cosine_start=3250, cosine_end=13000, final=0.01)),
    Phase(("mild",), 3400, 0, 0.15, Schedule(1.5e-3, warmup=100, cosine_start=400, cosine_end=3400, final=0.01)),
    # A fifth of these pictures is empty. Without them scores told hidden from seen, but not somebody from nobody.
    Phase(("quiet",), 900, 0, 0.3, Schedule(6e-4, warmup=50, cosine_start=100, cosine_end=900, final=0.01)),
)


def resized(images: np.ndarray, points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Crops (n, h, w, 3) and points (n, 133, 2) at `size` (H, W); whole numbers are pixel centres."""
    if images.shape[1:3] == size:
        return images, points
    scale = np.array((size[1] / images.shape[2], size[0] / images.shape[1]), np.float32)
    small = [cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small), (points + 0.5) * scale - 0.5


def draw_batch(
    pool: CropPool, count: int, size: tuple[int, int], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`count` random crops, half of them mirrored: images (N, 3, H, W), points (N, 133, 2), visible (N, 133)."""
    chosen = np.sort(rng.choice(len(pool), count, replace=False))
    images, points = resized(pool.images[chosen], pool.keypoints[chosen].copy(), size)
    visible = pool.visible[chosen].copy()
    flip = rng.random(count) < 0.5
    images[flip] = images[flip][:, :, ::-1]
    points[flip, :, 0] = images.shape[2] - 1 - points[flip, :, 0]
    points[flip], visible[flip] = points[flip][:, FLIP_INDICES], visible[flip][:, FLIP_INDICES]
    return normalize(torch.from_numpy(images)), torch.from_numpy(points), torch.from_numpy(visible)


@torch.no_grad()
def predict(net: DWPose, pool: CropPool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints found (n, 133, 2) and true (n, 133, 2) in pixels of the network's input, and scores (n, 133)."""
    found, truth, scores = [], [], []
    for start in range(0, len(pool), 50):
        part = slice(start, start + 50)
        images, points = resized(pool.images[part], pool.keypoints[part], net.config.input_size)
        xy, score = decode(*net(normalize(torch.from_numpy(images))))
        found.append(xy.numpy())
        truth.append(points)
        scores.append(score.numpy())
    return np.concatenate(found), np.concatenate(truth), np.concatenate(scores)


def measure(net: DWPose, pool: CropPool) -> dict[str, float]:
    """Body PCK@0.2 torso, mean error of seen face and hand points over the part's longer side, score separation.

    `score_auc` is the chance that a seen body point scores higher than one outside the crop; nan where none is.
    """
    found, truth, score = predict(net, pool)
    hits, errors = [], {"face": [], "hand": []}
    for xy, points, visible in zip(found, truth, pool.visible, strict=True):
        distance = np.linalg.norm(xy - points, axis=-1)
        if (visible[[5, 6, 11, 12]] > OUTSIDE).all():
            torso = max(np.linalg.norm(points[5] - points[12]), np.linalg.norm(points[6] - points[11]))
            hits += (distance[:17][visible[:17] > OUTSIDE] < 0.2 * torso).tolist()
        for name, where in (("face", "face"), ("hand", "left_hand"), ("hand", "right_hand")):
            seen = visible[PARTS[where]] == VISIBLE
            if seen.sum() >= 8:
                extent = np.ptp(points[PARTS[where]][seen], axis=0).max()
                errors[name].append(distance[PARTS[where]][seen].mean() / extent)
    inside, outside = (score[:, :17][pool.visible[:, :17] == kind] for kind in (VISIBLE, OUTSIDE))
    auc = np.searchsorted(np.sort(outside), inside).mean() / len(outside) if len(outside) else float("nan")
    medians = {f"{name}_nme": float(np.median(values)) for name, values in errors.items()}
    return {"body_pck": float(np.mean(hits)), **medians, "score_auc": float(auc)}


def calibrate(net: DWPose, pool: CropPool) -> float:
    """Scale the scores in place so that 0.3, the field's usual threshold, is the balanced one. Returns the factor.

    Balanced: as large a share of the seen body points falls below as of those outside the crop lies above. A network
    trained this briefly is unsure of everything, and its raw scores are low. Keypoints do not move.
    """
    score = predict(net, pool)[2][:, :17]
    seen, outside = (np.sort(score[pool.visible[:, :17] == kind]) for kind in (VISIBLE, OUTSIDE))
    missed = np.searchsorted(seen, seen) / len(seen)
    false = 1 - np.searchsorted(outside, seen) / len(outside)
    factor = 0.3 / float(seen[np.abs(missed - false).argmin()])
    with torch.no_grad():
        net.head.cls_x.weight *= factor
        net.head.cls_y.weight *= factor
    return factor


def train(rank: int, workers: int, phase: Phase, start: Path | None, pools: Path, out: Path, seed: int) -> None:
    """One of `workers` equal processes; the first one keeps the average of the weights, measures and saves.

    With `start` training goes on from those weights and adds to `out`/metrics.json.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dist.init_process_group("gloo", init_method=f"file://{out / 'rendezvous'}", rank=rank, world_size=workers)
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, rank))
    sources = [CropPool.load(pools, name) for name in phase.pools]
    tests = {name: CropPool.load(pools, f"test_{name}") for name in ("plain", "strong")}
    net = create_model(MODEL)
    size = net.config.input_size
    history, losses, begin = [], [], time.time()
    if start is not None:
        net.load_state_dict(load_file(start))
        history = json.loads((out / "metrics.json").read_text())
        dist.barrier()  # nobody writes these files before everybody has read them
    net = net.to(memory_format=torch.channels_last)
    tables = tuple(label_table(2 * n, s) for n, s in zip(size[::-1], label_sigma(size), strict=True))
    aid = HeatmapAid(net)
    both = nn.ModuleList((net, aid))
    optimizer = build_optimizer(both, phase.schedule.lr, 0.05)
    average = ExponentialMovingAverage(net, momentum=0.002, gamma=200.0)
    for step in tqdm(range(phase.steps), unit="step", desc="+".join(phase.pools), disable=rank > 0):
        for group in optimizer.param_groups:
            group["lr"] = phase.schedule.at(step)
        images, points, visible = draw_batch(sources[step % len(sources)], BATCH // workers, size, rng)
        weight, absent = loss_weights(visible, phase.absent)
        with torch.autocast("cpu", torch.bfloat16):
            features = stage_features(net, images.contiguous(memory_format=torch.channels_last))
            logits = net.head(features[-1])
            maps = aid(features) if step < phase.aid else None
        loss = simcc_loss(logits, tables, points, weight, absent)
        total = loss if maps is None else loss + heatmap_loss(maps, points, weight)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        average_gradients(both, workers)
        nn.utils.clip_grad_norm_(both.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
        if rank > 0:
            continue
        average.update(net)
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == phase.steps:
            row = {"phase": "+".join(phase.pools), "pictures": (step + 1) * BATCH, "loss": float(np.mean(losses))}
            row["seconds"] = round(time.time() - begin)
            row |= {name: measure(average.module, t) for name, t in tests.items()}
            history.append(row)
            losses.clear()
            tqdm.write(json.dumps(row))
            save(average.module, out / f"{MODEL}.safetensors")
            (out / "metrics.json").write_text(json.dumps(history, indent=1) + "\n")
    dist.barrier()
    dist.destroy_process_group()


def average_gradients(module: nn.Module, workers: int) -> None:
    """Mean over the processes, in one message."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / workers).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def save(net: DWPose, path: Path) -> None:
    """fp16 safetensors, counters left out of the halving."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata={"model": MODEL})


def finish(out: Path) -> None:
    """Calibrate the scores of the trained network and note the factor in metrics.json."""
    net = create_model(MODEL).eval()
    net.load_state_dict(load_file(out / f"{MODEL}.safetensors"))
    factor = calibrate(net, CropPool.load(out / "pool", "test_strong"))
    save(net, out / f"{MODEL}.safetensors")
    history = json.loads((out / "metrics.json").read_text())
    (out / "metrics.json").write_text(json.dumps([*history, {"score_factor": factor}], indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="folder of packed body assets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=9000, help="rendered for training")
    parser.add_argument("--crops", type=int, default=56000, help="composited for training")
    parser.add_argument("--workers", type=int, default=2, help="processes; part of the recipe, keep 2 to repeat it")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    out = args.out.resolve()
    jobs = (("layers", args.people, args.seed), ("held_out", HELD_OUT, args.seed + 1000))
    for folder, people, seed in jobs:
        if not (out / folder / f"labels_{seed:04d}.npz").is_file():
            generate(args.assets, out / folder, people, seed, args.workers, LAYER_SIZE)
    if not (out / "objects" / "done").is_file():
        generate_objects(args.assets, out / "objects", OBJECTS, args.seed, args.workers)
    pools = (
        ("strong", "layers", args.crops, args.seed, STRONG),
        ("mild", "layers", args.crops * 3 // 7, args.seed + 1, MILD),
        ("quiet", "layers", args.crops // 8, args.seed + 2, QUIET),
        ("test_strong", "held_out", HELD_OUT, args.seed, STRONG),
        ("test_plain", "held_out", HELD_OUT, args.seed, None),
    )
    for name, folder, count, seed, disturb in pools:
        if not (out / "pool" / f"{name}.npz").is_file():
            sources = (out / folder, out / "objects", args.assets)
            build_pool(*sources, out / "pool", name, count, seed, POOL_SIZE, args.workers, disturb)
    limit_threads()
    for number in range(len(PHASES)):
        (out / "rendezvous").unlink(missing_ok=True)
        start = out / f"{MODEL}.safetensors" if number else None
        arguments = (args.workers, PHASES[number], start, out / "pool", out, args.seed + number)
        torch.multiprocessing.spawn(train, arguments, nprocs=args.workers)
    finish(out)


if __name__ == "__main__":
    main()
