"""Training configurations: frozen dataclasses, one entry per row of DWPose's tables, every field a flag.

    python -m training.train_pose rtmpose-l --data-root /data --batch-size 128 --early.rotation 60

Figures are those of the published configs (mmpose 1.x `rtmpose-*_coco-ubody`, DWPose `distill_configs`); where a
default differs from them, docs/training.md says why.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from .command import argument
from .data.augment import AugmentConfig
from .data.wholebody import DataSource

UBODY_SCENES = (
    *("ConductMusic", "Entertainment", "Fitness", "Interview", "LiveVlog", "Magic_show", "Movie", "Olympic"),
    *("Online_class", "SignLanguage", "Singing", "Speech", "TVShow", "TalkShow", "VideoConference"),
)

COCO = (DataSource("coco/annotations/coco_wholebody_train_v1.0.json", "coco/train2017"),)
# One video frame in ten, as DWPose. training/data/ubody.py writes these files.
UBODY = tuple(
    DataSource(f"UBody/annotations/{scene}/train_annotations.json", "UBody/images", sample_interval=10)
    for scene in UBODY_SCENES
)

# The last 30 of 270 epochs: no shift, milder box, the hole in half of the crops.
LATE = AugmentConfig(shift=0.0, scale=(0.75, 1.25), rotation=60.0, cutout=0.5)
# The x configs, early and late.
WIDE = AugmentConfig(scale=(0.5, 1.5), rotation=90.0)


@dataclass(frozen=True)
class Distill:
    """The teacher and what is taken from it."""

    teacher: str  # catalogue name of its architecture
    teacher_weights: str = ""  # .safetensors, .pth or .onnx; must be given
    feature_weight: float = 7e-5  # stage 1
    logit_weight: float = 0.1  # 1.0 in stage 2
    decay: bool = True  # stage 1: fade by 1 - epoch / epochs
    teacher_batch_stats: bool = True  # as released: the teacher's BatchNorm in training mode
    head_init: str = "random"  # stage 2; "stage1" starts as its own teacher, with nothing left to learn


@dataclass(frozen=True)
class TrainConfig:
    """One training run. `batch_size` and `workers` are per process."""

    name: str
    model: str  # catalogue name, see `python -m dwpose_core.cli models`
    train: tuple[DataSource, ...] = COCO + UBODY
    val_annotations: str = "coco/annotations/coco_wholebody_val_v1.0.json"  # "" turns validation off
    val_images: str = "coco/val2017"
    val_boxes: str = "coco/person_detection_results/COCO_val2017_detections_AP_H_56_person.json"  # "": ground truth
    data_root: str = "data"  # what relative paths above start from
    init: str = ""  # weights whose backbone the network starts from (CSPNeXt pre-training, or a whole network)
    init_head: bool = False  # take the head from there as well (fine-tuning)
    out: str = "runs"  # the run's folder is <out>/<name>

    early: AugmentConfig = field(default_factory=AugmentConfig)
    late: AugmentConfig = LATE
    late_epoch: int = 240  # 0: never
    reduced_decode: bool = True

    epochs: int = 270
    batch_size: int = 64
    accumulate: int = 1  # micro-batches per step; BatchNorm sees one micro-batch (of all processes) at a time
    reference_batch: int = 64  # weight of the task loss, see objectives.py
    lr: float = 4e-3
    lr_batch: int = 512  # the global batch that `lr` is meant for
    lr_scaling: str = "linear"  # in global batch / lr_batch; "sqrt" or "none"
    schedule: str = "cosine"  # or "constant" (stage 2 as released)
    warmup_steps: int = 1000
    cosine_epoch: int = 135  # where the cosine begins
    weight_decay: float = 0.05
    clip: float = 0.0  # gradient norm; 0: none
    ema_momentum: float = 2e-4
    ema_gamma: float = 2000.0
    seed: int = 21
    distill: Distill | None = None

    device: str = ""  # "" takes the GPU where there is one
    precision: str = "fp32"  # or "bf16"
    compile: bool = False
    deterministic: bool = False  # refuse GPU kernels that are not; the CPU path always is
    workers: int = 8
    max_steps: int = 0  # stop early (smoke tests, benchmarks); 0: all epochs
    val_every: int = 10  # epochs
    flip_test: bool = True  # in validation
    save_every: int = 1000  # steps
    log_every: int = 50  # steps
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (
            ("lr_scaling", ("linear", "sqrt", "none")),
            ("schedule", ("cosine", "constant")),
            ("precision", ("fp32", "bf16")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.distill and self.distill.head_init not in ("stage1", "random"):
            raise ValueError(f"distill.head_init must be stage1 or random, got {self.distill.head_init!r}")
        lowest = {
            **dict.fromkeys(("epochs", "batch_size", "accumulate", "reference_batch", "lr_batch"), 1),
            **dict.fromkeys(("val_every", "save_every", "log_every"), 1),
            **dict.fromkeys(("late_epoch", "cosine_epoch", "warmup_steps", "workers", "max_steps"), 0),
            **dict.fromkeys(("lr", "weight_decay", "clip"), 0),
        }
        for name, least in lowest.items():
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def path(self, relative: str) -> str:
        """A data path, relative ones below `data_root`."""
        return str(Path(self.data_root) / relative)

    def sources(self) -> tuple[DataSource, ...]:
        return tuple(
            replace(source, annotations=self.path(source.annotations), images=self.path(source.images))
            for source in self.train
        )

    def rate(self, global_batch: int) -> float:
        """Learning rate for `global_batch` samples per step."""
        factor = global_batch / self.lr_batch
        return self.lr * {"linear": factor, "sqrt": factor**0.5, "none": 1.0}[self.lr_scaling]


# What may change when a run is resumed: none of these touch the result.
OPERATIONAL = {"out", "device", "workers", "max_steps", "val_every", "save_every", "log_every", "tensorboard"} | {
    *("val_annotations", "val_images", "val_boxes", "data_root", "compile", "deterministic", "flip_test"),
}


def baseline(model: str, name: str, **changes) -> TrainConfig:
    """RTMPose from annotations. 384 x 288 runs use 8 x 32 instead of 8 x 64 at the same rate."""
    small = {"batch_size": 32, "reference_batch": 32, "lr_batch": 256} if model.endswith("-384") else {}
    wide = {"early": WIDE, "late": replace(WIDE, shift=0.0, cutout=0.5), "clip": 35.0} if "-x" in model else {}
    return TrainConfig(name=name, model=model, **{**small, **wide, **changes})


def stage1(student: str, teacher: str, name: str = "", **changes) -> TrainConfig:
    """First distillation stage: all of the student, with the teacher's features and logits."""
    return baseline(student, name or f"{student}-stage1", clip=1.0, distill=Distill(teacher), **changes)


