"""Which part of a person a box is around, where it is not around the whole.

Photographs cut people anywhere and things cover them, and a detector's box is then around what is left: legs without a
head, a chest between two people, half a body at the border. DWPose trains for that with boxes around the upper or the
lower body (mmpose `RandomHalfBody`). Here the person may really end there, at the border of the photograph or behind
something. `torch_composite.parts` does the same for batches.
"""

from __future__ import annotations

import numpy as np

from .camera import UNLIMITED
from .labels import VISIBLE

# Share of each kind, and how much of the box is cut off, least and most, at the top, the bottom, and one of the sides.
KINDS = (0.4, 0.25, 0.15, 0.2)
LEAST = np.array(((0.12, 0.0, 0.0), (0.0, 0.25, 0.0), (0.1, 0.2, 0.0), (0.0, 0.0, 0.25)))
MOST = np.array(((0.6, 0.0, 0.0), (0.0, 0.7, 0.0), (0.35, 0.45, 0.0), (0.0, 0.0, 0.6)))
ENDS = (0.45, 0.25, 0.3)  # the person ends at the border of the photograph, behind something, or only the box does
BORDER, COVER = 0, 1
SMALLEST = 24.0  # px of a part's longer side in the layer; less becomes a blur
FEWEST = 3  # keypoints of the body that are seen


def draw_limits(box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What is kept of `box` (4,), left, top, right, bottom in px; likewise, and far away on the sides that stay."""
    kind = rng.choice(len(KINDS), p=KINDS)
    top, bottom, side = rng.uniform(LEAST[kind], MOST[kind])
    left = rng.random() < 0.5
    cut = np.array((side * left, top, side * (not left), bottom))
    return np.where(cut > 0, box + cut * np.tile(box[2:] - box[:2], 2) * (1, 1, -1, -1), UNLIMITED)


def within(points: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Which points (n, 2) lie between `limits`, (n,) bool."""
    return ((points >= limits[:2]) & (points <= limits[2:])).all(1)


def tells_enough(points: np.ndarray, visible: np.ndarray, limits: np.ndarray) -> bool:
    """Whether the part between `limits` shows whose it is, by keypoints (133, 2) px and their flags (133,)."""
    return int((within(points, limits) & (visible == VISIBLE))[:17].sum()) >= FEWEST


def box_of(alpha: np.ndarray, limits: np.ndarray) -> np.ndarray | None:
    """First column and row, last column and row of what is drawn of a layer (h, w) between `limits`; None if small."""
    x, y = np.arange(alpha.shape[1]), np.arange(alpha.shape[0])
    columns, rows = ((n >= limits[k]) & (n <= limits[k + 2]) for k, n in enumerate((x, y)))
    part = (alpha > 60) & columns & rows[:, None]  # as in layer_pool.EXTENT_ALPHA
    drawn = [np.flatnonzero(part.any(axis)) for axis in (0, 1)]
    if not len(drawn[0]) or max(np.ptp(line) for line in drawn) < SMALLEST:
        return None
    return np.array([line[k] for k in (0, -1) for line in drawn], float)


def draw_part(
    alpha: np.ndarray, points: np.ndarray, visible: np.ndarray, frame: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Where the person of a layer is cut, the photograph's `frame` (4,) included, and the box of what is left.

    Both left, top, right, bottom in pixels of `alpha` (h, w); None twice where too little would be left.
    """
    whole = box_of(alpha, frame)
    if whole is None:
        return None, None
    drawn = draw_limits(whole, rng)
    limits = np.concatenate((np.maximum(drawn[:2], frame[:2]), np.minimum(drawn[2:], frame[2:])))
    box = box_of(alpha, limits) if tells_enough(points, visible, limits) else None
    return (None, None) if box is None else (limits, box)
