"""What is minimised: the SimCC task loss and DWPose's two distillation stages (Yang et al., arXiv 2307.15880).

An objective is a module that holds the student (and, when distilling, a frozen teacher) and turns a batch into
`{"loss": scalar, parts...}`. The loop only ever sees "loss".

A batch is a dict of tensors on one device:
    image      (N, H, W, 3) uint8 RGB crops
    keypoints  (N, K, 2) float32, crop pixels
    visible    (N, K) float32, 0 or 1

Batch size. The original sums its task loss over the samples of one process but averages its distillation losses, so
their balance silently follows the per-process batch: 64 for the 256 x 192 configs, 32 for 384 x 288. Here every loss
is a mean over samples and the task loss is multiplied by `reference_batch`, that original per-process batch. With
N = reference_batch the numbers are the original's; with any other N, number of processes or accumulation steps the
balance (and what clipping at norm 1.0 does) stays the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from dwpose_core.models.cspnext import IMAGENET_MEAN, IMAGENET_STD
from dwpose_core.models.rtmcc import DWPose
from dwpose_core.simcc import BETA, SPLIT_RATIO, decode

# Legend: N samples, K keypoints, B bins of one axis, C channels.


def normalize(image: torch.Tensor) -> torch.Tensor:
    """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32, ImageNet mean and standard deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=image.device)
    std = torch.tensor(IMAGENET_STD, device=image.device)
    return ((image.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def simcc_labels(
    keypoints: torch.Tensor, visible: torch.Tensor, input_size: tuple[int, int], sigma: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`dwpose_core.simcc.encode` on tensors, so that labels (0.5 MB per person) are made on the device.

    keypoints (N, K, 2) crop pixels, visible (N, K), input_size (H, W) -> x (N, K, 2W), y (N, K, 2H), weight (N, K).
    """
    center = (keypoints * SPLIT_RATIO).round()  # rounds halves to even, as the original
    weight = visible
    inside = visible >= 0.5
    bins = (int(input_size[1] * SPLIT_RATIO), int(input_size[0] * SPLIT_RATIO))
    for axis in (0, 1):
        radius = 3 * sigma[axis]
        near = (center[..., axis] - radius < bins[axis]) & (center[..., axis] + radius + 1 >= 0)
        weight = torch.where((visible >= 0.5) & ~near, torch.zeros_like(weight), weight)
        inside = inside & near
    rows = []
    for axis in (0, 1):
        offset = torch.arange(bins[axis], device=keypoints.device, dtype=torch.float32) - center[..., axis, None]
        rows.append(torch.exp(-(offset**2) / (2 * sigma[axis] ** 2)) * inside[..., None])
    return rows[0], rows[1], weight


def _row_kl(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """KL(softmax(10 target) || softmax(10 logits)) per bin: (N, K, B), float32 also under autocast."""
    return F.kl_div(
        F.log_softmax(logits.float() * BETA, dim=-1), F.softmax(target.float() * BETA, dim=-1), reduction="none"
    )


def task_loss(
    pred: tuple[torch.Tensor, torch.Tensor], label: tuple[torch.Tensor, torch.Tensor], weight: torch.Tensor
) -> torch.Tensor:
    """SimCC classification loss per sample (N,): KL averaged over bins, weighted, averaged over all K keypoints.

    The sum over samples is mmpose's `KLDiscretLoss(beta=10, label_softmax=True)`.
    """
    return sum((_row_kl(p, t).mean(-1) * weight).mean(-1) for p, t in zip(pred, label, strict=True))


def logit_loss(student: tuple[torch.Tensor, torch.Tensor], teacher: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Logit distillation per sample (N,): KL summed over bins, averaged over all K keypoints, visible or not.

    The mean over samples is DWPose's `KDLoss`, which is handed the visibility and ignores it (arXiv 2307.15880,
    eq. 3: the teacher's opinion about invisible keypoints is knowledge too).
    """
    return sum(_row_kl(s, t).sum(-1).mean(-1) for s, t in zip(student, teacher, strict=True))


def feature_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared distance of the last feature maps per sample, (N, C, h, w) -> (N,), not divided by C*h*w.

    The paper's formula divides; the published code does not and has the constant inside its weight 7e-5.
    """
    return (student.float() - teacher.float()).square().flatten(1).sum(1)


def keypoint_accuracy(
    pred: tuple[torch.Tensor, torch.Tensor],
    label: tuple[torch.Tensor, torch.Tensor],
    weight: torch.Tensor,
    threshold: float = 0.05,
) -> torch.Tensor:
    """Share of keypoints closer than `threshold` of the input side to the label, averaged per keypoint (for the log).

    mmpose's `simcc_pck_accuracy`, with its slip: x offsets are divided by H and y offsets by W. A keypoint index
    without any labelled sample in the batch does not count.
    """
    size = torch.tensor([p.shape[-1] / SPLIT_RATIO for p in reversed(pred)], device=weight.device)
    offset = (decode(*pred)[0] - decode(*label)[0]) / size
    labelled = weight > 0
    hit = (offset.square().sum(-1).sqrt() < threshold) & labelled
    counted = labelled.any(0)
    return (hit.sum(0) / labelled.sum(0).clamp(min=1)).sum() / counted.sum().clamp(min=1)


class SimCCObjective(nn.Module):
    """Plain training from annotations: RTMPose (arXiv 2303.07399) and the baselines of DWPose.

    Args:
        student: the network that is trained.
        reference_batch: see the top of this file.
    """

    def __init__(self, student: DWPose, reference_batch: int = 64):
        super().__init__()
        self.student = student
        self.reference_batch = reference_batch

    def set_epoch(self, epoch: int) -> None:
        """Called by the loop at the start of every epoch, counted from 0."""

    def _task(
        self, pred: tuple[torch.Tensor, torch.Tensor], batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss from the labels, and what the log shows besides."""
        config = self.student.config
        *label, weight = simcc_labels(batch["keypoints"], batch["visible"], config.input_size, config.sigma)
        loss = self.reference_batch * task_loss(pred, label, weight).mean()
        with torch.no_grad():
            accuracy = keypoint_accuracy(pred, label, weight)
        return loss, {"accuracy": accuracy}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        loss, shown = self._task(self.student(normalize(batch["image"])), batch)
        return {"loss": loss} | shown


class Stage1Distillation(SimCCObjective):
    """First stage: task loss, plus teacher features and teacher logits that fade out over the training.

    loss = task + r * (feature_weight * |align(f_s) - f_t|^2 + logit_weight * KD), r = 1 - epoch / epochs, per epoch.
    `align` is a 1x1 convolution with bias from the student's channels to the teacher's (absent when they are equal).
    It is trained with the student and thrown away.

    Args:
        student, teacher: networks of one input size. The teacher never receives gradients.
        epochs: length of the whole training, for the decay.
        reference_batch: see the top of this file.
        feature_weight: 7e-5 in the published code (5e-5 in the paper).
        logit_weight: 0.1 (arXiv 2307.15880, sec. 4.1).
        decay: the fading r; without it r = 1.
        teacher_batch_stats: True is what was released: the original trains with the teacher's BatchNorm in training
            mode, so it normalises with batch statistics and its running statistics drift. False keeps it in eval.
    """

    def __init__(
        self,
        student: DWPose,
        teacher: DWPose,
        epochs: int,
        reference_batch: int = 64,
        feature_weight: float = 7e-5,
        logit_weight: float = 0.1,
        decay: bool = True,
        teacher_batch_stats: bool = True,
    ):
        super().__init__(student, reference_batch)
        if student.config.input_size != teacher.config.input_size:
            raise ValueError(
                f"student and teacher must share one input size, got {student.config.input_size} and "
                f"{teacher.config.input_size}: use the teacher's 256 x 192 or 384 x 288 sibling"
            )
        self.teacher = teacher.requires_grad_(False)
        channels = student.backbone.out_channels, teacher.backbone.out_channels
        self.align = nn.Conv2d(*channels, 1) if channels[0] != channels[1] else nn.Identity()
        self.epochs = epochs
        self.feature_weight = feature_weight
        self.logit_weight = logit_weight
        self.decay = decay
        self.teacher_batch_stats = teacher_batch_stats
        self.fade = 1.0
        self.train(self.training)

    def set_epoch(self, epoch: int) -> None:
        self.fade = 1 - epoch / self.epochs if self.decay else 1.0

    def train(self, mode: bool = True) -> Stage1Distillation:
        super().train(mode)
        self.teacher.train(mode and self.teacher_batch_stats)
        return self

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        crops = normalize(batch["image"])
        with torch.no_grad():
            teacher_features = self.teacher.backbone(crops)
            teacher_pred = self.teacher.head(teacher_features)
        features = self.student.backbone(crops)
        pred = self.student.head(features)
        task, shown = self._task(pred, batch)
        feature = self.fade * self.feature_weight * feature_loss(self.align(features), teacher_features).mean()
        logit = self.fade * self.logit_weight * logit_loss(pred, teacher_pred).mean()
        return {
            "loss": task + feature + logit,
            "loss_task": task.detach(),
            "loss_feature": feature.detach(),
            "loss_logit": logit.detach(),
        } | shown


class Stage2Distillation(SimCCObjective):
    """Second stage, head-aware self-distillation: a new head on the frozen backbone learns the old head's output.

    Only the student's head is trained and the labels are not used. The student's backbone *is* the teacher's, so the
    student that is saved is complete (the original stitches `teacher.backbone` and `student.head` afterwards).

    Args:
        student: its head is trained from whatever state it has; its backbone weights are replaced by the teacher's.
        teacher: the stage-1 result (or any trained network of the same architecture).
        logit_weight: 1.0, no decay (arXiv 2307.15880, sec. 3.2).
        teacher_batch_stats: True is what was released: the frozen backbone's BatchNorm runs in training mode, and the
            running statistics that drift there end up in the released model. False keeps them.
    """

    def __init__(self, student: DWPose, teacher: DWPose, logit_weight: float = 1.0, teacher_batch_stats: bool = True):
        super().__init__(student)
        student.backbone.load_state_dict(teacher.backbone.state_dict())
        student.backbone.requires_grad_(False)
        self.teacher = teacher.head.requires_grad_(False)
        self.logit_weight = logit_weight
        self.teacher_batch_stats = teacher_batch_stats
        self.train(self.training)

    def train(self, mode: bool = True) -> Stage2Distillation:
        super().train(mode)
        self.student.backbone.train(mode and self.teacher_batch_stats)
        return self

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            features = self.student.backbone(normalize(batch["image"]))
            teacher_pred = self.teacher(features)
        pred = self.student.head(features)
        loss = self.logit_weight * logit_loss(pred, teacher_pred).mean()
        with torch.no_grad():
            shown = self._task(pred, batch)[1]
        return {"loss": loss} | shown