def stage2(model: str, name: str = "", **changes) -> TrainConfig:
    """Second stage: the head alone, 60 epochs, as released: the 270-epoch schedule is inherited there, so that neither
    its cosine nor the late augmentation is ever reached. `--schedule cosine` is a cosine of its own from epoch 30."""
    options = {"clip": 1.0, "epochs": 60, "cosine_epoch": 30, "schedule": "constant", "late_epoch": 0}
    options["distill"] = Distill(model, logit_weight=1.0)
    return baseline(model, name or f"{model}-stage2", **{**options, **changes})


def debug(**changes) -> TrainConfig:
    """A 64 x 64 network on eight drawn people: seconds on a CPU. Without --train it draws its own data."""
    options = dict(
        name="debug", model="debug", train=(), val_annotations="", data_root=".", epochs=300, batch_size=8,
        early=AugmentConfig(half_body=0, shift_probability=0, scale=(1, 1), rotation_probability=0, cutout=0, flip=0),
        late_epoch=0, lr_batch=8, warmup_steps=20, cosine_epoch=150, ema_momentum=0.02, ema_gamma=20.0, workers=0,
        flip_test=False, save_every=100, log_every=20, tensorboard=False,
    )  # fmt: skip
    return TrainConfig(**{**options, **changes})


# Configs by command-line name. Students t, s and m learn from RTMPose-l, l from RTMPose-x (arXiv 2307.15880, sec. 4.1).
POSE: dict[str, Callable[[], TrainConfig]] = {
    "rtmpose-t": lambda: baseline("dwpose-t", "rtmpose-t"),
    "rtmpose-s": lambda: baseline("dwpose-s", "rtmpose-s"),
    "rtmpose-m": lambda: baseline("dwpose-m", "rtmpose-m"),
    "rtmpose-l": lambda: baseline("dwpose-l", "rtmpose-l"),
    "rtmpose-x": lambda: baseline("rtmpose-x", "rtmpose-x"),
    "rtmpose-l-384": lambda: baseline("dwpose-l-384", "rtmpose-l-384"),
    "rtmpose-x-384": lambda: baseline("rtmpose-x-384", "rtmpose-x-384"),
    "debug": debug,
}
STAGE1: dict[str, Callable[[], TrainConfig]] = {
    "dwpose-t": lambda: stage1("dwpose-t", "dwpose-l"),
    "dwpose-s": lambda: stage1("dwpose-s", "dwpose-l"),
    "dwpose-m": lambda: stage1("dwpose-m", "dwpose-l"),
    "dwpose-l": lambda: stage1("dwpose-l", "rtmpose-x"),
    "dwpose-l-384": lambda: stage1("dwpose-l-384", "rtmpose-x-384"),
    "dwpose-m-coco": lambda: stage1("dwpose-m", "dwpose-l", "dwpose-m-coco-stage1", train=COCO),
    "debug": lambda: debug(name="debug-stage1", clip=1.0, distill=Distill("debug")),
}
STAGE2: dict[str, Callable[[], TrainConfig]] = {
    "dwpose-t": lambda: stage2("dwpose-t"),
    "dwpose-s": lambda: stage2("dwpose-s"),
    "dwpose-m": lambda: stage2("dwpose-m"),
    "dwpose-l": lambda: stage2("dwpose-l"),
    "dwpose-l-384": lambda: stage2("dwpose-l-384"),
    "rtmpose-x": lambda: stage2("rtmpose-x"),
    "dwpose-m-coco": lambda: stage2("dwpose-m", "dwpose-m-coco-stage2", train=COCO),
    "dwpose-l-coco": lambda: stage2("dwpose-l", "dwpose-l-coco-stage2", train=COCO),
    "debug": lambda: debug(name="debug-stage2", clip=1.0, distill=Distill("debug", logit_weight=1.0)),
}


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers with commas between them, got {text!r}") from error


