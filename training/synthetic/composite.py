"""From stored layers to training crops: one rendered person becomes endless pictures.

Background, things and people behind, the person, people and things in front, the border of the photograph (black
beyond, as a crop over the edge of a picture is), shadows, colour, texture, blur, noise, JPEG, mirroring.
Three kinds of crop:
    tight   around the person, or a part, as a top-down detector gives it, with DWPose's rotation, scale and shift
    loose   the whole photograph as the box: the person is small and off-centre, bars above or beside the picture
    empty   nobody at all: every keypoint is outside
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dwpose_core.skeleton import FLIP_INDICES

from .backgrounds import Backgrounds
from .camera import MARGIN
from .labels import HIDDEN, OUTSIDE, VISIBLE
from .layer_store import LayerStore
from .partial import BORDER, COVER, ENDS, draw_part

BOX_PADDING = 1.25  # of top-down crops (mmpose TopdownAffine)
CLOSE_BEHIND, CLOSE_IN_FRONT = 0.12, 0.2  # least distance of others from the middle of a crowded crop, crop widths
PHOTO_ASPECTS = (16 / 9, 3 / 2, 4 / 3, 1.0, 3 / 4, 2 / 3, 9 / 16)


@dataclass(frozen=True)
class Disturbance:
    """How far crops stray from a clean, centred, upright person. Shares are of all crops."""

    loose: float = 0.25  # whole photographs
    loose_empty: float = 0.0  # of all crops; part of `loose`
    empty: float = 0.04  # of all crops; beside `loose`
    rotated: float = 0.5  # of the tight crops, by a normal angle of 20 degrees
    turned: float = 0.12  # as a share of `rotated`: by any angle, because people lie, hang and do handstands
    in_front: float = 1.0  # factor on the shares of people and things in front
    crowded: float = 0.0  # of all crops: somebody close behind, and half of the time somebody close in front
    partial: float = 0.0  # of the tight crops: around a part of the person, see partial.py
    convolved: float = 0.2
    photometric: float = 1.0  # factor on the strength of exposure, contrast, gamma and colour
    # What an ablation leaves out, one at a time.
    scenery: bool = True  # photographs, panoramas, rooms and clutter; plain colours otherwise
    people: bool = True  # others, behind and in front
    things: bool = True  # objects and plain shapes, behind and in front
    light: bool = True  # shadow, texture, exposure, contrast, gamma, colour
    camera: bool = True  # low resolution, blur, noise
    jpeg: bool = True


STRONG = Disturbance()
MILD = Disturbance(loose=0.18, empty=0.03, rotated=0.2, in_front=0.6, convolved=0.06, photometric=0.6)
# A fifth of the pictures is empty.
QUIET = Disturbance(
    loose=0.35, loose_empty=0.14, empty=0.08, rotated=0.2, in_front=0.5, convolved=0.04, photometric=0.6
)
# More than a third is empty.
VACANT = Disturbance(loose=0.4, loose_empty=0.2, empty=0.16, rotated=0.2, in_front=0.7, convolved=0.1, photometric=0.9)
# Faces and hands fill the crop: there is less to gain from whole photographs.
CLOSE = Disturbance(loose=0.15, rotated=0.7)
# Whose arm is it? The box is around one person, and others stand in it.
CROWDED = Disturbance(loose=0.0, empty=0.0, rotated=0.3, in_front=0.6, crowded=1.0)
# The box is around legs, a chest, half a body.
PARTIAL = Disturbance(loose=0.0, empty=0.0, rotated=0.3, in_front=0.6, partial=1.0)
# Where is up? Two thirds are turned by any angle.
TUMBLING = Disturbance(loose=0.0, empty=0.02, rotated=1.0, turned=0.67, in_front=0.8)


@dataclass(frozen=True)
class Crop:
    """One training picture: (h, w, 3) uint8 RGB, keypoints (133, 2) px (whole numbers are pixel centres), visible."""

    image: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray


def similarity(angle: float, scale: float, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """2x3 matrix that rotates by `angle` (radians) and scales, and takes the point `source` to `target`."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array(((c, -s), (s, c)))
    return np.column_stack((linear, np.asarray(target) - linear @ source))


