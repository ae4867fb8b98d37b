"""Photographs turned into drawings: what a network reads from outlines must not hang on photographic texture.

Control maps are drawn from paintings, comics and sketches too. A style changes every pixel and moves none, so labels
stay as they are. Pictures are (H, W, 3) uint8 RGB; one of 192 x 256 takes 1 to 4 ms.
"""

from __future__ import annotations

import cv2
import numpy as np

FAINTEST = 12.0  # spread of the values of a drawing, of 255


def _smooth(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Without fine texture, with sharp edges."""
    flat = cv2.medianBlur(image, int(rng.choice((3, 5, 7))))
    return cv2.bilateralFilter(flat, 5, rng.uniform(20, 60), 3)


def _outlines(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W) float32 0..1, dark where brightness changes: the darker side of edges, as a pen would draw them."""
    fine = rng.uniform(0.7, 1.5)
    narrow, wide = (cv2.GaussianBlur(grey, (0, 0), fine * k).astype(np.float32) for k in (1.0, 1.6))
    edge = 1 + np.tanh((narrow - 0.985 * wide - rng.uniform(-1.0, 2.0)) * rng.uniform(0.3, 1.2))
    return np.clip(edge, 0, 1)


def _levels(values: np.ndarray, count: int) -> np.ndarray:
    """Brightness or colours in `count` even steps, 0..255."""
    return np.round(values.astype(np.float32) / 255 * (count - 1)) * (255 / (count - 1))


def _cartoon(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flat colours, more vivid ones, black outlines."""
    flat = _smooth(image, rng)
    grey = cv2.cvtColor(flat, cv2.COLOR_RGB2GRAY)
    colors = _levels(flat, int(rng.integers(4, 9)))
    mean = colors.mean(-1, keepdims=True)
    colors = mean + (colors - mean) * rng.uniform(0.8, 2.0)
    return colors * (1 - rng.uniform(0.4, 1.0) * (1 - _outlines(grey, rng)[..., None]))


def _painting(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Patches of even colour with a little canvas."""
    paint = cv2.medianBlur(image, int(rng.choice((5, 7, 9))))
    paint = cv2.pyrMeanShiftFiltering(paint, 4, 20, maxLevel=1) if rng.random() < 0.3 else paint
    canvas = cv2.GaussianBlur(rng.normal(0, 1, image.shape[:2]).astype(np.float32), (0, 0), 1.0)
    return paint + (canvas * rng.uniform(0, 40))[..., None]


def _pencil(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey strokes on paper, coloured at times: brightness over its own surroundings."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    around = cv2.GaussianBlur(grey, (0, 0), rng.uniform(2, 10)).astype(np.float32)
    strokes = np.clip(grey / (around + 1) * 255, 0, 255) ** rng.uniform(1.0, 2.5)
    strokes = strokes * (255 / max(strokes.max(), 1))
    strokes = strokes - rng.uniform(0, 0.5) * (255 - around)  # shading
    paper = rng.uniform(0.8, 1.0, 3) * (1 + rng.normal(0, 0.03, (*grey.shape, 1)))
    sketch = strokes[..., None] * paper
    if rng.random() < 0.4:
        tinted = image.astype(np.float32) * rng.uniform(0.8, 1.4)
        sketch = np.minimum(sketch, 255) * (0.4 + 0.6 * np.clip(tinted, 0, 255) / 255)
    return sketch


def _ink(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two colours: lines, or light and shade, or both."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), rng.uniform(0.5, 1.5))
    low, high = np.quantile(grey[grey > 2] if (grey > 2).any() else grey, (0.1, 0.9))  # not of black borders
    light = np.clip((grey.astype(np.float32) - low - rng.uniform(0.2, 0.7) * (high - low)) / 12 + 0.5, 0, 1)
    kind = rng.random()
    if kind < 0.4:
        light = _outlines(grey, rng)
    elif kind < 0.7:
        light = np.minimum(light, _outlines(grey, rng))
    dark, paper = (rng.uniform(0, 70, 3), rng.uniform(170, 255, 3)) if rng.random() < 0.5 else ((0,) * 3, (255,) * 3)
    return np.array(dark) + light[..., None] * (np.array(paper) - dark)


def _print(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A halftone or an engraving: brightness as the width of dots or lines."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(2.5, 5.0)
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]] * (2 * np.pi / pitch)
    wave = np.sin(x * np.cos(angle) + y * np.sin(angle))
    if rng.random() < 0.6:
        wave = (wave + np.sin(y * np.cos(angle) - x * np.sin(angle))) / 2
    share = np.clip((grey[..., None] if rng.random() < 0.6 else image) / 127.5 - 1 - wave[..., None] + 0.5, 0, 1)
    return np.broadcast_to(share * 255, image.shape)


def _toned(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness mapped to random colours from dark to light, in steps or smoothly; sepia is one of these."""
    grey = cv2.cvtColor(_smooth(image, rng) if rng.random() < 0.5 else image, cv2.COLOR_RGB2GRAY)
    values = _levels(grey, int(rng.integers(3, 7))) if rng.random() < 0.5 else grey.astype(np.float32)
    stops = np.sort(rng.uniform(0, 255, (4, 3)), axis=0)
    stops = stops + rng.normal(0, 25, stops.shape)
    at = values / 255 * 3
    low = np.clip(at.astype(int), 0, 2)
    return stops[low] + (at - low)[..., None] * (stops[low + 1] - stops[low])


def _negative(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 255.0 - image


STYLES = {
    _cartoon: 0.3,
    _painting: 0.2,
    _pencil: 0.15,
    _ink: 0.1,
    _print: 0.05,
    _toned: 0.17,
    _negative: 0.03,
}


def drawn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`image` (H, W, 3) uint8 in a random style, wholly or mixed with itself. Pure black, as around crops, stays.

    A style that would leave an empty sheet (ink on a dark picture can) gives the picture as it is.
    """
    style = list(STYLES)[rng.choice(len(STYLES), p=list(STYLES.values()))]
    share = 1.0 if style is _negative or rng.random() < 0.6 else rng.uniform(0.4, 1.0)
    mixed = np.clip(image + share * (np.clip(style(image, rng), 0, 255) - image), 0, 255)
    black = (image == 0).all(-1)
    if black.all():
        return image
    mixed[black] = 0
    return image if mixed[~black].std() < FAINTEST else mixed.astype(np.uint8)
