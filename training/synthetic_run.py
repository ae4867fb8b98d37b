"""Assets in, pose networks out, in one command and a fixed number of minutes; made for one GPU and 16 CPU cores.

    python -m training.synthetic_run --assets DIR --out DIR --minutes 25
    python -m training.synthetic_run --assets DIR --out DIR --minutes 25 --ablation
    python -m training.synthetic_run --assets DIR --out DIR --minutes 4 --teacher dwpose-nano --students dwpose-nano
    python -m training.synthetic_run --assets DIR --out DIR --minutes 9 --teacher none --students dwpose-s \\
        --start dwpose_core/bundled/dwpose-s-synthetic.safetensors --scenes 0.3 --close-ups 0.4 --drawings 0.15

1. People: worker processes shape, pose and dress bodies, the device draws them as layers and keeps them (no OpenGL, no
   files read while training). More of them follow while the networks train.
2. Teacher from the labels alone, with the heat-map aid; 3. per student DWPose's stage 1 and stage 2. `--teacher FILE`
   takes a network that is trained already. With `--teacher none` the students learn from the labels alone: in a
   quarter of an hour a teacher costs them too much.
Crops are composited on the device. A GPU draws people and composites in streams beside the training. `--scenes` cuts
a share of the crops from scenes that worker processes render as a whole, through OpenGL; `--drawings` turns a share of
all crops into drawings. `--start` begins a network with another one's backbone, or, where it is the same network, goes
on with all that it has learnt: no aid, a lower rate, all disturbances at once. The students of a `--teacher FILE` begin
as the start's strongest channels (pruning.py).

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
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch

from dwpose_core.models import create_model
from dwpose_core.models.rtmcc import DWPose

from . import checkpoint, command
from .command import at_least_one, more_than_zero, not_negative, share
from .starter_score import calibrate
from .synthetic.body import check_assets
from .synthetic.composite import STRONG
from .synthetic.crop_bank import CropBank
from .synthetic.filling import Filler, restore
from .synthetic.layer_pool import LayerPool, Layers, Surroundings, draw_people, prepare_surroundings
from .synthetic.render import check_opengl
from .synthetic.scene_crops import SceneCropper
from .synthetic.subjects import SubjectGenerator, stream, texture_files
from .synthetic.torch_render import TorchRenderer
from .synthetic_crops import BATCHES_AT_ONCE, LEVERS, Batches, CropSource, Mixture, Scenes, flat, test_pool
from .synthetic_plan import beginning, beside, levers_of, plan, shares, taught_already, teacher_of
from .synthetic_stage import OnDevice, OutOfTime, Stage, build_objective, train_stage

LAYER_SIZE = (192, 256)  # (W, H) of drawn people, margin included
LARGEST_FACTOR = 100.0  # of scores
SCENE_SIDE = 400  # longer side of scenes, px; most people in them are smaller than a crop
CROPS_EACH = 2  # of each person in a scene
MAY_CHANGE = ("assets", "out", "state", "stop_after", "workers", "device")  # when a run is continued
SCENE_WORKERS = 0.75  # of the processes, where there are scenes; people are made faster than they are drawn


class Run:
    """What all stages share: device, folders, people and what surrounds them."""

    def __init__(self, args: argparse.Namespace, leave: ExitStack):
        self.args = args
        self.device = torch.device(args.device)
        self.state = args.state or args.out / "state"
        self.deadline = time.monotonic() + 60 * (args.stop_after or math.inf)
        settings = {key: str(value) for key, value in vars(args).items() if key not in MAY_CHANGE}
        checkpoint.same_settings(self.state / "settings.json", settings)
        self.generator = torch.Generator(self.device)
        self.generator.manual_seed(args.seed)
        finished = self.state / "curves.json"
        self.curves: list[dict] = json.loads(finished.read_text()) if finished.is_file() else []
        self.renderer = TorchRenderer(LAYER_SIZE, texture_files(args.assets), self.device)
        self.beside = beside(args)
        self.refresh = args.refresh and not args.ablation  # levers are compared on the same people
        needed = {False, True} if args.ablation else {"clothing" in args.without}
        with ThreadPoolExecutor(1) as painter:  # all worker processes start at once
            around = painter.submit(self._kept, "surroundings", Surroundings, self._surroundings)
            self.scenes = self._scenes(leave) if args.scenes else None
            self.held_out = self._kept("held_out", Layers, self._held_out)
            self.fillers = {plain: self._people(plain, len(needed), leave) for plain in sorted(needed)}
            self.around = around.result()

    def _scenes(self, leave: ExitStack) -> Scenes:
        """Scenes rendered as a whole, from where an earlier process stopped."""
        args, file = self.args, self.state / "scenes.json"
        first = json.loads(file.read_text()) if file.is_file() else 0
        arguments = (args.assets, LAYER_SIZE, SCENE_SIDE, CROPS_EACH, args.captured)
        workers = self.scene_workers
        results = leave.enter_context(stream(SceneCropper, arguments, "crops", args.seed, first, 10**9, workers))
        scenes = Scenes(results, CropBank(args.scene_crops, LAYER_SIZE, self.device))
        leave.callback(lambda: checkpoint.write_json(file, first + scenes.taken))
        return scenes

    @property
    def scene_workers(self) -> int:
        return max(1, round(self.args.workers * SCENE_WORKERS)) if self.args.scenes else 0

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

    def _people(self, plain: bool, kinds: int, leave: ExitStack) -> Filler:
        """A filled pool, and the stream that goes on filling it."""
        args, folder = self.args, self.state / ("people_plain" if plain else "people")
        folder.mkdir(parents=True, exist_ok=True)
        pool = LayerPool(args.layers, LAYER_SIZE, self.device)
        drawn = restore(pool, folder)
        arguments = (args.assets, LAYER_SIZE, args.views, plain, args.captured, True, args.close_ups)
        workers = max(1, (args.workers - self.scene_workers) // kinds)
        subjects = leave.enter_context(stream(SubjectGenerator, arguments, "subject", args.seed, drawn, 10**9, workers))
        filler = Filler(pool, self.renderer, subjects, args.at_once, drawn)
        leave.callback(filler.close)
        if not (folder / "done").is_file():
            filler.fill(args.minutes * 60 * shares(args)[0] / kinds, folder)
            rate = f", {len(pool.layers) / filler.seconds:.1f} layers per second" if filler.seconds else ""
            print(f"{filler.drawn} people{rate}")
        return filler

    def train(self, stage: Stage, teacher: DWPose | None) -> DWPose:
        without = levers_of(stage, self.args)
        filler = self.fillers["clothing" in without]
        around = flat(self.around, self.generator) if "backgrounds" in without else self.around
        torch.manual_seed(self.args.seed)
        student = beginning(stage, self.args)
        size = student.config.input_size[::-1]
        objective = build_objective(stage.kind, student, teacher, stage.fresh)
        objective = objective.to(self.device, memory_format=torch.channels_last).train()
        tests = {
            name: test_pool(self.held_out, self.around, size, disturb, seed=5)
            for name, disturb in (("strong", STRONG), ("plain", None))
        }
        mixture = Mixture(
            size,
            stage.batch,
            BATCHES_AT_ONCE if self.beside else 1,
            self.args.scenes,
            self.args.drawings,
            frozenset(without),
            stage.fresh,
        )
        batches = Batches(CropSource(mixture, filler, around, self.scenes, self.generator, self.refresh))
        if self.beside:
            batches.work_beside(objective, self.device)

        def report(net: DWPose, rows: list[dict]) -> None:
            self.keep(stage, net, rows[-1])
            self.write_curves(rows)

        file = self.state / f"{stage.name}.pt"
        try:
            net, rows = train_stage(stage, objective, batches, tests, self.generator, file, self.deadline, report)
        finally:
            batches.close()
        self.curves = [row for row in self.curves if row["stage"] != stage.name] + rows  # it may have ended before
        checkpoint.write_json(self.state / "curves.json", self.curves)
        return net

    def keep(self, stage: Stage, net: DWPose, row: dict) -> None:
        """To OUT, in half precision with calibrated scores: a run that is cut short leaves what it has."""
        if stage.name == "teacher":
            return
        if stage.kind == "stage2":  # much shorter than DWPose's, it may end below the first one, which then stays
            before = [r for r in self.curves if r["stage"] == f"{stage.model}-stage1"]
            if before and (row["strong"]["body_pck"] or 0.0) < (before[-1]["strong"]["body_pck"] or 0.0):
                return
        scaled = copy.deepcopy(net)
        pool = test_pool(self.held_out, self.around, net.config.input_size[::-1], STRONG, seed=6)
        row["score_factor"] = calibrate(OnDevice(scaled, self.device), pool)
        note = {"recipe": f"synthetic_run {stage.name}", "seed": str(self.args.seed), "model": stage.model}
        if row["score_factor"] < LARGEST_FACTOR:
            net, note["score_factor"] = scaled, repr(row["score_factor"])
        else:  # before it has learnt anything its scores are next to 0, and the factor overflows half precision
            net = copy.deepcopy(net)
        name = stage.name if self.args.ablation else stage.model
        checkpoint.save_model(self.args.out / f"{name}.safetensors", net.cpu().half(), note)

    def write_curves(self, rows: list[dict]) -> None:
        on_gpu, paths = self.device.type == "cuda", ("assets", "out", "state", "start")
        record = {
            "machine": torch.cuda.get_device_name(self.device) if on_gpu else f"{os.cpu_count()} CPU cores",
            "options": {key: value for key, value in vars(self.args).items() if key not in paths},
            "stages": [asdict(stage) for stage in plan(self.args)],
            "people": {"plain" if plain else "dressed": filler.drawn for plain, filler in self.fillers.items()},
            "scenes": self.scenes.taken if self.scenes else 0,
            "rows": [*(row for row in self.curves if row["stage"] != rows[-1]["stage"]), *rows],
        }
        checkpoint.write_json(self.args.out / "curves.json", record)


def run(args: argparse.Namespace) -> bool:
    """Everything that is not done yet; False when the time of this process ran out before the end."""
    state = args.state or args.out / "state"
    for stage in plan(args):  # a file that cannot begin or teach them is refused before anything is drawn
        student = beginning(stage, args)
        if stage.kind == "stage1":
            known = teacher_of(stage, args, state) if taught_already(args) else create_model(args.teacher)
            build_objective(stage.kind, student, known)
    for folder in (args.out, state):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as leave:
        job = Run(args, leave)
        for stage in plan(args):
            done = state / f"{stage.name}.safetensors"
            if done.is_file():
                continue
            try:
                net = job.train(stage, teacher_of(stage, args, state))
            except OutOfTime as stopped:
                print(f"stopped in {stopped}; start the same command again to go on")
                return False
            checkpoint.save_model(done, net, {"recipe": f"synthetic_run {stage.name}", "seed": str(args.seed)})
            (state / f"{stage.name}.pt").unlink(missing_ok=True)  # only now is it not needed to go on
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
    parser.add_argument("--minutes", type=more_than_zero, required=True, help="all stages together")
    parser.add_argument(
        "--stop-after", type=more_than_zero, help="end this process after so many minutes; start it again to go on"
    )
    note = 'a network, the file of a trained one, or "none": students from the labels alone'
    parser.add_argument("--teacher", default="dwpose-m", help=note)
    parser.add_argument("--students", nargs="+", default=["dwpose-t", "dwpose-s"])
    parser.add_argument(
        "--start",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="trained networks: each goes on as itself; others learnt from labels grow from a smaller one, or take the "
        "first one's backbone if of the same width; other students of a --teacher FILE begin as its strongest channels",
    )
    parser.add_argument(
        "--scenes", type=float, default=0.0, metavar="SHARE", help="of crops from scenes rendered as a whole (OpenGL)"
    )
    parser.add_argument(
        "--close-ups", type=float, default=0.0, metavar="SHARE", help="of a person's further views, mostly face or hand"
    )
    parser.add_argument("--drawings", type=float, default=0.0, metavar="SHARE", help="of crops turned into drawings")
    parser.add_argument("--without", nargs="+", choices=LEVERS, default=[], metavar="LEVER", help=", ".join(LEVERS))
    parser.add_argument("--ablation", action="store_true", help="the table of levers instead of teacher and students")
    parser.add_argument(
        "--layers", type=at_least_one, default=100_000 if on_gpu else 4000, help="kept on the device, 0.2 MB each"
    )
    parser.add_argument(
        "--scene-crops", type=at_least_one, default=60_000 if on_gpu else 2000, help="kept on the device, 0.15 MB each"
    )
    parser.add_argument("--views", type=at_least_one, default=4, help="per posed and dressed body")
    parser.add_argument("--captured", type=share, default=0.0, help="share of poses from motion capture (not CC0)")
    parser.add_argument(
        "--pictures", type=at_least_one, default=6000 if on_gpu else 300, help="backgrounds painted at the start"
    )
    parser.add_argument(
        "--things", type=at_least_one, default=1500 if on_gpu else 100, help="objects drawn at the start"
    )
    parser.add_argument("--held-out", type=at_least_one, default=384 if on_gpu else 60, help="layers to measure on")
    parser.add_argument("--at-once", type=at_least_one, default=16 if on_gpu else 2, help="people per drawing")
    parser.add_argument("--batch", type=at_least_one, default=384 if on_gpu else 16)
    parser.add_argument("--workers", type=at_least_one, default=max(1, (os.cpu_count() or 1) - 1), help="processes")
    parser.add_argument("--no-refresh", dest="refresh", action="store_false", help="no new people while training")
    parser.add_argument("--seed", type=not_negative, default=1)
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    args = parser.parse_args(argv)
    for name in ("scenes", "close_ups", "drawings"):
        if not 0 <= getattr(args, name) <= 0.9:
            parser.error(f"--{name.replace('_', '-')} is a share between 0 and 0.9, not {getattr(args, name)}")
    if twice := {name for name in args.students if args.students.count(name) > 1}:
        parser.error(f"--students names {min(twice)} more than once")
    if args.scenes and (args.ablation or args.without):
        parser.error("whole scenes have all levers of realism in them: leave out --scenes to compare levers")
    files = [("--teacher", Path(args.teacher))] if taught_already(args) else []
    for option, path in (*files, *(("--start", path) for path in args.start)):
        if not path.is_file():
            parser.error(f"{option} {path} is no file")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check_assets(args.assets)
    if args.scenes:
        check_opengl()
    if args.device == "cpu":
        torch.set_flush_denormal(True)
    else:
        sys.setswitchinterval(5e-4)  # the threads beside the training hold up its next step no longer than that
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.benchmark_limit = 4  # ways per layer that are tried: all of them take half a minute
    run(args)


if __name__ == "__main__":
    sys.exit(command.run(main))
