"""The 133 COCO-WholeBody keypoints of a posed body, and which of them the camera sees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from dwpose_core.skeleton import KEYPOINT_NAMES, NUM_KEYPOINTS, PARTS

from .body import BodyModel, Posed, Shape

KEYPOINT_RULES = Path(__file__).with_name("keypoints133.json")
OUTSIDE, HIDDEN, VISIBLE = 0, 1, 2  # beyond the picture, behind something, seen
OCCLUDED = 3  # in scenes: behind another person or a thing; HIDDEN is then behind the own body only

# How far (dm) behind the rendered surface a keypoint may lie and still count as seen. Joints lie inside the body, and
# the body inside its clothes.
SEEN_WITHIN = np.full(NUM_KEYPOINTS, 0.35)
SEEN_WITHIN[5:17] = 1.5
SEEN_WITHIN[PARTS["foot"]] = 0.45
SEEN_WITHIN[PARTS["left_hand"]] = SEEN_WITHIN[PARTS["right_hand"]] = 0.3
SEEN_WITHIN[[9, 10, 91, 112]] = 0.7  # wrists, in the body and in the hand


class KeypointRules:
    """Keypoints as means of mesh vertices or ends of bones, some pushed away from another bone, as `path` says."""

    def __init__(self, model: BodyModel, path: Path = KEYPOINT_RULES):
        table = json.loads(path.read_text())
        if len(table["keypoints"]) != len(KEYPOINT_NAMES):
            raise ValueError(f"{path} has {len(table['keypoints'])} keypoints, expected {len(KEYPOINT_NAMES)}")
        rows, columns, values = [], [], []
        self.bone_ends: list[tuple[int, int, bool]] = []  # keypoint, bone, at its tail
        self.pushes: list[tuple[int, int, float]] = []  # keypoint, bone it is pushed away from, share of the distance
        for k, rule in enumerate(table["keypoints"]):
            if "vertex_mean" in rule:
                chosen = rule["vertex_mean"]
                rows += [k] * len(chosen)
                columns += chosen
                values += [1 / len(chosen)] * len(chosen)
            else:
                tail = "bone_tail" in rule
                self.bone_ends.append((k, model.bone[rule["bone_tail" if tail else "bone_head"]], tail))
            if "push" in rule:
                self.pushes.append((k, model.bone[rule["push_from"]], rule["push"]))
        self.surface = sp.csr_matrix((values, (rows, columns)), shape=(NUM_KEYPOINTS, len(model.base)))

    def locate(self, shape: Shape, posed: Posed) -> np.ndarray:
        """(133, 3) positions in dm."""
        points = self.surface @ posed.vertices
        for k, bone, tail in self.bone_ends:
            along = posed.rotations[bone] @ (shape.tails[bone] - shape.heads[bone]) if tail else 0.0
            points[k] = posed.positions[bone] + along
        for k, bone, share in self.pushes:
            points[k] += share * (points[k] - posed.positions[bone])
        return points


def visibility(
    pixels: np.ndarray, distance: np.ndarray, surface: np.ndarray, size: tuple[int, int], frame: np.ndarray
) -> np.ndarray:
    """OUTSIDE, HIDDEN or VISIBLE per keypoint, (K,) uint8.

    Args:
        pixels: (K, 2) in the layer of `size` (width, height); whole numbers are pixel centres.
        distance: (K,) dm along the view axis.
        surface: (h, w) distance image of the rendered layer in dm, at any resolution.
        frame: left, top, right, bottom of the photograph's border in layer pixels.
    """
    rows, columns = surface.shape
    cell = np.floor((pixels + 0.5) * (columns / size[0], rows / size[1])).astype(int)
    within = ((cell >= 0) & (cell < (columns, rows))).all(1)
    within &= ((pixels >= frame[:2]) & (pixels <= frame[2:])).all(1)
    flags = np.where(within, HIDDEN, OUTSIDE).astype(np.uint8)
    x, y = cell[within].T
    flags[within] += (distance[within] < surface[y, x] + SEEN_WITHIN[within]).astype(np.uint8)
    return flags