def warp(picture: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`picture` under the 2x3 similarity `matrix`, in a picture of `size` (w, h), black where it is not."""
    scale = np.hypot(matrix[0, 0], matrix[0, 1])
    if scale < 0.6:  # shrink with an area filter first; warpAffine alone would alias
        smaller = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
        small = cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA)
        ratio = np.array((picture.shape[1] / small.shape[1], picture.shape[0] / small.shape[0]))
        matrix = matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ (ratio * 0.5 - 0.5)
        matrix[:, :2] = matrix[:, :2] * ratio
        picture = small
    return cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR)


def lay_over(image: np.ndarray, rgba: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Warp a straight-alpha layer over a float image. Returns the image and the layer's alpha (h, w) in 0..1."""
    layer = rgba.astype(np.float32)
    layer[..., :3] *= layer[..., 3:] / 255.0  # premultiplied while filtering: no fringes
    warped = warp(layer, matrix, (image.shape[1], image.shape[0]))
    alpha = warped[..., 3:] / 255.0
    return image * (1 - alpha) + warped[..., :3], alpha[..., 0]


def _tight(
    layer_size: tuple[int, int],
    size: tuple[int, int],
    disturb: Disturbance | None,
    rng: np.random.Generator,
    box: np.ndarray | None = None,
) -> np.ndarray:
    """Around the whole person, whom the layer was framed for, or `box`: left, top, right, bottom in its pixels."""
    centre = (np.array(layer_size) - 1) / 2
    target = (np.array(size) - 1) / 2
    scale = size[1] * MARGIN / BOX_PADDING / layer_size[1]
    if box is not None:
        centre = (box[:2] + box[2:]) / 2
        scale = (np.array(size) / (BOX_PADDING * (box[2:] - box[:2] + 1))).min()
    if disturb is None:
        return similarity(0.0, scale, centre, target)
    angle, factor, shift = draw_jitter(size, disturb.rotated, disturb.turned, rng)
    return similarity(angle, scale * factor, centre, target + shift)


def draw_jitter(
    size: tuple[int, int], rotated: float, turned: float, rng: np.random.Generator
) -> tuple[float, float, np.ndarray]:
    """How a tight crop of `size` (w, h) strays from its box: radians, factor on the scale, shift (2,) in pixels.

    `rotated` and `turned` are those of a Disturbance.
    """
    angle = np.deg2rad(np.clip(rng.normal(0, 20), -60, 60)) * (rng.random() < rotated)
    factor = np.exp(np.clip(rng.normal(-0.03, 0.18), -0.5, 0.4))
    if rng.random() < turned * rotated:
        angle = rng.uniform(-np.pi, np.pi)
        factor *= fit_turned(angle, size)
    return angle, factor, rng.normal(0, 0.06, 2) * size


def fit_turned(angle: float, size: tuple[int, int]) -> float:
    """The factor by which a rectangle of `size` (w, h) shrinks to lie in itself when turned by `angle` (radians)."""
    c, s = abs(np.cos(angle)), abs(np.sin(angle))
    width, height = size
    return min(width / (width * c + height * s), height / (width * s + height * c))


def _loose(
    alpha: np.ndarray, frame: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The whole photograph as the box -> (matrix, photograph's rectangle in the crop: left, top, right, bottom)."""
    aspect = PHOTO_ASPECTS[rng.integers(len(PHOTO_ASPECTS))]
    inner = np.array(size) / BOX_PADDING
    photo = np.array((min(inner[0], inner[1] * aspect), min(inner[1], inner[0] / aspect)))
    low = (np.array(size) - 1) / 2 - photo / 2
    high = low + photo
    rows, columns = (np.nonzero((alpha > 60).any(axis))[0] for axis in (1, 0))
    first = np.maximum((columns[0], rows[0]), frame[:2])
    last = np.minimum((columns[-1], rows[-1]), frame[2:])
    extent = np.maximum(last - first, 4)
    scale = min(photo[1] * rng.uniform(0.4, 1.05) / extent[1], photo[0] * rng.uniform(0.8, 1.1) / extent[0])
    both = (frame[:2] > -1e3) & (frame[2:] < 1e4)
    scale = max([scale, *(photo / extent)[both]])  # cut on opposite sides, it spans the photograph
    target = low + photo / 2 + (rng.uniform(-0.5, 0.5, 2) * np.maximum(photo - extent * scale, 0)) * (1.0, 0.7)
    # Where the photograph cuts the person, its border is the border of the crop's photograph too.
    for axis in np.flatnonzero(~both):
        if frame[axis] > -1e3:
            target[axis] = low[axis] + extent[axis] * scale / 2
        elif frame[axis + 2] < 1e4:
            target[axis] = high[axis] - extent[axis] * scale / 2
    return similarity(rng.normal(0, 0.04), scale, (first + last) / 2, target), np.concatenate((low, high))


def composite(
    store: LayerStore,
    index: int,
    backgrounds: Backgrounds,
    objects: list[np.ndarray],
    size: tuple[int, int],
    rng: np.random.Generator,
    disturb: Disturbance | None = STRONG,
) -> Crop:
    """A crop of `size` (width, height) with layer `index`. Undisturbed: centred, upright, on a background."""
    augment = disturb is not None
    crowded = augment and disturb.crowded > 0 and rng.random() < disturb.crowded
    rgba, visible, frame = store.rgba(index), store.visible[index].copy(), store.frame[index]
    layer_size = (rgba.shape[1], rgba.shape[0])
    kind = rng.random() if augment else 1.0
    photo, limits, end = None, None, None
    if augment and kind < disturb.loose:
        matrix, photo = _loose(rgba[..., 3], frame, size, rng)
    else:
        box = None
        if augment and disturb.partial and rng.random() < disturb.partial:
            limits, box = draw_part(rgba[..., 3], store.keypoints[index], visible, frame, rng)
            end = rng.choice(len(ENDS), p=ENDS) if box is not None else None
        matrix = _tight(layer_size, size, disturb, rng, box)
    if end == BORDER:
        frame = limits
    scale = np.hypot(matrix[0, 0], matrix[0, 1])
    points = store.keypoints[index] @ matrix[:, :2].T + matrix[:, 2]
    backdrop = backgrounds.plain if augment and not disturb.scenery else backgrounds.sample
    image = backdrop(size, rng).astype(np.float32)
    over = np.zeros(image.shape[:2], np.float32)
    if augment:
        if rng.random() < 0.5:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 3.0))
        for _ in range(disturb.things * rng.choice(5, p=(0.4, 0.25, 0.15, 0.12, 0.08))):
            image, _ = _something(objects, image, (0.15, 1.0), rng)
        others = int(rng.choice(3, p=(0.6, 0.28, 0.12)))
        for _ in range(disturb.people * max(others, int(crowded))):
            image, _ = _somebody(store, image, scale, rng, CLOSE_BEHIND if crowded else 0.25)
    if augment and (kind < disturb.loose_empty or disturb.loose <= kind < disturb.loose + disturb.empty):
        visible[:] = OUTSIDE
    else:
        person = rgba
        if augment:
            person = rgba.copy()
            gain = rng.uniform(0.75, 1.25) * (1 + rng.normal(0, 0.05, 3))
            person[..., :3] = np.clip(rgba[..., :3] * gain, 0, 255)
        image, _ = lay_over(image, person, matrix)
    if augment and rng.random() < disturb.people * (0.5 if crowded else 0.14 * disturb.in_front):
        image, over = _somebody(store, image, scale, rng, CLOSE_IN_FRONT if crowded else 0.4)
    if augment and rng.random() < 0.22 * disturb.in_front * disturb.things:
        image, mask = _something(objects, image, (0.1, 0.5), rng)
        over = np.maximum(over, mask)
    covered = augment and disturb.things and end == COVER
    if covered or (augment and rng.random() < 0.2 * disturb.in_front * disturb.things):
        mask = _beyond(matrix, limits, size).astype(np.float32) if covered else _occluder(size, rng)
        image = image * (1 - mask[..., None]) + backgrounds.texture(size, rng) * mask[..., None]
        over = np.maximum(over, mask)
    beyond = _beyond(matrix, frame, size)
    if photo is not None:
        x, y = np.arange(size[0]), np.arange(size[1])[:, None]
        beyond |= (x < photo[0]) | (x > photo[2]) | (y < photo[1]) | (y > photo[3])
    if augment:
        image = photometric(image, disturb, rng)
    image[beyond] = 0  # exactly black, as the crop of a photograph is beyond its border

    cell = np.round(points).astype(int)
    inside = ((cell >= 0) & (cell < size)).all(1)
    x, y = np.clip(cell, 0, np.array(size) - 1).T
    visible[~inside | beyond[y, x]] = OUTSIDE
    visible[(over[y, x] > 0.5) & (visible == VISIBLE)] = HIDDEN
    if augment and rng.random() < 0.5:
        image, visible = image[:, ::-1], visible[FLIP_INDICES]
        points = (np.array((size[0] - 1, 0)) + points * (-1, 1))[FLIP_INDICES]
    image = np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8))
    return Crop(image, points.astype(np.float32), visible)


