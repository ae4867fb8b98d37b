"""Does DWPose's distillation help? Baseline, stage 1, stage 1 + 2 at equal student steps, on synthetic people.

    python -m benchmarks.distillation prepare --layers LAYERS --assets ASSETS --out DIR      crops in COCO form
    python -m benchmarks.distillation pretrain --out DIR          the students' common start
    python -m benchmarks.distillation teacher --out DIR
    python -m benchmarks.distillation seed --seed 0 --out DIR     all variants of one seed; repeat with 1, 2, ...
    python -m benchmarks.distillation report --out DIR --json benchmarks/results/distillation.json

LAYERS is a folder of training.synthetic.generate, the more people the better (18,000 in the published table). People
facing the camera and cut above the ankles are taken from it: their faces and hands are large enough for networks that
CPUs can train, (H, W) = 128 x 96 with a last map of 8 x 6. Judged on other bodies, on clean crops ("plain") and on
crops with clutter, people and things in front and photometric noise ("hard"). Everything else is the product's own
code. On all people, in any posture and at any distance, networks of this size and budget have a whole-body AP of zero,
and there is nothing to compare.

The original starts from backbones pre-trained on heat maps and trains for millions of pictures. Here a student with a
random head on such a backbone was still at the mean pose after 16,000. So all students of all seeds start from one
network that learned heat maps and labels together; the optimiser is fresh and steps count from there.

Settings are those of the published configs where the size allows. What differs: clipping at norm 1.0 everywhere (the
published baselines are unclipped, which is not like for like); the feature weight is multiplied by 61440 / 6144, the
ratio of the elements of the teachers' last maps, because the loss is a sum over them; 240 steps per epoch. Seeds differ
in data order, augmentation and the random head of stage 2.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from dwpose_core.backends import TorchRunner
from dwpose_core.models.rtmcc import DWPose, PoseConfig
from dwpose_core.models.weights import load_pose
from dwpose_core.skeleton import OKS_SIGMAS, PARTS
from training.checkpoint import save_model
from training.config import TrainConfig
from training.data.augment import AugmentConfig
from training.data.wholebody import FIELDS, DataSource, whole_body_keypoints
from training.distributed import Process
from training.evaluate import evaluate_model, ground_truth_boxes
from training.loop import fit
from training.metric import WHOLE, Detections, oks
from training.objectives import SimCCObjective, Stage1Distillation, Stage2Distillation, normalize
from training.synthetic.backgrounds import Backgrounds
from training.synthetic.composite import MILD, Crop, composite
from training.synthetic.generate import POSES_PER_BODY
from training.synthetic.labels import OUTSIDE, VISIBLE
from training.synthetic.layer_store import LayerStore, read_objects

SIZE = (128, 96)
STUDENT = PoseConfig(deepen=0.167, widen=0.125, input_size=SIZE, stages=3, tokens=64, shared=32, kernel=3)
TEACHER = PoseConfig(deepen=0.33, widen=0.25, input_size=SIZE, stages=3, tokens=128, shared=64, kernel=3)
CROP = (144, 192)  # (W, H) of a prepared picture
PEOPLE = 7680  # 240 steps of 32
EPOCHS = 4  # 960 student steps for every variant
PRETRAIN_EPOCHS = {"student": 3, "teacher": 5}
TEACHER_EPOCHS = 6
FEATURE_WEIGHT = 7e-5 * 61440 / 6144
AUGMENT = AugmentConfig(  # the pool's crops come with their own box, colour and blur disturbances
    half_body=0.0, shift_probability=0.0, scale=(0.85, 1.25), rotation=30.0, hsv=(0, 0, 0), blur=0.0, median_blur=0.0,
    cutout=0.5,
)  # fmt: skip
ALONE = Process(0, 1, torch.device("cpu"))
TESTS = ("plain", "hard")
COLUMNS = ("whole/AP", "whole/OKS", "body/AP", "body/OKS", "face/OKS")


class HeatmapPretraining(SimCCObjective):
    """Task loss, and stage 2 and 3 features, joined at stride 8, classify the cell each keypoint lies in."""

    def __init__(self, student: DWPose):
        super().__init__(student)
        config = student.config
        channels = [int(base * config.widen) for base in (256, 512)]
        self.lateral = nn.ModuleList(nn.Conv2d(c, 64, 1) for c in channels)
        self.maps = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, config.num_keypoints, 1))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        backbone = self.student.backbone
        middle = backbone.stage2(backbone.stage1(backbone.stem(normalize(batch["image"]))))
        last = backbone.stage3(middle)
        top = F.interpolate(self.lateral[1](last), scale_factor=2, mode="nearest")
        logits = self.maps(self.lateral[0](middle) + top)
        task, accuracy = self._task(self.student.head(last), batch)
        height, width = logits.shape[2:]
        cell = (batch["keypoints"] / 8).floor().long()
        inside = (batch["visible"] > 0) & (cell >= 0).all(-1) & (cell[..., 0] < width) & (cell[..., 1] < height)
        target = torch.where(inside, cell[..., 1] * width + cell[..., 0], -1)
        loss = F.cross_entropy(logits.flatten(2).flatten(0, 1), target.flatten(), ignore_index=-1)
        return {"loss": loss + task, "loss_task": task.detach(), "accuracy": accuracy}


def upper_bodies(store: LayerStore) -> np.ndarray:
    """Numbers of the layers with an upright person seen from the front and cut somewhere above the ankles."""
    seen, xy = store.visible, store.keypoints
    shoulders = xy[:, 5] - xy[:, 6]  # the left shoulder is on the picture's right when the chest faces the camera
    upright = (shoulders[:, 0] > 2 * np.abs(shoulders[:, 1])) & (xy[:, 0, 1] < xy[:, 5:7, 1].min(1))
    frontal = (seen[:, [0, 1, 2, 5, 6]] == VISIBLE).all(1)
    return np.flatnonzero(upright & frontal & (seen[:, 15:17] == OUTSIDE).all(1))


def prepare(layers: Path, assets: Path, out: Path) -> None:
    """Composite the crops of `upper_bodies` and write them as JPEGs with a COCO-WholeBody file."""
    store, backgrounds = LayerStore(layers), Backgrounds(assets)
    chosen = upper_bodies(store)
    held_out = chosen[chosen // POSES_PER_BODY % 10 == 9]  # by body
    trained = np.setdiff1d(chosen, held_out)
    objects = read_objects(layers.parent / "objects")
    print(f"{len(trained)} people to train on, {len(held_out)} others to judge on")
    jobs = (
        ("train", np.resize(trained, PEOPLE), None, 0),
        ("plain", held_out, None, 1),
        ("hard", held_out, replace(MILD, loose=0.0, empty=0.0), 2),
    )
    for name, numbers, disturb, seed in jobs:
        folder = out / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for i, number in enumerate(tqdm(numbers, unit="crop", desc=name)):
            crop = composite(store, int(number), backgrounds, objects, CROP, np.random.default_rng((seed, i)), disturb)
            annotation = describe(crop, len(annotations) + 1)
            if annotation["num_keypoints"] < 4:
                continue
            file_name = f"{annotation['id']:06d}.jpg"
            cv2.imwrite(str(folder / file_name), crop.image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))
            images.append({"id": annotation["id"], "file_name": file_name, "height": CROP[1], "width": CROP[0]})
            annotations.append(annotation)
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
        (folder / "annotations.json").write_text(json.dumps(content))


def describe(crop: Crop, number: int) -> dict:
    """The COCO-WholeBody annotation of a crop's person; its box is that of the labelled points."""
    xy = crop.keypoints
    inside = (crop.visible > OUTSIDE) & (xy >= 0).all(1) & (xy < CROP).all(1)
    low, high = (xy[inside].min(0), xy[inside].max(0)) if inside.any() else (np.zeros(2), np.ones(2))
    values = np.column_stack((xy, np.where(inside, crop.visible, 0))).astype(float)
    cuts = [PARTS[name].start for name in ("foot", "face", "left_hand", "right_hand")]
    lists = {f: v.ravel().tolist() for f, v in zip(FIELDS, np.split(values, cuts), strict=True)}
    box = [*low.tolist(), *(high - low).tolist()]
    return {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": box,
        "area": box[2] * box[3] / 2,
        "num_keypoints": int(inside[PARTS["body"]].sum()),
        **lists,
    }


