"""Assets in, pose networks out, in one command and a fixed number of minutes; made for one GPU and 16 CPU cores.

    python -m training.synthetic_run --assets DIR --out DIR --minutes 25
    python -m training.synthetic_run --assets DIR --out DIR --minutes 25 --ablation
    python -m training.synthetic_run --assets DIR --out DIR --minutes 4 --teacher dwpose-nano --students dwpose-nano

1. People: worker processes shape, pose and dress bodies, the device draws them as layers and keeps them (no OpenGL, no
   files read while training). During training a small share of the time goes into new people for old.
2. Teacher from the labels alone, with the heat-map aid; 3. per student DWPose's stage 1 and stage 2.
Crops are composited on the device, half a thousand at a time.

OUT receives NAME.safetensors (fp16, loads by path) per student and curves.json. STATE (default OUT/state) holds what a
second start needs: after `--stop-after` minutes, or a kill, the same command goes on. `--without` leaves levers of
realism out; `--ablation` trains the first student from the labels with everything and without each lever, in equal
shares of the time.

Stages end by the clock, so two runs agree in quality, not bit by bit.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import torch

from dwpose_core.models.rtmcc import DWPose, create_model
from dwpose_core.models.weights import load_pose

from . import checkpoint
from .starter_score import calibrate
from .synthetic.body import check_assets
from .synthetic.composite import STRONG, Disturbance
from .synthetic.filling import Filler, restore
from .synthetic.layer_pool import LayerPool, Layers, Surroundings, draw_people, prepare_surroundings
from .synthetic.pool import CropPool
from .synthetic.subjects import SubjectGenerator, stream, texture_files
from .synthetic.torch_composite import Crops, composite_batch
from .synthetic.torch_render import TorchRenderer
from .synthetic_stage import OnDevice, OutOfTime, Stage, build_objective, phase_at, train_stage

LAYER_SIZE = (192, 256)  # (W, H) of drawn people, margin included
# Shares of the minutes; what is left covers the start of the workers, surroundings, measuring and saving.
PEOPLE_SHARE, TEACHER_SHARE, STAGE1_SHARE, STAGE2_SHARE = 0.14, 0.34, 0.37, 0.08
REFRESH_SHARE = 0.06  # of the time of training goes into new people
LARGEST_FACTOR = 100.0  # of scores
# What each lever takes out of a Disturbance. "backgrounds" and "clothing" are matters of what is drawn.
LEVERS = {
    "backgrounds": {},
    "occluders": {"things": False},
    "people": {"people": False},
    "clothing": {},
    "photometric": {"light": False, "camera": False},
    "jpeg": {"jpeg": False},
}


def plan(args: argparse.Namespace) -> list[Stage]:
    """The stages and their seconds."""
    total = args.minutes * 60
    if args.ablation:
        names = ["everything", *(f"without-{lever}" for lever in LEVERS)]
        seconds = total * (TEACHER_SHARE + STAGE1_SHARE + STAGE2_SHARE) / len(names)
        return [Stage(name, "labels", args.students[0], seconds, args.batch) for name in names]
    stages = [Stage("teacher", "labels", args.teacher, total * TEACHER_SHARE, args.batch)]
    for student in args.students:
        seconds = total * STAGE1_SHARE / len(args.students)
        stages.append(Stage(f"{student}-stage1", "stage1", student, seconds, args.batch))
        seconds = total * STAGE2_SHARE / len(args.students)
        stages.append(Stage(f"{student}-stage2", "stage2", student, seconds, args.batch, lr=1e-3))
    return stages


def levers_of(stage: Stage, args: argparse.Namespace) -> set[str]:
    """What this stage does without."""
    mine = stage.name.removeprefix("without-")
    return set(args.without) | ({mine} if mine in LEVERS else set())


def disturbance(progress: float, without: set[str]) -> Disturbance:
    changes: dict[str, bool] = {}
    for lever in without:
        changes |= LEVERS[lever]
    return replace(phase_at(progress)[0], **changes)


def flat(around: Surroundings, generator: torch.Generator) -> Surroundings:
    """The same surroundings with backgrounds of one colour each."""
    colors = torch.randint(256, (len(around.backgrounds), 1, 1, 3), generator=generator, device=generator.device)
    backgrounds = colors.to(torch.uint8).expand_as(around.backgrounds)
    return replace(around, backgrounds=backgrounds)


def test_pool(
    held_out: Layers, around: Surroundings, size: tuple[int, int], disturb: Disturbance | None, seed: int
) -> CropPool:
    """One fixed crop per held-out layer, on the CPU, as starter_score.measure takes them. `size` is (W, H)."""
    generator = torch.Generator(held_out.rgba.device)
    generator.manual_seed(seed)
    parts = []
    for start in range(0, len(held_out), 128):
        index = torch.arange(start, min(start + 128, len(held_out)), device=held_out.rgba.device)
        parts.append(composite_batch(held_out, index, around, size, generator, disturb))
    columns = (torch.cat([getattr(p, name) for p in parts]) for name in ("image", "keypoints", "visible"))
    return CropPool(*(column.cpu().numpy() for column in columns))


class Run:
    """What all stages share: device, folders, people and what surrounds them."""

    def __init__(self, args: argparse.Namespace, leave: ExitStack):
        self.args = args
        self.device = torch.device(args.device)
        self.state = args.state or args.out / "state"
        self.deadline = time.monotonic() + 60 * (args.stop_after or math.inf)
        self.generator = torch.Generator(self.device)
        self.generator.manual_seed(args.seed)
        finished = self.state / "curves.json"
        self.curves: list[dict] = json.loads(finished.read_text()) if finished.is_file() else []
        self.renderer = TorchRenderer(LAYER_SIZE, texture_files(args.assets), self.device)
        self.around = self._kept("surroundings", Surroundings, self._surroundings)
        self.held_out = self._kept("held_out", Layers, self._held_out)
        self.refresh = args.refresh and not args.ablation  # levers are compared on the same people
        needed = {False, True} if args.ablation else {"clothing" in args.without}
        self.fillers = {grey: self._people(grey, len(needed), leave) for grey in sorted(needed)}

    def _kept(self, name: str, kind: type, make):
        """Tensors from the state folder, or made and stored there."""
        path = self.state / f"{name}.pt"
        if not path.is_file():
            checkpoint.save_state(path, {key: value.cpu() for key, value in vars(make()).items()})
        return kind(**{key: value.to(self.device) for key, value in checkpoint.load_state(path).items()})

    def _surroundings(self) -> Surroundings:
        counts = self.args.pictures, self.args.things
        return prepare_surroundings(self.args.assets, LAYER_SIZE, *counts, 7, self.args.workers, self.device)

    def _held_out(self) -> Layers:
        pool = LayerPool(self.args.held_out, LAYER_SIZE, self.device)
        arguments = (self.args.assets, LAYER_SIZE, 1, False, self.args.captured, True)
        with stream(SubjectGenerator, arguments, "subject", 1001, 0, 10**9, self.args.workers) as subjects:
            while pool.added < pool.capacity:
                pool.add(draw_people(self.renderer, [next(subjects) for _ in range(self.args.at_once)]))
        return pool.layers

    def _people(self, grey: bool, kinds: int, leave: ExitStack) -> Filler:
        """A filled pool, and the stream that goes on filling it."""
        folder = self.state / ("people_grey" if grey else "people")
        folder.mkdir(parents=True, exist_ok=True)
        pool = LayerPool(self.args.layers, LAYER_SIZE, self.device)
        drawn = restore(pool, folder)
        arguments = (self.args.assets, LAYER_SIZE, self.args.views, grey, self.args.captured, True)
        workers = max(1, self.args.workers // kinds)
        subjects = leave.enter_context(stream(SubjectGenerator, arguments, "subject", 1, drawn, 10**9, workers))
        filler = Filler(pool, self.renderer, subjects, self.args.at_once, drawn)
        leave.callback(filler.close)
        if not (folder / "done").is_file():
            filler.fill(self.args.minutes * 60 * PEOPLE_SHARE / kinds, folder)
            print(f"{filler.drawn} people, {len(pool.layers) / filler.seconds:.1f} layers per second")
        return filler

    def train(self, stage: Stage, teacher: DWPose | None) -> DWPose:
        without = levers_of(stage, self.args)
        filler = self.fillers["clothing" in without]
        around = flat(self.around, self.generator) if "backgrounds" in without else self.around
        torch.manual_seed(self.args.seed)
        student = create_model(stage.model)
        size = student.config.input_size[::-1]
        objective = build_objective(stage.kind, student, teacher).to(self.device, memory_format=torch.channels_last)
        objective.train()
        tests = {
            name: test_pool(self.held_out, self.around, size, disturb, seed=5)
            for name, disturb in (("strong", STRONG), ("plain", None))
        }
        began, before = time.monotonic(), filler.seconds

        def draw(progress: float) -> Crops:
            if self.refresh and filler.seconds - before < REFRESH_SHARE * (time.monotonic() - began):
                filler.step()
            layers = filler.pool.layers
            index = torch.randint(len(layers), (stage.batch,), generator=self.generator, device=self.device)
            return composite_batch(layers, index, around, size, self.generator, disturbance(progress, without))

        def report(net: DWPose, rows: list[dict]) -> None:
            self.keep(stage, net, rows[-1])
            self.write_curves(rows)

        file = self.state / f"{stage.name}.pt"
        net, rows = train_stage(stage, objective, draw, tests, self.generator, file, self.deadline, report)
        self.curves += rows
        write_json(self.state / "curves.json", self.curves)
        return net

    def keep(self, stage: Stage, net: DWPose, row: dict) -> None:
        """To OUT, in half precision with calibrated scores: a run that is cut short leaves what it has."""
        if not self.args.ablation:
            if stage.kind == "labels":
                return
            # A second stage much shorter than DWPose's may end below the first one, which then stays.
            before = [r for r in self.curves if r["stage"] == f"{stage.model}-stage1"]
            if before and (row["strong"]["body_pck"] or 0.0) < (before[-1]["strong"]["body_pck"] or 0.0):
                return
        scaled = copy.deepcopy(net)
        pool = test_pool(self.held_out, self.around, net.config.input_size[::-1], STRONG, seed=6)
        row["score_factor"] = calibrate(OnDevice(scaled, self.device), pool)
        # Before it has learnt anything its scores are next to 0, and the factor overflows half precision.
        net = scaled if row["score_factor"] < LARGEST_FACTOR else copy.deepcopy(net)
        target = self.args.out / f"{stage.name if self.args.ablation else stage.model}.safetensors"
        note = {"recipe": f"synthetic_run {stage.name}", "seed": str(self.args.seed)}
        checkpoint.save_model(target, net.cpu().half(), note)

    def write_curves(self, rows: list[dict]) -> None:
        on_gpu = self.device.type == "cuda"
        options = {key: value for key, value in vars(self.args).items() if key not in ("assets", "out", "state")}
        record = {
            "machine": torch.cuda.get_device_name() if on_gpu else f"{os.cpu_count()} CPU cores",
            "options": options,
            "stages": [asdict(stage) for stage in plan(self.args)],
            "people": {"grey" if grey else "dressed": filler.drawn for grey, filler in self.fillers.items()},
            "rows": [*self.curves, *rows],
        }
        write_json(self.args.out / "curves.json", record)


def write_json(path: Path, value) -> None:
    text = json.dumps(value, indent=1) + "\n"
    checkpoint.write_atomic(path, lambda temporary: temporary.write_text(text))


def run(args: argparse.Namespace) -> bool:
    """Everything that is not done yet; False when the time of this process ran out before the end."""
    state = args.state or args.out / "state"
    for folder in (args.out, state):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as leave:
        job = Run(args, leave)
        for stage in plan(args):
            done = state / f"{stage.name}.safetensors"
            if done.is_file():
                continue
            source = {"labels": "", "stage1": "teacher", "stage2": f"{stage.model}-stage1"}[stage.kind]
            try:
                net = job.train(stage, load_pose(state / f"{source}.safetensors") if source else None)
            except OutOfTime as stopped:
                print(f"stopped in {stopped}; start the same command again to go on")
                return False
            checkpoint.save_model(done, net, {"recipe": f"synthetic_run {stage.name}", "seed": str(args.seed)})
        last = {row["stage"]: row for row in job.curves}
        for name, row in last.items():
            scores = "  ".join(f"{test} {row[test]['body_pck']}" for test in ("strong", "plain"))
            print(f"{name:24s} {row['pictures']:9d} pictures  {row['pictures_per_second']:8.1f} per second  {scores}")
    return True


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="folder of packed body assets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, help="for going on after a stop; default OUT/state")
    parser.add_argument("--minutes", type=float, required=True, help="all stages together")
    parser.add_argument(
        "--stop-after", type=float, help="end this process after so many minutes; start it again to go on"
    )
    parser.add_argument("--teacher", default="dwpose-m")
    parser.add_argument("--students", nargs="+", default=["dwpose-t", "dwpose-s"])
    parser.add_argument("--without", nargs="+", choices=LEVERS, default=[], metavar="LEVER", help=", ".join(LEVERS))
    parser.add_argument("--ablation", action="store_true", help="the table of levers instead of teacher and students")
    parser.add_argument(
        "--layers", type=int, default=100_000 if on_gpu else 4000, help="kept on the device, 0.2 MB each"
    )
    parser.add_argument("--views", type=int, default=4, help="per posed and dressed body")
    parser.add_argument("--captured", type=float, default=0.0, help="share of poses from motion capture (not CC0)")
    parser.add_argument(
        "--pictures", type=int, default=6000 if on_gpu else 300, help="backgrounds painted at the start"
    )
    parser.add_argument("--things", type=int, default=1500 if on_gpu else 100, help="objects drawn at the start")
    parser.add_argument("--held-out", type=int, default=384 if on_gpu else 60, help="layers to measure on")
    parser.add_argument("--at-once", type=int, default=16 if on_gpu else 2, help="people per drawing")
    parser.add_argument("--batch", type=int, default=384 if on_gpu else 16)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1), help="processes")
    parser.add_argument("--no-refresh", dest="refresh", action="store_false", help="no new people while training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check_assets(args.assets)
    if args.device == "cpu":
        torch.set_flush_denormal(True)
    run(args)


if __name__ == "__main__":
    main()
