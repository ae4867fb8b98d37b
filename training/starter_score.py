"""How the starter model is judged while it trains, and how its scores are scaled."""

from __future__ import annotations

import numpy as np
import torch

from dwpose_core.models.rtmcc import DWPose
from dwpose_core.simcc import decode
from dwpose_core.skeleton import PARTS

from .objectives import normalize
from .starter_batches import resized
from .synthetic.composite import BOX_PADDING
from .synthetic.labels import OUTSIDE, VISIBLE
from .synthetic.pool import CropPool

TYPICAL_TORSO = 0.3  # of the geometric mean of a box's sides, as in benchmarks.photographs


@torch.no_grad()
def predict(net: DWPose, pool: CropPool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints found (n, 133, 2) and true (n, 133, 2) in pixels of the network's input, and scores (n, 133)."""
    found, truth, scores = [], [], []
    for start in range(0, len(pool), 50):
        part = slice(start, start + 50)
        images, points = resized(pool.images[part], pool.keypoints[part], net.config.input_size)
        xy, score = decode(*net(normalize(torch.from_numpy(np.array(images)))))  # a copy: torch takes no read-only map
        found.append(xy.numpy())
        truth.append(points)
        scores.append(score.numpy())
    return np.concatenate(found), np.concatenate(truth), np.concatenate(scores)


def measure(net: DWPose, pool: CropPool) -> dict[str, float | None]:
    """Body PCK@0.2 torso, mean error of seen face and hand points over the part's longer side, score separation.

    `cut_body_pck` is that of people whose torso is not all in the crop, with TYPICAL_TORSO of its box. `score_auc` is
    the chance that a seen body point scores higher than one outside the crop. None for what the crops have no examples
    of, bodies where all are of a hand alone, say.
    """
    found, truth, score = predict(net, pool)
    hits, cut_hits, errors = [], [], {"face": [], "hand": []}
    typical = TYPICAL_TORSO * np.sqrt(np.prod(net.config.input_size)) / BOX_PADDING
    for xy, points, visible in zip(found, truth, pool.visible, strict=True):
        distance = np.linalg.norm(xy - points, axis=-1)
        inside = visible[:17] > OUTSIDE
        if inside[[5, 6, 11, 12]].all():
            torso = max(np.linalg.norm(points[5] - points[12]), np.linalg.norm(points[6] - points[11]))
            hits += (distance[:17][inside] < 0.2 * torso).tolist()
        else:
            cut_hits += (distance[:17][inside] < 0.2 * typical).tolist()
        for name, where in (("face", "face"), ("hand", "left_hand"), ("hand", "right_hand")):
            seen = visible[PARTS[where]] == VISIBLE
            if seen.sum() >= 8:
                extent = np.ptp(points[PARTS[where]][seen], axis=0).max()
                errors[name].append(distance[PARTS[where]][seen].mean() / extent)
    inside, outside = (score[:, :17][pool.visible[:, :17] == kind] for kind in (VISIBLE, OUTSIDE))
    auc = None
    if len(inside) and len(outside):
        auc = float(np.searchsorted(np.sort(outside), inside).mean() / len(outside))
    medians = {f"{name}_nme": float(np.median(values)) if values else None for name, values in errors.items()}
    body = {"body_pck": hits, "cut_body_pck": cut_hits}
    shares = {name: float(np.mean(values)) if values else None for name, values in body.items()}
    return shares | medians | {"score_auc": auc}


def calibrate(net: DWPose, pool: CropPool) -> float:
    """Scale the scores in place so that 0.3, the field's usual threshold, is the balanced one. Returns the factor.

    Balanced: as large a share of the seen body points falls below as of those outside the crop lies above. A network
    trained this briefly is unsure of everything, and its raw scores are low. Keypoints do not move. Nothing is scaled
    where the crops lack one kind of point, or the balanced score is not above 0.
    """
    score = predict(net, pool)[2][:, :17]
    seen, outside = (np.sort(score[pool.visible[:, :17] == kind]) for kind in (VISIBLE, OUTSIDE))
    if not len(seen) or not len(outside):
        return 1.0
    missed = np.searchsorted(seen, seen) / len(seen)
    false = 1 - np.searchsorted(outside, seen) / len(outside)
    balanced = float(seen[np.abs(missed - false).argmin()])
    if balanced <= 0:
        return 1.0
    factor = 0.3 / balanced
    with torch.no_grad():
        net.head.cls_x.weight *= factor
        net.head.cls_y.weight *= factor
    return factor
