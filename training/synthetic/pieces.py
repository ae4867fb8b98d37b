"""Pieces of photographs with outlines of their own: real texture that ends at an edge, as everything does in a busy
photograph, and is nobody.

A photograph is cut along its edges into some two hundred regions (watershed, Meyer 1994, from random seeds); those that
lie mostly in a random ellipse are one piece. Without them a rendered person's outline is nearly the only sharp one
around photographic texture, and a detector learns that.
"""

from __future__ import annotations

import cv2
import numpy as np

LONGEST = 640  # px of a photograph from which pieces are cut
SEEDS = 220  # regions of a photograph
RADIUS = (0.08, 0.35)  # of the ellipse, over the photograph's shorter side
LENGTHENED = 0.4  # standard deviation of the logarithm of its aspect
EXTENT = (0.06, 0.4)  # longer side of a pasted piece over that of the picture
LARGEST_ZOOM = 1.3  # of a piece's pixels; more would blur it
LEAST = 60  # px of area


class Pieces:
    """Cuts pieces out of `photos` (RGB uint8) and lays them over pictures; regions are found once per photograph."""

    def __init__(self, photos: list[np.ndarray]):
        self.photos = photos
        self._cut: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def lay(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Lay one piece somewhere over `image` (h, w, 3), uint8 or float, in place; its alpha (h, w) float32."""
        height, width = image.shape[:2]
        alpha = np.zeros((height, width), np.float32)
        colours, mask = self._piece(rng)
        if not len(mask):
            return alpha
        extent = np.exp(rng.uniform(*np.log(EXTENT))) * max(width, height)
        zoom = min(extent / max(mask.shape), LARGEST_ZOOM)
        colours, mask = _turned(colours, mask, zoom, float(rng.normal(0, 15)))
        if rng.random() < 0.5:
            colours, mask = colours[:, ::-1], mask[:, ::-1]
        gain = rng.uniform(0.7, 1.25) * np.exp(rng.normal(0, 0.06, 3))
        high, wide = mask.shape
        left, top = (rng.uniform(0, 1, 2) * (width, height) - np.array((wide, high)) / 2).astype(int)
        x, y = max(left, 0), max(top, 0)
        right, bottom = min(left + wide, width), min(top + high, height)
        if right <= x or bottom <= y:
            return alpha
        inside = np.s_[y - top : bottom - top, x - left : right - left]
        share = mask[inside][..., None]
        below = image[y:bottom, x:right]
        below[:] = np.clip(below * (1 - share) + colours[inside] * gain * share, 0, 255).astype(image.dtype)
        alpha[y:bottom, x:right] = mask[inside]
        return alpha

    def _piece(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Colours (h, w, 3) uint8 and mask (h, w) uint8 of 0 and 1, of one piece; empty where nothing was hit."""
        image, regions = self._regions(int(rng.integers(len(self.photos))))
        height, width = regions.shape
        radius = np.exp(rng.uniform(*np.log(RADIUS))) * min(width, height)
        stretch = np.exp(rng.normal(0, LENGTHENED))
        centre = rng.uniform(0.1, 0.9, 2) * (width, height)
        ellipse = np.zeros((height, width), np.uint8)
        axes = (2 * radius * stretch, 2 * radius / stretch)
        cv2.ellipse(ellipse, (tuple(centre.tolist()), axes, float(rng.uniform(0, 180))), 1, -1)
        size = np.bincount(regions.ravel())
        hit = np.bincount(regions.ravel(), weights=ellipse.ravel())
        kept = hit > 0.5 * np.maximum(size, 1)
        kept[0] = False  # the seams between regions, closed below
        mask = cv2.morphologyEx(kept[regions].astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if mask.sum() < LEAST:
            return image[:0], mask[:0]
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return image[part], mask[part]

    def _regions(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Photograph `k` and the number of each pixel's region, (h, w) int32, 0 on seams."""
        if k not in self._cut:
            photo = self.photos[k]
            scale = min(1.0, LONGEST / max(photo.shape))
            image = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            height, width = image.shape[:2]
            markers = np.zeros((height, width), np.int32)
            # Of the photograph alone, so that pieces do not depend on which were cut before.
            rng = np.random.default_rng(k)
            for number, (x, y) in enumerate(rng.uniform(0, 1, (SEEDS, 2)) * (width - 4, height - 4) + 2):
                cv2.circle(markers, (int(x), int(y)), 2, number + 1, -1)
            cv2.watershed(cv2.bilateralFilter(image, 7, 40, 5), markers)
            self._cut[k] = image, np.maximum(markers, 0)
        return self._cut[k]


def _turned(colours: np.ndarray, mask: np.ndarray, zoom: float, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Colours float32 and mask float32 0..1, zoomed and turned about the middle, as large as that needs."""
    method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    size = tuple(max(3, round(side * zoom)) for side in mask.shape[::-1])
    colours = cv2.resize(colours, size, interpolation=method)
    mask = cv2.resize(mask * np.float32(1), size, interpolation=method)
    turn = cv2.getRotationMatrix2D(((size[0] - 1) / 2, (size[1] - 1) / 2), degrees, 1.0)
    spans = np.ceil(np.abs(turn[:, :2]) @ size).astype(int) + 2
    turn[:, 2] += (spans - np.array(size)) / 2
    spans = tuple(spans.tolist())
    # Colours go on beyond the piece: black from outside would be mixed into its outline.
    colours = cv2.warpAffine(colours, turn, spans, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    return colours, np.minimum(cv2.warpAffine(mask, turn, spans), 1)  # rounding may pass 1
