"""What the three recipes share: starting weights, the teacher, the validation of a run, drawn data for `debug`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dwpose_core.backends import TorchRunner
from dwpose_core.models import create_model
from dwpose_core.models.rtmcc import DWPose
from dwpose_core.models.weights import load_pose, read_state_dict

from .config import TrainConfig
from .data.toy import write_toy_data
from .data.wholebody import DataSource, read_coco
from .distributed import Process, gather
from .evaluate import detector_boxes, evaluate_model, ground_truth_boxes, images_folder
from .loop import Evaluate
from .metric import check_judging


def load_start(student: DWPose, config: TrainConfig) -> None:
    """`config.init` into the student: its backbone, and with `init_head` the rest as well.

    The published recipes start from CSPNeXt backbones pre-trained on AIC + COCO poses; files of whole networks do too.

    Raises:
        ValueError: when the file has no backbone of this size.
    """
    state = read_state_dict(config.init)
    if not config.init_head:
        state = {key: value for key, value in state.items() if key.startswith("backbone.")}
    own = student.state_dict()
    wanted = [key for key in own if config.init_head or key.startswith("backbone.")]
    wrong = [key for key in wanted if key not in state or state[key].shape != own[key].shape]
    if wrong:
        raise ValueError(
            f"{config.init} does not start a {config.model}: {len(wrong)} of {len(wanted)} weights are missing or of "
            f"another shape, the first is {wrong[0]}"
        )
    student.load_state_dict({**own, **{key: state[key] for key in wanted}})


def load_teacher(config: TrainConfig) -> DWPose:
    """The teacher of `config.distill`, checked to be the network it should be.

    Raises:
        ValueError: when no weights are named, they belong to another network, or it does not suit the student.
    """
    if not config.distill.teacher_weights:
        raise ValueError(
            f"{config.name} needs the weights of its teacher ({config.distill.teacher}): --distill.teacher-weights FILE"
        )
    teacher = load_pose(config.distill.teacher_weights)
    expected = create_model(config.distill.teacher).config
    if teacher.config != expected:
        raise ValueError(
            f"{config.distill.teacher_weights} holds {teacher.name} ({teacher.config}), {config.name} expects "
            f"{config.distill.teacher}; change --distill.teacher if that is what you want"
        )
    student = create_model(config.model).config
    if teacher.config.input_size != student.input_size:
        raise ValueError(
            f"the teacher {teacher.name} sees crops of {teacher.config.input_size}, the student {config.model} of "
            f"{student.input_size} (H, W): choose a teacher for the same crops"
        )
    return teacher


def make_evaluate(config: TrainConfig, process: Process) -> Evaluate | None:
    """Whole-body AP of a network on the validation set, as the loop wants it; None when there is no validation set."""
    if not config.val_annotations:
        return None
    annotations = config.path(config.val_annotations)
    truth = read_coco(annotations)
    check_judging(truth)  # now, not after ten epochs
    images = images_folder(config.path(config.val_images))
    boxes = detector_boxes(config.path(config.val_boxes)) if config.val_boxes else ground_truth_boxes(annotations)

    def evaluate(network: DWPose) -> dict[str, float]:
        runner = TorchRunner(network, process.device)
        stats, _ = evaluate_model(
            runner,
            truth,
            images,
            boxes,
            process,
            flip_test=config.flip_test,
            workers=config.workers,
            progress=False,
        )
        return {name: value for name, value in stats.items() if name.endswith(("/AP", "/AR"))}

    return evaluate


def with_toy_data(config: TrainConfig, process: Process) -> TrainConfig:
    """Configurations without data (`debug`) get eight drawn people in the run folder."""
    if config.train:
        return config
    folder = Path(config.out) / config.name / "toy"
    if process.is_first and not (folder / "annotations.json").exists():
        write_toy_data(folder)
    gather(None, process)
    source = DataSource(str((folder / "annotations.json").resolve()), str(folder.resolve()))
    return dataclasses.replace(config, train=(source,))
