"""What a detector's training is decided by, and the network that it begins with."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from torch import nn

from dwpose_core.models.weights import load_detector, load_pose
from dwpose_core.models.yolox import VARIANTS, YOLOX

from .. import checkpoint
from ..growth import add_difference, hold_pixels
from ..optim import Schedule
from . import simota


def option(default, meaning: str):
    """A field of DetectorConfig that says in --help what it is."""
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """What decides the result; a run is only continued with the same values."""

    network: str = option("yolox-cspnext-s", "what to train")
    pose: str = option("dwpose-s-synthetic", "pose network that a CSPNeXt backbone begins with: catalogue name or file")
    start: str = option("", "a detector to go on from instead: catalogue name, file, or last.pt of a stopped run")
    pose_before: str = option("", "what the backbone of --start began with; it moves by what --pose has learnt since")
    side: int = option(320, "of the square input, pixels")
    smallest: int = option(128, "side of the smallest pictures; every step draws one between this and a limit")
    largest: int = option(288, "what that limit grows to until the tail")
    steps: int = option(9000, "of training")
    batch: int = option(24, "pictures per process and step")
    workers: int = option(2, "training processes; one per GPU")
    lr: float = option(2e-3, "of AdamW")
    muon_lr: float = option(3e-3, "of Muon")
    weight_decay: float = option(0.05, "of AdamW")
    aid: float = option(1.0, "weight of the losses of aid.py")
    mosaic: float = option(0.4, "share of the pictures")
    mix_styles: float = option(0.0, "share of the pictures that wear the look of others (style_mixing.py)")
    tail: float = option(0.12, "share of the run at full size, without mosaic and with the L1 loss")
    seed: int = option(1, "of pictures and training")

    def __post_init__(self) -> None:
        for name in ("side", "smallest", "largest"):
            if (value := getattr(self, name)) < 32 or value % 32:
                raise ValueError(f"--{name} must be a multiple of 32 pixels, the largest stride, got {value}")
        if self.smallest > self.largest:
            raise ValueError(f"--smallest {self.smallest} is larger than --largest {self.largest}")
        for name in ("steps", "batch", "workers"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        for name in ("mosaic", "mix_styles", "tail"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"--{name.replace('_', '-')} must be a share, from 0 to 1, got {value}")
        for name in ("lr", "muon_lr", "weight_decay", "aid", "seed"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative, got {value}")

    @property
    def tail_start(self) -> int:
        return round(self.steps * (1 - self.tail))

    def side_at(self, step: int) -> int:
        """The same for all processes; a multiple of 32, the largest stride. Small pictures first: they cost less."""
        if step >= self.tail_start:
            return self.side
        grown = 0.5 + 0.5 * step / self.tail_start
        limit = self.smallest + round((self.largest - self.smallest) * grown / 32) * 32
        # The last part tells it from the batches' numbers: to NumPy the seeds (a, b) and (a, b, 0) are the same.
        return int(np.random.default_rng((self.seed, step, 10**6)).choice(range(self.smallest, limit + 1, 32)))

    def schedule(self) -> Schedule:
        warmup = max(2, min(300, self.steps // 10))
        return Schedule(1.0, warmup=warmup, cosine_start=warmup, cosine_end=self.steps, final=0.02)


def create(config: DetectorConfig) -> YOLOX:
    """An untrained detector with the single class person."""
    shape = dataclasses.replace(VARIANTS[config.network], input_size=(config.side, config.side), num_classes=1)
    net = YOLOX(shape, config.network)
    simota.initialize(net)
    return net


def read_start(start: str) -> YOLOX:
    """A detector by catalogue name or file; of a run's last.pt the averaged weights.

    Raises:
        ValueError: for a last.pt that is missing or of another kind of run; besides what `load_detector` raises.
    """
    path = Path(start)
    if path.name != "last.pt":
        return load_detector(start)
    if not path.is_file():
        raise ValueError(f"--start {start} is missing; a run writes it every --save-every steps and on SIGTERM")
    state = checkpoint.load_state(path)
    if "network" not in state.get("config", ()):
        raise ValueError(f"--start {start} is the state of another training; give one of training.train_detector")
    net = create(DetectorConfig(**state["config"]))
    net.load_state_dict(state["average"])
    return net


def begin(config: DetectorConfig) -> YOLOX:
    """In training mode. A CSPNeXt backbone begins with the pose network's; its stem and first stage stay so.

    Raises:
        ValueError: when a file of `config` holds another network, or `read_start` refuses `config.start`.
    """
    if config.pose_before and not (config.start and VARIANTS[config.network].cspnext):
        raise ValueError("--pose-before is for a --start with the backbone of a pose network; leave it out")
    net = create(config).train()
    if config.start:
        start = read_start(config.start)
        if dataclasses.replace(start.config, input_size=net.config.input_size) != net.config:
            found = f"{start.name} with {start.config.num_classes} classes"
            raise ValueError(f"--start {config.start} holds {found}, not {config.network} with 1; see --network")
        net.load_state_dict(start.state_dict())
    if net.config.cspnext:
        backbone = net.backbone.backbone.pose
        if not config.start:
            backbone.load_state_dict(_pose_backbone(config, config.pose, "pose").state_dict())
        elif config.pose_before:
            before = _pose_backbone(config, config.pose_before, "pose-before")
            add_difference(backbone, before, _pose_backbone(config, config.pose, "pose"))
        hold_pixels(backbone)
    return net


def early_layers(net: YOLOX) -> list[nn.Module]:
    """What ends at strides 4 and 8, where MixStyle is put (its paper: after the first two stages)."""
    backbone = net.backbone.backbone
    return [backbone.pose.stage1, backbone.pose.stage2] if net.config.cspnext else [backbone.dark2, backbone.dark3]


def _pose_backbone(config: DetectorConfig, weights: str, flag: str) -> nn.Module:
    pose, shape = load_pose(weights), VARIANTS[config.network]
    if (pose.config.deepen, pose.config.widen, pose.config.stages) != (*shape.cspnext, shape.stages):
        raise ValueError(f"--{flag} {weights} holds {pose.name}, not the backbone of {config.network}")
    return pose.backbone