def _spell(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _add_fields(parser: argparse.ArgumentParser, value, prefix: str = "") -> None:
    """One flag per field of a dataclass instance, nested ones as `--early.rotation`."""
    hints = typing.get_type_hints(type(value))
    for spec in dataclasses.fields(value):
        current, flag = getattr(value, spec.name), prefix + spec.name
        if dataclasses.is_dataclass(current):
            _add_fields(parser, current, f"{flag}.")
        elif spec.name == "train":
            form = "JSON,IMAGES[,WEIGHT[,N]]"
            parser.add_argument("--train", type=argument(DataSource.parse), action="append", metavar=form)
        elif current is not None:
            kind = hints[spec.name]
            convert = {bool: _boolean}.get(kind, kind) if kind in (bool, int, float, str) else _numbers
            spellings = dict.fromkeys((f"--{flag.replace('_', '-')}", f"--{flag}"))
            parser.add_argument(*spellings, dest=flag, type=convert, metavar=_spell(current) or "TEXT")


def _chosen(argv: list[str]) -> str | None:
    """The first word of a command line that is neither a flag nor the value of one; every flag takes one value."""
    words = iter(argv)
    for word in words:
        if not word.startswith("-"):
            return word
        if "=" not in word and word not in ("-h", "--help"):
            next(words, None)
    return None


def parse(configs: dict[str, Callable[[], TrainConfig]], argv: list[str] | None, doc: str | None) -> TrainConfig:
    """The configuration a command line names, with its flags applied; they may stand before and after the name."""
    argv = sys.argv[1:] if argv is None else argv
    base = configs.get(_chosen(argv), next(iter(configs.values())))()  # a wrong name is refused below
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", choices=configs)
    _add_fields(parser, base)
    changes = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None and k != "config"}
    return apply(base, changes)


def apply(config, changes: dict):
    """`config` with dotted `changes`, e.g. {"lr": 1e-3, "early.rotation": 60.0}.

    Raises:
        ValueError: for a field that does not exist, is of a part this configuration does not have, or a wrong value.
    """
    nested: dict[str, dict] = {}
    flat = {}
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if not hasattr(config, head) or (rest and not dataclasses.is_dataclass(getattr(config, head))):
            raise ValueError(f"{key!r} is not a field of {type(config).__name__}")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            flat[head] = tuple(value) if isinstance(value, list) else value
    for head, inner in nested.items():
        try:
            flat[head] = apply(getattr(config, head), inner)
        except ValueError as error:
            raise ValueError(f"{head}: {error}") from error
    return replace(config, **flat)
