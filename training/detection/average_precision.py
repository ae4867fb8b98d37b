"""COCO's box AP of one class, in numpy: the rules of pycocotools without crowds and areas (arXiv 1405.0312).

Boxes are taken from the surest down, a hundred a picture, and each meets the labelled box it overlaps most among those
not met before. Precision, made to fall with recall, is read at 101 recalls; AP is its mean over ten IoU thresholds.
"""

from __future__ import annotations

import numpy as np

# Legend: G labelled boxes and P found ones of a picture, T thresholds.

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MOST = 100  # boxes per picture that count


def average_precision(truth: list[np.ndarray], found: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """ap over IoU 0.5:0.95 and ap50 of boxes (P, 4) xyxy and scores (P,) per picture, against labels (G, 4)."""
    scores, right = [np.zeros(0)], [np.zeros((len(THRESHOLDS), 0), bool)]
    for labelled, (boxes, score) in zip(truth, found, strict=True):
        order = np.argsort(-score, kind="stable")[:MOST]
        scores.append(score[order])
        right.append(_met(np.asarray(labelled, float), np.asarray(boxes, float)[order]))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.concatenate(right, axis=1)[:, order].cumsum(axis=1)
    people = sum(map(len, truth))
    if not len(order) or not people:
        return {"ap": 0.0, "ap50": 0.0}
    precision = hits / np.arange(1, len(order) + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.column_stack((precision, np.zeros(len(THRESHOLDS))))  # a recall that is never reached
    places = [np.searchsorted(row, RECALLS) for row in hits / people]
    means = np.take_along_axis(precision, np.array(places), axis=1).mean(axis=1)
    return {"ap": float(means.mean()), "ap50": float(means[0])}


def _met(labelled: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(T, P): whether each of the boxes, surest first, meets a labelled one at each threshold."""
    met = np.zeros((len(THRESHOLDS), len(boxes)), bool)
    if not len(labelled) or not len(boxes):
        return met
    low = np.maximum(boxes[:, None, :2], labelled[:, :2])
    overlap = (np.minimum(boxes[:, None, 2:], labelled[:, 2:]) - low).clip(min=0).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, labelled)]
    iou = overlap / (areas[0][:, None] + areas[1] - overlap)
    free = np.ones((len(THRESHOLDS), len(labelled)), bool)
    rows = np.arange(len(THRESHOLDS))
    for k in np.flatnonzero(iou.max(axis=1) >= THRESHOLDS[0]):
        reach = np.where(free & (iou[k] >= THRESHOLDS[:, None]), iou[k], -1.0)
        best = len(labelled) - 1 - reach[:, ::-1].argmax(axis=1)  # of equal ones the last, as pycocotools
        met[:, k] = reach[rows, best] >= 0
        free[rows[met[:, k]], best[met[:, k]]] = False
    return met