def _somebody(
    store: LayerStore, image: np.ndarray, scale: float, rng: np.random.Generator, closest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Another person beside the subject, at least `closest` crop widths from the middle."""
    rgba = store.rgba(int(rng.integers(len(store))))
    if rng.random() < 0.5:
        rgba = rgba[:, ::-1]
    size = np.array(image.shape[1::-1])
    side = rng.choice((-1, 1)) * rng.uniform(closest, 0.85)
    place = size * (0.5 + side, 0.5 + rng.normal(0, 0.15))
    matrix = similarity(
        rng.normal(0, 0.1), scale * np.exp(rng.normal(-0.1, 0.35)), np.array(rgba.shape[1::-1]) / 2, place
    )
    return lay_over(image, rgba, matrix)


def _something(
    objects: list[np.ndarray], image: np.ndarray, share: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A rendered object anywhere, its longer side a share of the crop's height."""
    rgba = objects[rng.integers(len(objects))]
    if rng.random() < 0.5:
        rgba = rgba[:, ::-1]
    size = np.array(image.shape[1::-1])
    scale = size[1] * rng.uniform(*share) / max(rgba.shape[:2])
    angle = rng.normal(0, 0.15) if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi)
    matrix = similarity(angle, scale, np.array(rgba.shape[1::-1]) / 2, rng.uniform(0, 1, 2) * size)
    return lay_over(image, rgba, matrix)