def settings(out: Path, name: str, seed: int, epochs: int, **changes) -> TrainConfig:
    source = DataSource(
        str((out / "data" / "train" / "annotations.json").resolve()), str((out / "data" / "train").resolve())
    )
    options = dict(
        name=name, model="custom", train=(source,), val_annotations="", data_root="/", out=str(out / "runs"),
        early=AUGMENT, late_epoch=0, epochs=epochs, batch_size=32, lr=2e-3, lr_batch=32, warmup_steps=100,
        cosine_epoch=epochs // 2, clip=1.0, ema_momentum=2e-3, ema_gamma=100.0, seed=seed, workers=0, save_every=240,
        log_every=60, tensorboard=False,
    )  # fmt: skip
    return TrainConfig(**{**options, **changes})


def judge(out: Path, name: str, network: DWPose) -> None:
    """AP, AR and mean OKS on both held-out sets, written beside the run."""
    result = {}
    for test in TESTS:
        folder = out / "data" / test
        truth = json.loads((folder / "annotations.json").read_text())
        boxes = ground_truth_boxes(folder / "annotations.json")
        runner = TorchRunner(network, "cpu")
        stats, people = evaluate_model(runner, truth, folder, boxes, ALONE, workers=0, progress=False)
        result[test] = stats | mean_oks(truth, people)
    (out / "runs" / name / "stats.json").write_text(json.dumps(result, indent=1))
    print(name, {test: {key: round(result[test][key], 4) for key in COLUMNS} for test in TESTS}, flush=True)


