"""YOLOX's label assignment and losses for one class, person (Ge et al., arXiv 2107.08430, sections 2.1 and 2.2).

SimOTA decides for each person which anchor points answer for it. Candidates lie in its box or within 2.5 strides of
its centre. The cost of a pair is the classification cost plus 3 x the IoU cost, plus 1e5 where the point is not both
in the box and near the centre. The k cheapest win, where k is the sum of the person's ten best IoUs, at least 1;
a point that several people claim goes to the cheapest.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from dwpose_core.models.yolox import YOLOX, YOLOXHead, anchor_points

# Legend: N pictures, A anchor points over all levels, P rows for the people of a picture.

CENTER_RADIUS = 2.5  # strides
CANDIDATES = 10  # best IoUs whose sum is k
IOU_COST = 3.0
OUTSIDE_COST = 1e5
BOX_WEIGHT = 5.0
PRIOR = 0.01  # of an untrained point being a person; keeps thousands of empty points from drowning the first steps


def initialize(net: YOLOX) -> None:
    """Set the biases of objectness and class so that both start at PRIOR."""
    for predictor in (*net.head.obj_preds, *net.head.cls_preds):
        torch.nn.init.constant_(predictor.bias, -torch.log(torch.tensor(1 / PRIOR - 1)).item())


def logits(head: YOLOXHead, maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The raw output (N, A, 6) on the maps of the backbone, before the sigmoid: centre, size, objectness, person.

    float32, whatever the maps are.
    """
    outputs = []
    for level, x in enumerate(maps):
        x = head.stems[level](x)
        person = head.cls_preds[level](head.cls_convs[level](x))
        boxes = head.reg_convs[level](x)
        outputs.append(torch.cat((head.reg_preds[level](boxes), head.obj_preds[level](boxes), person), dim=1))
    return torch.cat([out.flatten(2) for out in outputs], dim=2).transpose(1, 2).float()


def decode(raw: torch.Tensor, cells: torch.Tensor, strides: torch.Tensor) -> torch.Tensor:
    """Raw centre and size (..., 4) of anchor points -> boxes xyxy in input pixels."""
    center = (raw[..., :2] + cells) * strides
    half = raw[..., 2:4].clamp(max=10.0).exp() * strides / 2  # e^10 strides is far beyond any picture
    return torch.cat((center - half, center + half), dim=-1)


def paired_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU of boxes (..., 4) xyxy, with broadcasting."""
    (left, top, right, bottom), (other_left, other_top, other_right, other_bottom) = a.unbind(-1), b.unbind(-1)
    width = (torch.minimum(right, other_right) - torch.maximum(left, other_left)).clamp(min=0)
    height = (torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)).clamp(min=0)
    overlap = width * height
    area = (right - left).clamp(min=0) * (bottom - top).clamp(min=0)
    other = (other_right - other_left).clamp(min=0) * (other_bottom - other_top).clamp(min=0)
    return overlap / (area + other - overlap).clamp(min=1e-9)


class Assignment(NamedTuple):
    """Per anchor point: taken (N, A) bool; the row of its person (N, A), 0 where not taken; their IoU (N, A)."""

    taken: torch.Tensor
    person: torch.Tensor
    iou: torch.Tensor


@torch.no_grad()
def assign(
    people: torch.Tensor, boxes: torch.Tensor, score: torch.Tensor, cells: torch.Tensor, strides: torch.Tensor
) -> Assignment:
    """Which anchor points answer for which person, in all pictures at once and without a wait for the device.

    Args:
        people: (N, P, 4) labelled boxes xyxy px; rows without extent are nobody; P > 0.
        boxes: (N, A, 4) predicted boxes xyxy px.
        score: (N, A) objectness x person probability.
        cells: (A, 2) grid cell of each point; `strides`: (A, 1) px.
    """
    x, y = ((cells + 0.5) * strides).unbind(1)
    radius = CENTER_RADIUS * strides[:, 0]
    left, top, right, bottom = people[..., None].unbind(2)  # (N, P, 1) each
    real = right > left
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)  # (N, P, A)
    near = ((x - (left + right) / 2).abs() < radius) & ((y - (top + bottom) / 2).abs() < radius)
    candidate = ((inside | near) & real).any(1, keepdim=True) & real
    iou = paired_iou(people[:, :, None], boxes[:, None]) * candidate
    class_cost = -0.5 * score.clamp(min=1e-12).log()  # cross entropy of sqrt(score) against 1
    cost = class_cost[:, None] - IOU_COST * (iou + 1e-8).log() + OUTSIDE_COST * ~(inside & near)
    cost = cost.masked_fill(~candidate, float("inf"))
    most = min(CANDIDATES, len(cells))
    k = iou.topk(most, dim=2).values.sum(2, keepdim=True).int().clamp(min=1)
    # No IoU exceeds 1, so k does not exceed `most` and the k cheapest are among as many.
    cheapest = cost.topk(most, dim=2, largest=False).indices
    wins = (torch.arange(most, device=k.device) < k).expand_as(cheapest)
    chosen = torch.zeros_like(candidate).scatter(2, cheapest, wins) & candidate
    person = torch.where(chosen.sum(1) > 1, cost.argmin(1), chosen.byte().argmax(1))
    return Assignment(chosen.any(1), person, iou.gather(1, person[:, None])[:, 0])


def losses(raw: torch.Tensor, people: torch.Tensor, size: int, with_l1: bool) -> dict[str, torch.Tensor]:
    """YOLOX's losses, each a sum over the batch divided by the number of assigned points.

    Args:
        raw: (N, A, 6) from `logits`.
        people: (N, P, 4) labelled boxes xyxy px; rows of zeros are nobody.
        size: side of the square input, pixels.
        with_l1: add the distance of the raw box outputs, as YOLOX does in the last part of its training.

    Returns:
        loss, and its parts box (1 - IoU^2), objectness, person (target: the IoU), l1; and points per picture.
    """
    cells, strides = anchor_points((size, size), raw.device)
    boxes = decode(raw, cells, strides)
    probability = raw[..., 4].detach().sigmoid() * raw[..., 5].detach().sigmoid()
    taken, person, iou = assign(people, boxes.detach(), probability, cells, strides)
    truth = people.gather(1, person[..., None].expand(-1, -1, 4))  # (N, A, 4)

    # Everywhere, and zero where no person is: fewer rows would have to be counted first, for which the host waits.
    def total(values: torch.Tensor) -> torch.Tensor:
        return values.masked_fill(~taken, 0.0).sum()

    parts = {
        "box": total(1 - paired_iou(boxes, truth) ** 2),
        "person": total(F.binary_cross_entropy_with_logits(raw[..., 5], iou, reduction="none")),
        "objectness": F.binary_cross_entropy_with_logits(raw[..., 4], taken.float(), reduction="sum"),
    }
    if with_l1:
        center = (truth[..., :2] + truth[..., 2:]) / 2 / strides - cells
        extent = ((truth[..., 2:] - truth[..., :2]) / strides + 1e-8).log()
        parts["l1"] = total((raw[..., :4] - torch.cat((center, extent), dim=-1)).abs().sum(-1))
    else:
        parts["l1"] = raw.new_zeros(())
    points = taken.sum()
    parts = {name: value / points.clamp(min=1) for name, value in parts.items()}
    loss = BOX_WEIGHT * parts["box"] + parts["objectness"] + parts["person"] + parts["l1"]
    return {"loss": loss, **parts, "points": points / len(raw)}