def _occluder(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(h, w) mask 0..1 of something in front: an ellipse, a box, a beam, or a table across the bottom."""
    width, height = size
    mask = np.zeros((height, width), np.float32)
    kind = rng.random()
    if kind < 0.2:
        mask[int(height * rng.uniform(0.55, 0.95)) :] = 1.0
        return mask
    centre = rng.uniform(0, 1, 2) * size
    extent = rng.uniform(0.05, 0.35, 2) * size
    if kind < 0.4:
        extent = np.array((rng.uniform(0.02, 0.08) * width, height * 2.0))
    box = (tuple(centre.tolist()), tuple(extent.tolist()), float(rng.normal(0, 25)))
    if kind < 0.6:
        cv2.ellipse(mask, box, 1.0, -1)
    else:
        cv2.fillConvexPoly(mask, cv2.boxPoints(box).astype(np.int32), 1.0)
    return mask


def _beyond(matrix: np.ndarray, frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: crop pixels outside the layer's photograph border."""
    back = cv2.invertAffineTransform(matrix)
    x, y = np.arange(size[0]), np.arange(size[1])[:, None]
    u, v = (back[k, 0] * x + back[k, 1] * y + back[k, 2] for k in (0, 1))
    return (u < frame[0]) | (u > frame[2]) | (v < frame[1]) | (v > frame[3])


def photometric(image: np.ndarray, disturb: Disturbance, rng: np.random.Generator) -> np.ndarray:
    """Shadow, texture, exposure, contrast, gamma, colour, low resolution, blur, noise, JPEG; float image, 0..255."""
    if disturb.light:
        image = _light(image, disturb, rng)
    image = np.clip(image, 0, 255).astype(np.float32)
    if disturb.camera:
        image = _camera(image, rng)
    if disturb.jpeg and rng.random() < 0.35:
        quality = (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 85)))
        code = cv2.imencode(".jpg", np.clip(image, 0, 255).astype(np.uint8), quality)[1]
        image = cv2.imdecode(code, cv2.IMREAD_COLOR).astype(np.float32)
    return image


