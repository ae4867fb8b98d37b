"""Augmentation of RTMPose and DWPose in numpy and OpenCV: all geometry in one warp, then colour, blur and a hole.

The order is the original's (mmpose 1.x configs `rtmpose-*_coco-ubody`): flip, half body, random box, affine, HSV
jitter, blur, median blur, coarse dropout. `plan` draws the geometry without looking at pixels, so that the image can be
decoded at a reduced size when the crop is small; `augment` does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dwpose_core.geometry import PADDING, crop_matrix, warp_affine
from dwpose_core.skeleton import FLIP_INDICES, LOWER_BODY, UPPER_BODY

# Legend: K keypoints, H and W of the crop, h and w of the image.

KERNELS = (3, 5, 7)  # of both blurs, drawn evenly (albumentations' blur_limit=7)


@dataclass(frozen=True)
class AugmentConfig:
    """Probabilities and ranges. The defaults are the early pipeline of the t, s, m and l configs."""

    flip: float = 0.5  # probability
    half_body: float = 0.3  # probability, of people with at least 9 visible keypoints
    shift: float = 0.16  # of the padded box, truncated normal
    shift_probability: float = 0.3
    scale: tuple[float, float] = (0.6, 1.4)  # of the padded box
    rotation: float = 80.0  # degrees, truncated normal
    rotation_probability: float = 0.6
    hsv: tuple[float, float, float] = (5.0, 30.0, 30.0)  # largest change of H (0..179), S and V (0..255)
    blur: float = 0.1  # probability
    median_blur: float = 0.1  # probability
    cutout: float = 1.0  # probability of one black rectangle
    cutout_size: tuple[float, float] = (0.2, 0.4)  # its sides as a fraction of the crop's

    def __post_init__(self) -> None:
        chances = ("flip", "half_body", "shift_probability", "rotation_probability", "blur", "median_blur", "cutout")
        for name in chances:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, got {getattr(self, name):g}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is LOWEST,HIGHEST such as 0.6,1.4, got {','.join(map(str, self.scale))}")
        if len(self.cutout_size) != 2 or not 0 <= self.cutout_size[0] <= self.cutout_size[1] <= 1:
            pair = ",".join(map(str, self.cutout_size))
            raise ValueError(f"cutout_size is LOWEST,HIGHEST of the crop's side such as 0.2,0.4, got {pair}")
        if len(self.hsv) != 3 or min(self.hsv) < 0:
            raise ValueError(f"hsv is three numbers such as 5,30,30, got {','.join(map(str, self.hsv))}")


NO_AUGMENT = AugmentConfig(
    flip=0,
    half_body=0,
    shift_probability=0,
    scale=(1, 1),
    rotation_probability=0,
    hsv=(0, 0, 0),
    blur=0,
    median_blur=0,
    cutout=0,
)


@dataclass(frozen=True, eq=False)
class CropPlan:
    """Where one crop comes from. `matrix` (2, 3) maps image pixels to crop pixels, the flip included."""

    matrix: np.ndarray
    keypoints: np.ndarray  # (K, 2) float32, crop pixels, left and right already swapped when flipped
    visible: np.ndarray  # (K,) float32
    input_size: tuple[int, int]

    def reduction(self) -> int:
        """The largest of 1, 2, 4, 8 that the image can shrink by without having to be enlarged for the crop."""
        zoom = abs(np.linalg.det(self.matrix[:, :2])) ** 0.5
        return max(k for k in (1, 2, 4, 8) if k == 1 or zoom * k <= 1)


def truncated_normal(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size,) draws of a standard normal conditioned on [-1, 1] (scipy's truncnorm(-1, 1)), by rejection."""
    values = rng.standard_normal(size)
    while (outside := np.abs(values) > 1).any():
        values[outside] = rng.standard_normal(int(outside.sum()))
    return values