def mean_oks(truth: dict, people: Detections) -> dict[str, float]:
    """Mean OKS of all people, one in each picture, over their labelled points: AP without its thresholds."""
    found = dict(zip(people.image_id.tolist(), people.keypoints, strict=True))
    values = {"whole": [], "body": [], "face": []}
    for annotation in truth["annotations"]:
        points = whole_body_keypoints(annotation)
        area = np.array([annotation["area"]])
        for part, kept in values.items():
            labelled = np.zeros(len(points), bool)
            labelled[WHOLE[part]] = points[WHOLE[part], 2] > 0
            if labelled.any():
                pair = points[labelled, :2], found[annotation["image_id"]][labelled]
                kept.append(oks(pair[0], area[0], pair[1][None], area, OKS_SIGMAS[labelled])[0])
    return {f"{part}/OKS": float(np.mean(kept)) for part, kept in values.items()}


def finished(out: Path, name: str) -> DWPose | None:
    """The network of a run that is done."""
    if (out / "runs" / name / "stats.json").exists():
        return load_pose(out / "runs" / name / "last.safetensors")
    return None


def pretrain(out: Path, kind: str, network: DWPose) -> None:
    """The start of all students (or of the teacher), once for all seeds, like a downloaded checkpoint."""
    run = settings(out, f"pretrain-{kind}", 7, PRETRAIN_EPOCHS[kind])
    network = fit(HeatmapPretraining(network), run, ALONE)
    save_model(out / "runs" / f"{kind}-start.safetensors", network, {})
    judge(out, run.name, network)


def started(out: Path, network: DWPose, kind: str) -> DWPose:
    network.load_state_dict(load_pose(out / "runs" / f"{kind}-start.safetensors").state_dict())
    return network


def train(out: Path, name: str, seed: int, epochs: int, build, random: bool = False, **changes) -> DWPose:
    """One run, unless it is done: `build(student)` makes the objective. `random`: do not take the common start."""
    done = finished(out, name)
    if done is not None:
        return done
    torch.manual_seed(seed)
    student = DWPose(STUDENT) if random else started(out, DWPose(STUDENT), "student")
    network = fit(build(student), settings(out, name, seed, epochs, **changes), ALONE)
    judge(out, name, network)
    return network