def _light(image: np.ndarray, disturb: Disturbance, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    strength = disturb.photometric
    if rng.random() < 0.3:
        image = image * _shadow((width, height), rng)
    if rng.random() < disturb.convolved:
        image = _random_convolution(image, rng)
    if rng.random() < 0.8:
        contrast = 1 + strength * (rng.uniform(0.6, 1.3) - 1)
        image = (image - 128) * contrast + 128 + strength * rng.normal(0, 18)
    if rng.random() < 0.6:
        image = image * (1 + strength * rng.normal(0, 0.1, 3))
    if rng.random() < 0.4:
        image = 255 * (np.clip(image, 0, 255) / 255) ** np.exp(strength * rng.normal(0, 0.3))
    grey = image.mean(2, keepdims=True)
    if rng.random() < 0.12 * strength:
        image = np.repeat(grey, 3, axis=2)
    elif rng.random() < 0.5:
        image = grey + (image - grey) * (1 + strength * (rng.uniform(0.3, 1.5) - 1))
    return image


def _camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    kind = rng.random()
    if kind < 0.12:
        factor = rng.uniform(0.3, 0.8)
        # By the size, as by a factor the rounded size would be sampled with another one, and labels be off.
        small = cv2.resize(image, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    elif kind < 0.35:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.8))
    elif kind < 0.42:  # motion
        length = int(rng.integers(3, 9))
        kernel = np.zeros((length, length), np.float32)
        middle = (length - 1) / 2
        direction = np.array((np.cos(a := rng.uniform(0, np.pi)), np.sin(a))) * middle
        start, end = np.round(middle - direction).astype(int), np.round(middle + direction).astype(int)
        cv2.line(kernel, start.tolist(), end.tolist(), 1.0)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    if rng.random() < 0.4:
        image = image + rng.standard_normal(image.shape, np.float32) * rng.uniform(1, 12)
    return image


def _shadow(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(h, w, 1) factor: a soft-edged polygon of shade or of light falling over everything."""
    mask = np.zeros((size[1], size[0]), np.float32)
    corners = (rng.uniform(-0.2, 1.2, (int(rng.integers(3, 6)), 2)) * size).astype(np.int32)
    cv2.fillConvexPoly(mask, cv2.convexHull(corners), 1.0)
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.7, 8.0))
    return 1 + mask[..., None] * (rng.uniform(0.35, 0.8) - 1 if rng.random() < 0.75 else rng.uniform(0.1, 0.5))


def _random_convolution(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other colours and textures, same shapes (Xu et al., arXiv 2007.13003): a random filter, mixed with the image."""
    kernel = int(rng.choice((1, 3, 5)))
    weights = rng.normal(0, 1 / np.sqrt(3 * kernel * kernel), (3, 3, kernel, kernel)).astype(np.float32)
    centred = np.ascontiguousarray(image - image.mean((0, 1)), np.float32)
    planes = [cv2.filter2D(centred[..., c], -1, weights[o, c]) for o in range(3) for c in range(3)]
    mixed = np.stack([sum(planes[3 * o : 3 * o + 3]) for o in range(3)], axis=-1)
    mixed = mixed / (mixed.std() + 1e-3) * centred.std() + image.mean()
    share = rng.uniform(0.2, 0.9)
    return image * (1 - share) + mixed * share
