"""Which stages a rendered-people run has, for how long, and what each begins with and learns from."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from dwpose_core.models.rtmcc import DWPose, create_model

from .growth import begin_backbone, grown_as
from .pruning import pruned
from .starter_weights import as_trained
from .synthetic_crops import LEVERS
from .synthetic_stage import Stage

# Shares of the minutes for people and for training, which on a GPU goes on beside the drawing of most people; what is
# left covers the start of the workers, surroundings, measuring and saving.
SHARES, SHARES_BESIDE = (0.14, 0.79), (0.04, 0.88)
TEACHER_SHARE, STAGE1_SHARE, STAGE2_SHARE = 0.45, 0.48, 0.07  # of the training
GOING_ON_LR = 0.5  # of the learning rate, for a network that goes on

# What a network begins as: one of --start as it is, grown from or pruned from one, with one's backbone, or untrained.
Origin = Literal["itself", "grown", "pruned", "backbone", "nothing"]


def beside(args: argparse.Namespace) -> bool:
    """Whether people are drawn and crops composited while a network trains. Levers are compared on the same people."""
    return args.device.startswith("cuda") and not args.ablation


def shares(args: argparse.Namespace) -> tuple[float, float]:
    return SHARES_BESIDE if beside(args) else SHARES


@lru_cache(4)
def read_start(path: Path) -> DWPose:
    return as_trained(path)


def origin_of(model: str, kind: str, args: argparse.Namespace) -> tuple[Origin, DWPose | None]:
    """What a stage's network begins as, and which of --start that is made of.

    Raises:
        ValueError: for two files of one network.
    """
    starts = [read_start(path) for path in args.start]
    names = [start.name for start in starts]
    if len(set(names)) < len(names):
        raise ValueError(f"--start has several files of one network ({', '.join(names)}); give one of each")
    if not starts or kind == "stage2":
        return "nothing", None
    if model in names:
        return "itself", starts[names.index(model)]
    if kind == "labels":
        smaller = [start for start in starts if _grows_to(start, model)]
        if smaller:
            return "grown", max(smaller, key=lambda start: (start.config.widen, start.config.deepen))
        return "backbone", starts[0]
    return ("pruned", starts[0]) if taught_already(args) else ("nothing", None)


def _grows_to(start: DWPose, model: str) -> bool:
    old, new = start.config, create_model(model).config
    alike = replace(new, widen=old.widen, deepen=old.deepen) == old
    return alike and new.widen >= old.widen and new.deepen >= old.deepen


def beginning(stage: Stage, args: argparse.Namespace) -> DWPose:
    """The network of a stage before its first step.

    Raises:
        ValueError: where what begins it is of another width, or smaller than a student that is to be pruned from it.
    """
    net = create_model(stage.model)
    origin, start = origin_of(stage.model, stage.kind, args)
    if origin == "itself":
        net.load_state_dict(start.state_dict())
    elif origin == "grown":
        return grown_as(start, net.config, stage.model)
    elif origin == "pruned":
        return pruned(start, net.config, stage.model)
    elif origin == "backbone":
        begin_backbone(net, start)
    return net


def plan(args: argparse.Namespace) -> list[Stage]:
    """The stages and their seconds."""
    total = args.minutes * 60 * shares(args)[1]

    def begun(name: str, kind: str, model: str, seconds: float) -> Stage:
        origin, _ = origin_of(model, kind, args)
        rate = Stage.lr * (GOING_ON_LR if origin in ("itself", "grown") else 1.0)
        return Stage(name, kind, model, seconds, args.batch, rate, fresh=origin in ("backbone", "nothing"))

    def from_labels(name: str, model: str, seconds: float) -> Stage:
        return begun(name, "labels", model, seconds)

    if args.ablation:
        names = ["everything", *(f"without-{lever}" for lever in LEVERS)]
        return [from_labels(name, args.students[0], total / len(names)) for name in names]
    if args.teacher == "none":
        return [from_labels(f"{student}-labels", student, total / len(args.students)) for student in args.students]
    if taught_already(args):
        stages, left = [], total / (STAGE1_SHARE + STAGE2_SHARE) / len(args.students)
    else:
        stages, left = [from_labels("teacher", args.teacher, total * TEACHER_SHARE)], total / len(args.students)
    for student in args.students:
        first = begun(f"{student}-stage1", "stage1", student, left * STAGE1_SHARE)
        second = Stage(f"{student}-stage2", "stage2", student, left * STAGE2_SHARE, args.batch, fresh=first.fresh)
        stages += [first, second]
    return stages


def taught_already(args: argparse.Namespace) -> bool:
    """Whether the teacher is a file instead of a stage; names of networks have no suffix."""
    return Path(args.teacher).suffix != ""


def teacher_of(stage: Stage, args: argparse.Namespace, state: Path) -> DWPose | None:
    """The trained network that a stage learns from besides the labels, its scores as they were trained."""
    if stage.kind == "labels":
        return None
    if stage.kind == "stage1" and taught_already(args):
        return as_trained(Path(args.teacher))
    source = "teacher" if stage.kind == "stage1" else f"{stage.model}-stage1"
    return as_trained(state / f"{source}.safetensors")


def levers_of(stage: Stage, args: argparse.Namespace) -> set[str]:
    """What this stage does without."""
    mine = stage.name.removeprefix("without-")
    return set(args.without) | ({mine} if mine in LEVERS else set())
