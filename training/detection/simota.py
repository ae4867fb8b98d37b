"""YOLOX's label assignment and losses for one class, person (Ge et al., arXiv 2107.08430, sections 2.1 and 2.2).

SimOTA decides for each person which anchor points answer for it. Candidates lie in its box or within 2.5 strides of
its centre. The cost of a pair is the classification cost plus 3 x the IoU cost, plus 1e5 where the point is not both
in the box and near the centre. The k cheapest win, where k is the sum of the person's ten best IoUs, at least 1;
a point that several people claim goes to the cheapest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dwpose_core.models.yolox import YOLOX, YOLOXHead, anchor_points

# Legend: N pictures, A anchor points over all levels, P people of one picture, M points assigned.

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
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (a, b)]
    return overlap / (areas[0] + areas[1] - overlap).clamp(min=1e-9)


@torch.no_grad()
def assign(
    people: torch.Tensor, boxes: torch.Tensor, score: torch.Tensor, cells: torch.Tensor, strides: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which anchor points answer for which person of one picture.

    Args:
        people: (P, 4) labelled boxes xyxy px; P > 0.
        boxes: (A, 4) predicted boxes xyxy px.
        score: (A,) objectness x person probability.
        cells: (A, 2) grid cell of each point; `strides`: (A, 1) px.

    Returns:
        points (M,), the person of each (M,), and the IoU of its predicted box with that person's (M,).
    """
    points = (cells + 0.5) * strides
    inside = ((points > people[:, None, :2]) & (points < people[:, None, 2:])).all(-1)  # (P, A)
    centers = (people[:, :2] + people[:, 2:]) / 2
    near = ((points - centers[:, None]).abs() < CENTER_RADIUS * strides).all(-1)
    candidate = (inside | near).any(0)
    iou = paired_iou(people[:, None], boxes) * candidate
    class_cost = -0.5 * score.clamp(min=1e-12).log()  # cross entropy of sqrt(score) against 1
    cost = class_cost - IOU_COST * (iou + 1e-8).log() + OUTSIDE_COST * ~(inside & near)
    cost = cost.masked_fill(~candidate, float("inf"))
    best = iou.topk(min(CANDIDATES, iou.shape[1]), dim=1).values
    k = best.sum(1).int().clamp(min=1)
    chosen = (cost.argsort(dim=1, stable=True).argsort(dim=1) < k[:, None]) & candidate
    cheapest = cost.argmin(0)
    several = chosen.sum(0) > 1
    chosen[:, several] = F.one_hot(cheapest[several], len(people)).T.bool()
    person, point = chosen.nonzero(as_tuple=True)
    return point, person, iou[person, point]


def losses(raw: torch.Tensor, labels: list[torch.Tensor], size: int, with_l1: bool) -> dict[str, torch.Tensor]:
    """YOLOX's losses, each a sum over the batch divided by the number of assigned points.

    Args:
        raw: (N, A, 6) from `logits`.
        labels: per picture boxes (P, 4) xyxy px.
        size: side of the square input, pixels.
        with_l1: add the distance of the raw box outputs, as YOLOX does in the last part of its training.

    Returns:
        loss, and its parts box (1 - IoU^2), objectness, person (target: the IoU), l1; and people, points per picture.
    """
    cells, strides = anchor_points((size, size), raw.device)
    boxes = decode(raw, cells, strides)
    probability = raw[..., 4].detach().sigmoid() * raw[..., 5].detach().sigmoid()
    picture, point, truth, overlap = [], [], [], []
    for n, people in enumerate(labels):
        if not len(people):
            continue
        chosen, person, iou = assign(people, boxes[n].detach(), probability[n], cells, strides)
        picture.append(torch.full_like(chosen, n))
        point.append(chosen)
        truth.append(people[person])
        overlap.append(iou)
    target = torch.zeros_like(raw[..., 4])
    parts = {name: raw[..., :4].sum() * 0.0 for name in ("box", "person", "l1")}
    if picture:
        where = torch.cat(picture), torch.cat(point)
        boxes_true, iou = torch.cat(truth), torch.cat(overlap)
        target[where] = 1.0
        parts["box"] = (1 - paired_iou(boxes[where], boxes_true) ** 2).sum()
        parts["person"] = F.binary_cross_entropy_with_logits(raw[..., 5][where], iou, reduction="sum")
        if with_l1:
            cell, stride = cells[where[1]], strides[where[1]]
            center = (boxes_true[:, :2] + boxes_true[:, 2:]) / 2 / stride - cell
            extent = ((boxes_true[:, 2:] - boxes_true[:, :2]) / stride + 1e-8).log()
            parts["l1"] = (raw[..., :4][where] - torch.cat((center, extent), dim=1)).abs().sum()
    parts["objectness"] = F.binary_cross_entropy_with_logits(raw[..., 4], target, reduction="sum")
    count = target.sum().clamp(min=1)
    parts = {name: value / count for name, value in parts.items()}
    total = BOX_WEIGHT * parts["box"] + parts["objectness"] + parts["person"] + parts["l1"]
    return {"loss": total, **parts, "points": target.sum() / len(raw)}