def half_body_box(keypoints: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre (2,) and scale (2,) of a box around keypoints `ids`: their mean, and their extent times 1.5."""
    points = keypoints[ids]
    return points.mean(axis=0), (points.max(axis=0) - points.min(axis=0)) * 1.5


def choose_half(visible: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Ids of the upper or lower body to crop to, or None when neither shows enough.

    Needs 9 visible keypoints of the 133, then 2 upper or 3 lower body joints; where both halves have enough, the upper
    one is taken with probability 0.7 (mmpose `RandomHalfBody` defaults).
    """
    if (visible > 0).sum() < 9:
        return None
    upper = np.array([i for i in UPPER_BODY if visible[i] > 0])
    lower = np.array([i for i in LOWER_BODY if visible[i] > 0])
    prefer_upper = rng.random() < 0.7
    if len(upper) < 2 and len(lower) < 3:
        return None
    if len(lower) < 3:
        return upper
    if len(upper) < 2:
        return lower
    return upper if prefer_upper else lower


def random_box(
    center: np.ndarray, scale: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Shifted centre (2,), scaled scale (2,) and rotation in degrees (mmpose `RandomBBoxTransform`)."""
    draws = truncated_normal(rng, 4)
    rotation = 0.0
    if rng.random() < config.shift_probability:
        center = center + draws[:2] * config.shift * scale
    if rng.random() < config.rotation_probability:
        rotation = float(draws[3]) * config.rotation
    low, high = config.scale
    return center, scale * (low + (high - low) * (draws[2] + 1) / 2), rotation


def plan(
    box: np.ndarray,
    keypoints: np.ndarray,
    visible: np.ndarray,
    image_size: tuple[int, int],
    input_size: tuple[int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> CropPlan:
    """Draw the geometry of one sample.

    box (4,) xyxy, keypoints (K, 2) and visible (K,) in image pixels; image_size (h, w); input_size (H, W).
    """
    box, keypoints = box.astype(np.float64), keypoints.astype(np.float64)
    center, scale = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * PADDING
    mirror = np.eye(3)
    if rng.random() < config.flip:
        mirror[0] = (-1, 0, image_size[1] - 1)
        keypoints, visible = (keypoints * (-1, 1) + (image_size[1] - 1, 0))[FLIP_INDICES], visible[FLIP_INDICES]
        center = center * (-1, 1) + (image_size[1] - 1, 0)
    if rng.random() < config.half_body and (ids := choose_half(visible, rng)) is not None:
        center, scale = half_body_box(keypoints, ids)
    center, scale, rotation = random_box(center, scale, config, rng)
    aspect = input_size[1] / input_size[0]
    width = max(scale[0], scale[1] * aspect, 1.0)  # two joints can share a pixel: never less than one pixel wide
    matrix = crop_matrix(center[None], np.array([[width, width / aspect]]), input_size, rotation)[0]
    keypoints = keypoints @ matrix[:, :2].T + matrix[:, 2]
    return CropPlan(matrix @ mirror, keypoints.astype(np.float32), visible.astype(np.float32), input_size)


def augment(
    image: np.ndarray, reduce: int, crop: CropPlan, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Warp and disturb: image (h, w, 3) uint8 RGB, decoded at 1 / `reduce` -> crop (H, W, 3), keypoints, visible."""
    # Pixel i of the reduced image covers pixels k*i .. k*i + k - 1, so its centre is k*i + (k - 1) / 2.
    grow = np.array([[reduce, 0, (reduce - 1) / 2], [0, reduce, (reduce - 1) / 2], [0, 0, 1]])
    pixels = warp_affine(image, crop.matrix @ grow, crop.input_size)
    gains = (rng.uniform(-1, 1, 3) * config.hsv).astype(int) * (rng.random(3) < 0.5)
    if gains.any():
        pixels = hsv_jitter(pixels, gains)
    if rng.random() < config.blur:
        kernel = int(rng.choice(KERNELS))
        pixels = cv2.blur(pixels, (kernel, kernel))
    if rng.random() < config.median_blur:
        pixels = cv2.medianBlur(pixels, int(rng.choice(KERNELS)))
    if rng.random() < config.cutout:
        cut_hole(pixels, config.cutout_size, rng)
    return pixels, crop.keypoints, crop.visible


def hsv_jitter(image: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Add `gains` (3,) to hue (cyclic, 0..179), saturation and value (clipped) of an RGB image, as YOLOX."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    levels = np.arange(256)
    tables = np.stack(
        ((levels + gains[0]) % 180, np.clip(levels + gains[1], 0, 255), np.clip(levels + gains[2], 0, 255)), axis=-1
    ).astype(np.uint8)
    return cv2.cvtColor(cv2.LUT(hsv, tables[None]), cv2.COLOR_HSV2RGB)


def cut_hole(image: np.ndarray, size: tuple[float, float], rng: np.random.Generator) -> None:
    """Blacken one rectangle in place, each side a random fraction in `size` of the image's."""
    height, width = (int(side * rng.uniform(*size)) for side in image.shape[:2])
    y = int(rng.integers(0, image.shape[0] - height + 1))
    x = int(rng.integers(0, image.shape[1] - width + 1))
    image[y : y + height, x : x + width] = 0
