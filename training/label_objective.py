"""What is minimised on rendered people, whose hidden and absent points are known: small_simcc's parts put together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dwpose_core.models.rtmcc import DWPose
from dwpose_core.simcc import label_sigma

from .objectives import SimCCObjective, Stage1Distillation, normalize
from .small_simcc import HeatmapAid, heatmap_loss, label_table, loss_weights, simcc_loss, stage_features, turned_away
from .synthetic.labels import OUTSIDE
from .synthetic.torch_composite import Crops


class Labels(nn.Module):
    """SimCC cross entropy of known points, with flat rows for those outside, for crops of `size` (H, W)."""

    def __init__(self, size: tuple[int, int], parts: dict[str, float]):
        super().__init__()
        self.parts = parts
        for axis, (length, sigma) in enumerate(zip(size[::-1], label_sigma(size), strict=True)):
            self.register_buffer(f"table_{axis}", label_table(2 * length, sigma), persistent=False)

    def forward(
        self, logits: tuple[torch.Tensor, ...], batch: dict[str, torch.Tensor], absent: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss with flat rows of weight `absent`, and the weights (N, K) of the points that are there."""
        device = batch["image"].device
        # The small tensors these functions make belong on the device, and their sums in full precision.
        with torch.autocast(device.type, enabled=False), torch.device(device):
            weight, flat = loss_weights(batch["keypoints"], batch["flags"], absent, self.parts)
            return simcc_loss(logits, (self.table_0, self.table_1), batch["keypoints"], weight, flat), weight


class LabelObjective(SimCCObjective):
    """The labels alone, and the heat-map aid where it takes part.

    Args:
        student: the network that learns.
        parts: loss weights of seen keypoints.
        at: what `set_epoch` is called with -> (weight of flat rows, whether the aid takes part).
    """

    def __init__(self, student: DWPose, parts: dict[str, float], at: Callable[[int], tuple[float, bool]]):
        super().__init__(student)
        self.at = at
        self.aid = HeatmapAid(student)
        self.labels = Labels(student.config.input_size, parts)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.absent, self.aided = self.at(epoch)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        features = stage_features(self.student, normalize(batch["image"]))
        logits = self.student.head(features[-1])
        task, weight = self.labels(logits, batch, self.absent)
        loss = task
        if self.aided:
            maps = self.aid(features)
            device = batch["image"].device
            with torch.autocast(device.type, enabled=False), torch.device(device):
                loss = task + heatmap_loss(maps, batch["keypoints"], weight)
        return {"loss": loss, "loss_task": task.detach()}


class KnownStage1(Stage1Distillation):
    """DWPose's first stage where all points are known: the task loss has labels for hidden and absent ones too.

    Its size is that of DWPose's, which averages over the bins of an axis and is multiplied by `reference_batch`, so the
    balance with the distillation is the same. The teacher stays as it is evaluated: a batch has crops of one kind
    mostly, whose statistics are not those of all.

    Args:
        student, teacher, epochs: as Stage1Distillation's.
        parts: loss weights of seen keypoints.
        absent: weight of flat rows.
    """

    def __init__(self, student: DWPose, teacher: DWPose, epochs: int, parts: dict[str, float], absent: float):
        super().__init__(student, teacher, epochs, teacher_batch_stats=False)
        self.labels = Labels(student.config.input_size, parts)
        self.absent = absent

    def _task(
        self, pred: tuple[torch.Tensor, torch.Tensor], batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        bins = sum(logits.shape[-1] for logits in pred) / len(pred)
        return self.reference_batch / bins * self.labels(pred, batch, self.absent)[0], {}


def as_batch(crops: Crops) -> dict[str, torch.Tensor]:
    """What objectives take. For the distillation a face that is turned away has no label."""
    visible = ((crops.visible > OUTSIDE) & ~turned_away(crops.keypoints, crops.visible)).float()
    return {"image": crops.image, "keypoints": crops.keypoints, "visible": visible, "flags": crops.visible}