def one_seed(out: Path, seed: int) -> None:
    """All variants with 960 student steps each; stage 1 + 2 spends 720 on the first stage and 240 on the second."""

    def teacher() -> DWPose:
        return load_pose(out / "runs" / "teacher" / "last.safetensors")

    def first(epochs: int, batch_stats: bool):
        return lambda s: Stage1Distillation(
            s, teacher(), epochs, feature_weight=FEATURE_WEIGHT, teacher_batch_stats=batch_stats
        )

    train(out, f"baseline-{seed}", seed, EPOCHS, SimCCObjective)
    train(out, f"stage1-{seed}", seed, EPOCHS, first(EPOCHS, False))
    short = train(out, f"stage1short-{seed}", seed, EPOCHS - 1, first(EPOCHS - 1, False))
    for name, epochs, random, batch_stats, schedule in (
        ("stage12", 1, True, False, "cosine"),
        ("stage12constant", 1, True, False, "constant"),
        ("stage12released", 1, True, True, "constant"),
        ("stage12warm", 1, False, False, "cosine"),
        ("stage12long", EPOCHS, True, False, "cosine"),
    ):
        second = partial(Stage2Distillation, teacher=short, teacher_batch_stats=batch_stats)
        train(out, f"{name}-{seed}", seed, epochs, second, random, schedule=schedule, cosine_epoch=0)
    train(out, f"stage1released-{seed}", seed, EPOCHS, first(EPOCHS, True))


VARIANTS = {
    "baseline": "annotations only",
    "stage1": "stage 1, teacher in eval",
    "stage1released": "stage 1, teacher on batch statistics (as released; default)",
    "stage1short": "stage 1 alone, 720 steps (what stage 2 starts from)",
    "stage12": "stage 1 + 2, random head, eval, cosine",
    "stage12released": "stage 1 + 2, random head, batch statistics, constant rate (as released; default)",
    "stage12constant": "stage 1 + 2, random head, eval, constant rate",
    "stage12warm": "stage 1 + 2, head from the common start, eval, cosine",
    "stage12long": "stage 1 + 2, random head, eval, cosine, 960 steps of stage 2 instead of 240",
}


def report(out: Path, target: Path | None) -> None:
    """The table, with mean and spread over the seeds that are there."""
    teacher = json.loads((out / "runs" / "teacher" / "stats.json").read_text())
    rows = {}
    for name in VARIANTS:
        files = sorted((out / "runs").glob(f"{name}-[0-9]/stats.json"))
        rows[name] = {file.parent.name.rsplit("-", 1)[1]: json.loads(file.read_text()) for file in files}
    for test in TESTS:
        print(f"\n| {test} | seeds | " + " | ".join(c.replace("/", " ") for c in COLUMNS) + " |")
        print("|---" * (len(COLUMNS) + 2) + "|")
        print("| teacher | 1 | " + " | ".join(f"{100 * teacher[test][key]:.1f}" for key in COLUMNS) + " |")
        for name, seeds in rows.items():
            cells = []
            for key in COLUMNS:
                values = 100 * np.array([stats[test][key] for stats in seeds.values()])
                spread = f" ({values.min():.1f} to {values.max():.1f})" if len(values) > 1 else ""
                cells.append(f"{values.mean():.1f}{spread}" if len(values) else "-")
            print(f"| {VARIANTS[name]} | {len(seeds)} | " + " | ".join(cells) + " |")
    if target:
        record = {
            "what": "distillation at equal student steps on synthetic people, see benchmarks/distillation.py",
            "student": vars(STUDENT),
            "teacher": vars(TEACHER),
            "student_steps": EPOCHS * PEOPLE // 32,
            "versions": {"torch": torch.__version__, "numpy": np.__version__, "opencv": cv2.__version__},
            "cores": os.cpu_count(),
            "teacher_stats": teacher,
            "variants": {name: {"what": VARIANTS[name], "seeds": rows[name]} for name in VARIANTS},
        }
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "pretrain", "teacher", "seed", "report"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=Path, help="people; things are taken from the folder `objects` beside it")
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.what == "prepare":
        prepare(args.layers, args.assets, args.out)
    elif args.what == "pretrain":
        torch.manual_seed(7)
        pretrain(args.out, "student", DWPose(STUDENT))
    elif args.what == "teacher":
        torch.manual_seed(100)
        pretrain(args.out, "teacher", DWPose(TEACHER))
        network = finished(args.out, "teacher") or fit(
            SimCCObjective(started(args.out, DWPose(TEACHER), "teacher")),
            settings(args.out, "teacher", 100, TEACHER_EPOCHS),
            ALONE,
        )
        judge(args.out, "teacher", network)
    elif args.what == "seed":
        one_seed(args.out, args.seed)
    else:
        report(args.out, args.json)


if __name__ == "__main__":
    main()
