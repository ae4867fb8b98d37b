"""What is minimised on rendered people, whose hidden and absent points are known: small_simcc's parts put together."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dwpose_core.models.rtmcc import DWPose
from dwpose_core.simcc import label_sigma

from .objectives import SimCCObjective, normalize
from .small_simcc import HeatmapAid, heatmap_loss, label_table, loss_weights, simcc_loss, stage_features, turned_away
from .synthetic.labels import OUTSIDE
from .synthetic.torch_composite import Crops


class LabelObjective(SimCCObjective):
    """SimCC cross entropy with flat rows for points outside, and the heat-map aid where it takes part.

    Args:
        student: the network that learns.
        parts: loss weights of seen keypoints.
        at: what `set_epoch` is called with -> (weight of flat rows, whether the aid takes part).
    """

    def __init__(self, student: DWPose, parts: dict[str, float], at: Callable[[int], tuple[float, bool]]):
        super().__init__(student)
        self.parts, self.at = parts, at
        self.aid = HeatmapAid(student)
        size = student.config.input_size
        for axis, (length, sigma) in enumerate(zip(size[::-1], label_sigma(size), strict=True)):
            self.register_buffer(f"table_{axis}", label_table(2 * length, sigma), persistent=False)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.absent, self.aided = self.at(epoch)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        features = stage_features(self.student, normalize(batch["image"]))
        logits = self.student.head(features[-1])
        maps = self.aid(features) if self.aided else None
        device = batch["image"].device
        # The small tensors these functions make belong on the device, and their sums in full precision.
        with torch.autocast(device.type, enabled=False), torch.device(device):
            weight, absent = loss_weights(batch["keypoints"], batch["flags"], self.absent, self.parts)
            task = simcc_loss(logits, (self.table_0, self.table_1), batch["keypoints"], weight, absent)
            loss = task if maps is None else task + heatmap_loss(maps, batch["keypoints"], weight)
        return {"loss": loss, "loss_task": task.detach()}


def as_batch(crops: Crops) -> dict[str, torch.Tensor]:
    """What objectives take. For the distillation a face that is turned away has no label."""
    visible = ((crops.visible > OUTSIDE) & ~turned_away(crops.keypoints, crops.visible)).float()
    return {"image": crops.image, "keypoints": crops.keypoints, "visible": visible, "flags": crops.visible}
