"""The person detector that ships with the package: from asset folder to weights, on CPU cores or a GPU.

    python -m training.train_detector --assets DIR --out DIR

1. layers: rendered people (training.synthetic.generate), objects, and scenes rendered as a whole, or those of --layers,
--held-out, --objects and --rendered; 2. scenes composed of the former (training.detection.pool), to which the latter
are added; 3. training of a YOLOX with SimOTA and YOLOX's losses (training.detection.simota); 4. the scores are shifted
so that 0.3, the default threshold, is the balanced one; OUT/NAME.safetensors (fp16) and OUT/metrics.json. Stages whose
result exists are skipped.

The run folder holds last.pt (all a resume needs, replaced every --save-every steps and on SIGTERM) and log.jsonl. The
same command goes on where a run stopped, on CPUs bit for bit: batches depend on seed and step alone, not on what ran
before or how many loaders draw them. Another run begins with what one has learnt by --start, stopped or finished.

What differs from the YOLOX paper (arXiv 2107.08430), because the run is short and the data are made: Muon and AdamW
(muon.py) instead of SGD, mosaic on a part of the pictures only, no MixUp (MixStyle if asked for by --mix-styles); a
mask and heat maps of keypoints are learnt beside the boxes (detection/aid.py). The default network has the backbone of
dwpose-s-synthetic, which has seen the same people (docs/synthetic_results.md: what that is worth); yolox-cspnext-nano
takes --pose dwpose-nano. As in the paper the input size varies, here from small to large, and mosaic ends and the L1
loss begins in the last part of the run (--tail). On CPUs, --workers processes with one thread each train on their own
batches; gradients are averaged. On GPUs, one process each, --loaders more draw the batches. log.jsonl tells
pictures_per_second, and waited, the share of the time spent waiting for batches: from these comes the --steps that fit
into a given time.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from dwpose_core.models.weights import load_detector, save_safetensors
from dwpose_core.models.yolox import VARIANTS, YOLOX

from . import checkpoint
from .command import at_least_one, not_negative, run
from .data.wholebody import DataSource
from .detection import aid, simota
from .detection.batches import to_input
from .detection.evaluate import calibrate, measure
from .detection.loading import StepBatches, batches
from .detection.pool import ScenePool, build_pool
from .detection.start import DetectorConfig, begin, create, early_layers, read_start
from .detection.tally import Tally
from .growth import mean_weights
from .monitor import StopOnSignal, cut_log, ending
from .muon import MuonAdamW
from .optim import ExponentialMovingAverage
from .precision import autocast
from .starter import average_gradients
from .starter_pictures import HELD_OUT, LAYER_SIZE, OBJECTS
from .style_mixing import StyleMixing
from .synthetic.generate import generate
from .synthetic.objects import generate_objects
from .synthetic.scene_set import generate_scenes
from .synthetic.workers import end_with_parent, limit_threads

STYLE_STREAM = 6  # apart from the random numbers of the batches
LOG_EVERY = 50  # steps; a GPU is also looked at as rarely, because it has to finish its work first
TEST_SCENES = 800
# Scenes of held-out people, pictures without anybody, close-ups: name, share of TEST_SCENES, people in each, close-up.
TESTS = (("test", 1.0, None, False), ("test_empty", 0.5, 0, False), ("test_close", 0.375, 1, True))


@dataclasses.dataclass(frozen=True)
class Job:
    """Where a run reads and writes, and how often."""

    pool: Path  # folder with the scenes train, test and test_empty
    out: Path
    device: str = "cpu"
    save_every: int = 200
    report_every: int = 1000
    loaders: int = 0  # processes that draw batches for each training one; 0: it draws them itself


def train(rank: int, config: DetectorConfig, job: Job) -> None:
    """One of `config.workers` equal processes; the first one keeps the average of the weights, measures and saves.

    Raises:
        ValueError: when `job.out` holds a run with another configuration.
        NonFiniteLoss: when the loss becomes infinite or NaN.
        SystemExit: 143 after SIGTERM, once the state is saved.
    """
    end_with_parent()
    if job.device == "cpu":
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
    device = torch.device(job.device if job.device == "cpu" else f"{job.device}:{rank}")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where the batches are pinned for
    if config.workers > 1:
        dist.init_process_group(
            "gloo" if device.type == "cpu" else "nccl",
            init_method=f"file://{job.out / 'rendezvous'}",
            rank=rank,
            world_size=config.workers,
            timeout=datetime.timedelta(hours=3),  # a run may be stopped for a while to let others pass
        )
    torch.manual_seed(config.seed)
    side = ScenePool.load(job.pool, "train").side
    tests = [ScenePool.load(job.pool, name) for name, *_ in TESTS]
    if side != config.side:
        raise ValueError(f"the scenes of {job.pool} have side {side}, not {config.side}: use another")
    state = _saved(job.out / "last.pt", config)
    step = state["step"] if state else 0
    source = batches(StepBatches(job.pool, config, rank), step, job.loaders, pin=device.type == "cuda")
    net = begin(config)
    # Sides change from step to step: cudnn.benchmark would try all algorithms anew for each, longer than it saves.
    both = nn.ModuleList((net, aid.PartsAid(net))).to(device, memory_format=torch.channels_last)
    average = ExponentialMovingAverage(net, momentum=0.002, gamma=300.0)
    # After the average, a copy of the network that nobody disturbs.
    styles = StyleMixing(early_layers(net), config.mix_styles, (config.seed, rank, STYLE_STREAM))
    optimizer = MuonAdamW(both, config.lr, config.muon_lr, config.weight_decay)
    if state:
        both.load_state_dict(state["both"])
        average.module.load_state_dict(state["average"])
        average.step = state["average_step"]
        optimizer.load_state_dict(state["optimizer"])
        del state
    if rank == 0:
        cut_log(job.out / "log.jsonl", step)
    if config.workers > 1:
        dist.barrier()  # nobody writes the file before everybody has read it
    schedule, tally = config.schedule(), Tally(device)
    look_every = 1 if device.type == "cpu" else LOG_EVERY
    started = time.time()
    bar = tqdm(total=config.steps, initial=step, unit="step", desc=config.network, disable=rank > 0)
    with ending(source), StopOnSignal() as stop:
        while step < config.steps:
            with tally.waiting():
                batch = next(source)
            batch, in_tail = batch.to(device), step >= config.tail_start
            styles.begin(step)
            with autocast(device):
                maps = net.backbone(to_input(batch.canvas[..., :3], device))
                raw, more = simota.logits(net.head, maps), both[1](maps)
            parts = simota.losses(raw, batch.people, batch.canvas.shape[1], with_l1=in_tail)
            parts |= aid.losses(more, batch.canvas[..., 3], batch.points)
            parts["loss"] = parts["loss"] + config.aid * (parts["mask"] + parts["parts"])
            both.zero_grad(set_to_none=True)
            parts["loss"].backward()
            if config.workers > 1:
                average_gradients(both, config.workers)
            norm = nn.utils.clip_grad_norm_(both.parameters(), 10.0)
            optimizer.step(schedule.at(step))
            tally.add(step, config.batch * config.workers, parts, norm)
            step += 1
            bar.update(1)
            if rank == 0:
                average.update(net)
            last, save, leave = step == config.steps, step % job.save_every == 0, False
            if last or save or step % look_every == 0 or (config.workers == 1 and stop.requested):
                leave = tally.check(stop.requested, config.workers)  # all processes stop at the same step
            log = rank == 0 and (last or step % LOG_EVERY == 0)
            row = {"step": step, "pictures": step * config.batch * config.workers} | tally.row() if log else {}
            if rank == 0 and (last or leave or save):  # before measuring, which takes a while
                state = {"config": dataclasses.asdict(config), "step": step, "both": both.state_dict()}
                state |= {"average": average.module.state_dict(), "average_step": average.step}
                checkpoint.save_state(job.out / "last.pt", state | {"optimizer": optimizer.state_dict()})
            if log:
                if last or step % job.report_every == 0:
                    row |= measure(average.module, *tests)
                    tqdm.write(json.dumps(row))
                tally.restart()
                bar.set_postfix(loss=f"{row['loss']:.3f}", pictures_per_second=row["pictures_per_second"])
                with open(job.out / "log.jsonl", "a") as file:
                    file.write(json.dumps(row | {"seconds": round(time.time() - started)}) + "\n")
            if leave and not last:
                raise SystemExit(143)  # 128 + SIGTERM
    bar.close()
    if config.workers > 1:
        dist.barrier()
        dist.destroy_process_group()


def _saved(path: Path, config: DetectorConfig) -> dict | None:
    """The state to go on from, where there is one."""
    if not path.is_file():
        return None
    state = checkpoint.load_state(path)
    if checkpoint.with_defaults(state["config"], DetectorConfig) != dataclasses.asdict(config):
        raise ValueError(f"{path} belongs to a run with {state['config']}; choose another --out or the same options")
    return state


def earlier_parts(config: DetectorConfig, weights: Sequence[str]) -> list[YOLOX]:
    """Detectors of earlier parts, set to the run's input size: none of a YOLOX's layers hangs on it."""
    nets = [read_start(path) for path in weights]
    for net in nets:
        net.config = dataclasses.replace(net.config, input_size=(config.side, config.side))
    return nets


def finish(config: DetectorConfig, job: Job, name: str, earlier: Sequence[str] = ()) -> Path:
    """The averaged weights, or their mean with `earlier` ones, with calibrated scores as fp16 safetensors.

    Their figures go to metrics.json.
    """
    net = create(config).eval()
    net.load_state_dict(checkpoint.load_state(job.out / "last.pt")["average"])
    net = mean_weights([*earlier_parts(config, earlier), net]).to(job.device)
    tests = [ScenePool.load(job.pool, part) for part, *_ in TESTS]
    shift = calibrate(net, tests[:2])  # close-ups would be too many
    path = job.out / f"{name}.safetensors"
    how = f"training.train_detector, {config.steps} steps, seed {config.seed}; mean of {1 + len(earlier)}"
    note = {"training": how, "licence": "Apache-2.0"}
    save_safetensors(copy.deepcopy(net).half().cpu(), path, note)
    figures = {
        "config": dataclasses.asdict(config),
        "mean_of": 1 + len(earlier),
        "score_shift": shift,
        **measure(load_detector(path).to(job.device), *tests),
    }
    (job.out / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))
    return path


def prepare(args: argparse.Namespace, config: DetectorConfig, out: Path) -> None:
    """Render and compose what is missing.

    Raises:
        ValueError: where OUT was begun with other pictures.
    """
    asked = {name: str(getattr(args, name)) for name in ("people", "layer_size", "scene_people", "scenes")}
    if args.test_scenes != TEST_SCENES:
        asked["test_scenes"] = str(args.test_scenes)
    checkpoint.same_settings(out / "pictures.json", asked | {"seed": str(config.seed), "side": str(config.side)})
    given = {name: getattr(args, name) for name in ("layers", "held_out", "objects", "rendered")}
    layers, held_out, objects, rendered = (path.resolve() if path else out / name for name, path in given.items())
    size = tuple(args.layer_size)
    for folder, people, seed in ((layers, args.people, args.seed), (held_out, HELD_OUT, args.seed + 1000)):
        if not list(folder.glob("labels_*.npz")):
            generate(args.assets, folder, people, seed, args.processes, size, with_accessories=True)
    if not (objects / "done").is_file():
        generate_objects(args.assets, objects, OBJECTS, args.seed, args.processes)
    shape = (config.side, args.processes)
    tests, pool = (held_out, objects, args.assets), out / "pool"
    for seed, (name, share, people, close_up) in enumerate(TESTS, args.seed + 1000):
        count = max(1, round(share * args.test_scenes))
        if not (pool / f"{name}.npz").is_file():
            build_pool(tests, pool, name, count, seed, *shape, held_out=True, people=people, close_up=close_up)
    if not (pool / "train.npz").is_file():
        labelled = ()
        if args.scene_people:
            if not (rendered / "annotations.json").is_file():
                generate_scenes(args.assets, rendered, args.scene_people, args.seed + 4, args.processes, config.side)
            labelled = (DataSource(str(rendered / "annotations.json"), str(rendered / "images")),)
        sources = (layers, objects, args.assets)
        build_pool(sources, pool, "train", args.scenes, args.seed, *shape, labelled=labelled)


def _train_alone(rank: int, config: DetectorConfig, job: Job) -> None:
    """`train` in a process of its own, which tells a mistake as the command does."""
    sys.exit(run(lambda: train(rank, config, job)))


def spawn(config: DetectorConfig, job: Job) -> None:
    """`train` in processes of its own.

    Raises:
        SystemExit: with the status of the process that ended first, unless all went well.
    """
    (job.out / "rendezvous").unlink(missing_ok=True)
    running = torch.multiprocessing.spawn(_train_alone, (config, job), nprocs=config.workers, join=False)
    # Asked to stop, ask the processes, unless they are gone: they save at the end of their step.
    signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in running.processes])
    try:
        while not running.join():
            pass
    except torch.multiprocessing.ProcessExitedException as end:
        raise SystemExit(end.exit_code) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="folder of packed body assets")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--name", help="of the result; NETWORK-synthetic if not given")
    parser.add_argument("--layers", type=Path, help="rendered people to train on; made in OUT/layers if not given")
    parser.add_argument("--held-out", type=Path, help="rendered people to test on, other bodies")
    parser.add_argument("--objects", type=Path, help="rendered things")
    parser.add_argument("--rendered", type=Path, help="scenes rendered as a whole; made in OUT/rendered if not given")
    note = "weights of an earlier part of this training; the result is their mean with what is trained (repeatable)"
    parser.add_argument("--mean", action="append", default=[], metavar="WEIGHTS", help=note)
    parser.add_argument(
        "--people", type=at_least_one, default=18000, help="rendered alone, for composed scenes (18000)"
    )
    note = "of those, pixels; 288 384 for a --side of 416, or who is near is blurred (192 256)"
    parser.add_argument("--layer-size", type=at_least_one, nargs=2, default=LAYER_SIZE, metavar=("W", "H"), help=note)
    parser.add_argument(
        "--scene-people",
        type=not_negative,
        default=4600,
        help="in scenes rendered as a whole, unless they are there; 0 for none (4600)",
    )
    parser.add_argument("--scenes", type=at_least_one, default=32000, help="composed for training (32000)")
    note = f"composed of held-out people to measure on; half as many of nobody, and some close-ups ({TEST_SCENES})"
    parser.add_argument("--test-scenes", type=at_least_one, default=TEST_SCENES, help=note)
    parser.add_argument("--processes", type=at_least_one, default=os.cpu_count(), help="for rendering and composing")
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="what to train on",
    )
    parser.add_argument("--save-every", type=at_least_one, default=200, help="steps between two saved states (200)")
    parser.add_argument("--report-every", type=at_least_one, default=1000, help="steps between two measurements (1000)")
    note = "processes that draw batches for each training one; if not given none on CPUs, on GPUs a core each but one"
    parser.add_argument("--loaders", type=not_negative, help=note)
    parser.add_argument("--prepare-only", action="store_true", help="render and compose, and stop before the training")
    for field in dataclasses.fields(DetectorConfig):
        flag = f"--{field.name.replace('_', '-')}"
        kind = {"choices": sorted(VARIANTS), "metavar": "NAME"} if field.name == "network" else {}
        default = f" (default {field.default})" if field.default != "" else ""
        text = field.metadata["help"] + default + (", one of %(choices)s" if kind else "")
        parser.add_argument(flag, type=type(field.default), default=field.default, help=text, **kind)
    args = parser.parse_args()
    if args.device == "cuda" and not args.prepare_only and torch.cuda.device_count() < args.workers:
        parser.error(f"--workers {args.workers}: one process per GPU, and {torch.cuda.device_count()} are here")
    config = DetectorConfig(**{field.name: getattr(args, field.name) for field in dataclasses.fields(DetectorConfig)})
    net = begin(config)  # unusable weights are reported before an hour of rendering
    mean_weights([*earlier_parts(config, args.mean), net])
    out = args.out.resolve()
    _saved(out / "last.pt", config)  # and so is a run that was begun otherwise
    out.mkdir(parents=True, exist_ok=True)
    prepare(args, config, out)
    if args.prepare_only:
        return
    loaders = args.loaders
    if loaders is None:
        loaders = 0 if args.device == "cpu" else max(1, os.cpu_count() // args.workers - 1)
    job = Job(out / "pool", out, args.device, args.save_every, args.report_every, loaders)
    limit_threads()
    if args.device != "cpu" and config.workers == 1:  # in this process: another takes seconds to start
        train(0, config, job)
    else:
        spawn(config, job)
    finish(config, job, args.name or f"{config.network}-synthetic", args.mean)


if __name__ == "__main__":
    sys.exit(run(main))
