"""One stage of the rendered-people run: a network, an objective and a budget of seconds instead of epochs.

Everything that DWPose ties to epochs (learning rate, fading of the distillation, when the heat-map aid ends, how
strongly crops are disturbed) is tied to the share of the stage's time that has passed, so the same recipe runs for
half a minute on a CPU and for ten minutes on a GPU. A stage saves its state and goes on in the next process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from dwpose_core.models.rtmcc import DWPose

from . import checkpoint
from .label_objective import KnownStage1, LabelObjective, as_batch
from .muon import MuonAdamW
from .objectives import SimCCObjective, Stage2Distillation
from .optim import ExponentialMovingAverage, Schedule
from .precision import autocast
from .small_simcc import MORE_HANDS, PART_WEIGHTS
from .starter_score import measure
from .synthetic.composite import MILD, QUIET, STRONG, TUMBLING, VACANT, Disturbance
from .synthetic.pool import CropPool
from .synthetic.torch_composite import Crops

TICKS = 1000  # a stage's progress in whole numbers, for what is written in steps or epochs
AID_UNTIL = 0.5  # as in the starter: SimCC alone hardly leaves the mean pose at first, later the aid is in the way
# Until, disturbance, weight of flat rows.
PHASES = ((0.6, replace(STRONG, crowded=0.25, partial=0.25), 0.15), (0.92, MILD, 0.15), (1.0, QUIET, 0.3))
# For a network that goes on: disturbances and their shares all along, as the starter's, and the weight of flat rows.
GOING_ON = (
    (replace(STRONG, crowded=0.35, partial=0.35), 3.0),
    (replace(TUMBLING, partial=0.2), 0.8),
    (replace(MILD, partial=0.2), 0.7),
    (QUIET, 0.3),
    (VACANT, 0.8),
)
GOING_ON_ABSENT = 0.25
WEIGHT_DECAY = 0.05
EVALUATIONS = 6  # per stage, evenly spaced
SAVE_EVERY = 60.0  # seconds
MOST_BROKEN = 20  # steps in a row whose gradient is not finite; single ones are left out


@dataclass(frozen=True)
class Stage:
    """`kind` is "labels", "stage1" or "stage2". A network is `fresh`, or goes on with what it or a larger one knows."""

    name: str
    kind: str
    model: str
    seconds: float
    batch: int
    lr: float = 2e-3
    fresh: bool = True


class OutOfTime(Exception):
    """This process must end; the state is saved and the same command goes on."""


def phase_at(progress: float) -> tuple[Disturbance, float]:
    """Disturbance and weight of flat rows at a share 0..1 of the stage."""
    return next((disturb, absent) for until, disturb, absent in PHASES if progress < until or until == 1.0)


def label_objective(student: DWPose, fresh: bool) -> LabelObjective:
    """That of a stage: a fresh network has the heat-map aid at first, one that goes on more weight on hands."""

    def fresh_at(tick: int) -> tuple[float, bool]:
        return phase_at(tick / TICKS)[1], tick < AID_UNTIL * TICKS

    if fresh:
        return LabelObjective(student, PART_WEIGHTS, fresh_at)
    return LabelObjective(student, MORE_HANDS, lambda tick: (GOING_ON_ABSENT, False))


def build_objective(kind: str, student: DWPose, teacher: DWPose | None, fresh: bool = True) -> SimCCObjective:
    if kind == "labels":
        return label_objective(student, fresh)
    if teacher is None:
        raise ValueError(f"{kind} needs a teacher")
    if kind == "stage1":
        return KnownStage1(student, teacher, TICKS, PART_WEIGHTS if fresh else MORE_HANDS, GOING_ON_ABSENT)
    return Stage2Distillation(student, teacher, teacher_batch_stats=False)


class OnDevice:
    """A network as starter_score.predict calls it: crops and logits on the CPU, arithmetic on the device."""

    def __init__(self, net: DWPose, device: torch.device):
        self.net, self.device = net, device
        self.config, self.head = net.config, net.head

    def __call__(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.net(crops.to(self.device).contiguous(memory_format=torch.channels_last))
        return x.float().cpu(), y.float().cpu()


def figures(net: OnDevice, pool: CropPool) -> dict[str, float | None]:
    """starter_score.measure, rounded for a json file."""
    return {name: None if value is None else round(value, 4) for name, value in measure(net, pool).items()}


def train_stage(
    stage: Stage,
    objective: SimCCObjective,
    draw: Callable[[float], Crops],
    tests: dict[str, CropPool],
    generator: torch.Generator,
    state_file: Path,
    deadline: float,
    report: Callable[[DWPose, list[dict]], None],
) -> tuple[DWPose, list[dict]]:
    """Train until the stage's seconds are spent, over as many processes as it takes.

    Args:
        objective: on the device; its student is trained.
        draw: progress 0..1 -> a batch of crops, with random numbers of `generator`.
        tests: measured EVALUATIONS times per stage.
        generator: on the device; its state is saved along.
        state_file: read if it exists, and written.
        deadline: time.monotonic() at which this process must have ended.
        report: called with the averaged student and all rows so far after each evaluation.

    Returns:
        The averaged student and one row of figures per evaluation.

    Raises:
        OutOfTime: at the deadline, with the state saved.
    """
    optimizer = MuonAdamW(objective, stage.lr, 1.5 * stage.lr, WEIGHT_DECAY)  # in the proportion of the starter
    schedule = Schedule(1.0, warmup=TICKS // 25, cosine_start=TICKS * 2 // 5, cosine_end=TICKS, final=0.01)
    average = ExponentialMovingAverage(objective.student, momentum=0.002, gamma=200.0)
    trained = [p for p in objective.parameters() if p.requires_grad]
    device = generator.device
    spent, pictures, rows = 0.0, 0, []
    if state_file.is_file():
        state = checkpoint.load_state(state_file)
        objective.load_state_dict(state["objective"])
        average.module.load_state_dict(state["average"])
        average.step = state["average_step"]
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        spent, pictures, rows = state["spent"], state["pictures"], state["rows"]

    def save() -> None:
        checkpoint.save_state(
            state_file,
            {
                "objective": objective.state_dict(),
                "average": average.module.state_dict(),
                "average_step": average.step,
                "optimizer": optimizer.state_dict(),
                "generator": generator.get_state(),
                "spent": spent,
                "pictures": pictures,
                "rows": rows,
            },
        )

    losses: list[torch.Tensor] = []
    drawing, began, saved, before, broken = 0.0, spent, spent, pictures, 0
    last = time.monotonic()
    bar = tqdm(total=round(stage.seconds), initial=round(spent), unit="s", desc=stage.name)
    while spent < stage.seconds:
        progress = spent / stage.seconds
        tick = int(progress * TICKS)
        objective.set_epoch(tick)
        asked = time.monotonic()
        batch = as_batch(draw(progress))
        drawing += time.monotonic() - asked
        with autocast(device):
            out = objective(batch)
        objective.zero_grad(set_to_none=True)
        out["loss"].backward()
        norm = nn.utils.clip_grad_norm_(trained, 5.0 if stage.kind == "labels" else 1.0)
        if torch.isfinite(norm):
            optimizer.step(schedule.at(tick))
            average.update(objective.student)
            broken = 0
        elif (broken := broken + 1) >= MOST_BROKEN:
            raise FloatingPointError(f"{stage.name}: no finite gradient for {broken} steps, at {pictures} pictures")
        losses.append(out["loss"].detach())
        pictures += len(batch["image"])
        now = time.monotonic()
        spent, last = spent + now - last, now
        due = len(rows) + 1 <= spent / stage.seconds * EVALUATIONS or spent >= stage.seconds
        if due:
            loss = float(torch.stack(losses).mean())
            losses.clear()
            net = OnDevice(average.module, device)
            rate = (pictures - before) / (spent - began)
            row = {"stage": stage.name, "model": stage.model, "pictures": pictures, "seconds": round(spent, 1)}
            row |= {"pictures_per_second": round(rate, 1), "drawing_share": round(drawing / (spent - began), 3)}
            row |= {"loss": loss} | {name: figures(net, pool) for name, pool in tests.items()}
            rows.append(row)
            scores = ", ".join(f"{name} {row[name]['body_pck']}" for name in tests)
            report(average.module, rows)
            tqdm.write(f"{stage.name}: {pictures} pictures, {rate:.0f} per second, loss {loss:.3f}, body PCK {scores}")
            now = time.monotonic()
            spent, last = spent + now - last, now
        bar.update(round(spent) - bar.n)
        out_of_time = time.monotonic() > deadline and spent < stage.seconds
        if out_of_time or spent - saved > SAVE_EVERY:
            save()
            saved = spent
        if out_of_time:
            raise OutOfTime(f"{stage.name} at {spent:.0f} of {stage.seconds:.0f} s")
    bar.close()
    save()
    return average.module, rows
