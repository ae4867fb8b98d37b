"""styles.drawn for whole batches on the device: the same seven styles in the same shares, other random numbers.

Pictures are (N, 3, H, W) float32 RGB, 0..255. Medians are those of a row's medians here, because a true one sorts every
window. Painting has no mean shift, and its median is applied once or twice instead of being wider.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .styles import FAINTEST, STYLES
from .torch_photometric import Dice, blur, grey_of, rows_of

# Legend: n pictures of one style, H and W in pixels.


def neighbours(image: torch.Tensor, reach: int) -> torch.Tensor:
    """(n, (2 reach + 1)^2, 3, H, W): the pictures shifted to every place of a window, mirrored at the borders."""
    height, width = image.shape[2:]
    padded = F.pad(image, (reach,) * 4, "reflect")
    side = range(2 * reach + 1)
    return torch.stack([padded[:, :, y : y + height, x : x + width] for y in side for x in side], dim=1)


def middle(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """The second largest of three, everywhere."""
    return a.minimum(b).maximum(a.maximum(b).minimum(c))


def median(image: torch.Tensor, reach: int) -> torch.Tensor:
    """Over 2 reach + 1 pixels, 3 or 5, of a row, then of a column, mirrored at the borders."""
    for axis, padding in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        padded, side = F.pad(image, padding, "reflect"), image.shape[axis]
        taps = [padded.narrow(axis, shift, side) for shift in range(2 * reach + 1)]
        if len(taps) == 5:
            a, b, c, d, last = taps
            taps = [a.minimum(b).maximum(c.minimum(d)), a.maximum(b).minimum(c.maximum(d)), last]
        image = middle(*taps)
    return image


def smooth(image: torch.Tensor, dice: Dice) -> torch.Tensor:
    """Without fine texture, with sharp edges: a median, then a bilateral filter over 5 x 5."""
    flat = median(image, 1)
    spread = dice.uniform(20, 60, len(image), 1, 1, 1)
    around = neighbours(flat, 2)
    offset = torch.arange(5, device=image.device) - 2
    near = torch.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 3.0**2)).flatten()
    # As OpenCV's bilateral filter of colours: the distance is the sum over the channels.
    apart = (around - flat[:, None]).abs().sum(2)
    weight = torch.exp(-(apart**2) / (2 * spread**2)) * near[:, None, None]
    return (around * weight[:, :, None]).sum(1) / weight.sum(1)[:, None]


def outlines(grey: torch.Tensor, dice: Dice) -> torch.Tensor:
    """(n, 1, H, W) 0..1, dark on the darker side of edges."""
    count = len(grey)
    fine = dice.uniform(0.7, 1.5, count)
    narrow, wide = blur(grey, fine, 1.5), blur(grey, 1.6 * fine, 2.4)
    threshold, slope = (dice.uniform(*limits, count, 1, 1, 1) for limits in ((-1.0, 2.0), (0.3, 1.2)))
    return (1 + torch.tanh((narrow - 0.985 * wide - threshold) * slope)).clamp(0, 1)


def levels(values: torch.Tensor, low: int, high: int, dice: Dice) -> torch.Tensor:
    """In low .. high - 1 even steps, 0..255."""
    steps = (low - 1 + dice.below(high - low, len(values), 1, 1, 1)).float()
    return (values / 255 * steps).round() * (255 / steps)


def _cartoon(image: torch.Tensor, dice: Dice) -> torch.Tensor:
    flat = smooth(image, dice)
    colors = levels(flat, 4, 9, dice)
    mean = colors.mean(1, keepdim=True)
    colors = mean + (colors - mean) * dice.uniform(0.8, 2.0, len(image), 1, 1, 1)
    return colors * (1 - dice.uniform(0.4, 1.0, len(image), 1, 1, 1) * (1 - outlines(grey_of(flat), dice)))


def _painting(image: torch.Tensor, dice: Dice) -> torch.Tensor:
    paint = median(image, 2)
    paint = torch.where(dice.chance(0.5, len(image), 1, 1, 1), median(paint, 2), paint)
    canvas = blur(dice.normal(0, 1, len(image), 1, *image.shape[2:]), torch.ones_like(image[:, 0, 0, 0]), 1.0)
    return paint + canvas * dice.uniform(0, 40, len(image), 1, 1, 1)


def _pencil(image: torch.Tensor, dice: Dice) -> torch.Tensor:
    count, grey = len(image), grey_of(image)
    around = blur(grey, dice.uniform(2, 10, count), 10.0)
    strokes = (grey / (around + 1) * 255).clamp(0, 255) ** dice.uniform(1.0, 2.5, count, 1, 1, 1)
    strokes = strokes * 255 / strokes.amax((1, 2, 3), keepdim=True).clamp(min=1)
    strokes = strokes - dice.uniform(0, 0.5, count, 1, 1, 1) * (255 - around)
    paper = dice.uniform(0.8, 1.0, count, 3, 1, 1) * (1 + dice.normal(0, 0.03, count, 1, *image.shape[2:]))
    sketch = strokes * paper
    tinted = (image * dice.uniform(0.8, 1.4, count, 1, 1, 1)).clamp(0, 255)
    tinted = sketch.clamp(max=255) * (0.4 + 0.6 * tinted / 255)
    return torch.where(dice.chance(0.4, count, 1, 1, 1), tinted, sketch)


def _ink(image: torch.Tensor, dice: Dice) -> torch.Tensor:
    count = len(image)
    grey = blur(grey_of(image), dice.uniform(0.5, 1.5, count), 1.5)
    lit = grey.flatten(1)
    lit = torch.where(lit > 2, lit, torch.nan)  # not of black borders
    low, high = (
        lit.nanquantile(torch.tensor((0.1, 0.9), device=image.device), dim=1).nan_to_num().view(2, count, 1, 1, 1)
    )
    light = ((grey - low - dice.uniform(0.2, 0.7, count, 1, 1, 1) * (high - low)) / 12 + 0.5).clamp(0, 1)
    kind, lines = dice.uniform(0, 1, count, 1, 1, 1), outlines(grey, dice)
    light = torch.where(kind < 0.4, lines, torch.where(kind < 0.7, light.minimum(lines), light))
    coloured = dice.chance(0.5, count, 1, 1, 1)
    dark = dice.uniform(0, 70, count, 3, 1, 1) * coloured
    paper = torch.where(coloured, dice.uniform(170, 255, count, 3, 1, 1), 255.0)
    return dark + light * (paper - dark)


def _print(image: torch.Tensor, dice: Dice) -> torch.Tensor:
    count = len(image)
    angle, pitch = dice.uniform(0, math.pi, count, 1, 1, 1), dice.uniform(2.5, 5.0, count, 1, 1, 1)
    y, x = (torch.arange(side, device=image.device) * 2 * math.pi / pitch for side in image.shape[2:])
    y = y.transpose(2, 3)
    wave = torch.sin(x * angle.cos() + y * angle.sin())
    dots = (wave + torch.sin(y * angle.cos() - x * angle.sin())) / 2
    wave = torch.where(dice.chance(0.6, count, 1, 1, 1), dots, wave)
    values = torch.where(dice.chance(0.6, count, 1, 1, 1), grey_of(image), image)
    return (values / 127.5 - 1 - wave + 0.5).clamp(0, 1) * 255


def _toned(image: torch.Tensor, dice: Dice) -> torch.Tensor:
    count = len(image)
    grey = grey_of(torch.where(dice.chance(0.5, count, 1, 1, 1), smooth(image, dice), image))
    values = torch.where(dice.chance(0.5, count, 1, 1, 1), levels(grey, 3, 7, dice), grey).clamp(0, 255)
    stops = dice.uniform(0, 255, count, 4, 3).sort(1).values + dice.normal(0, 25, count, 4, 3)
    at = values / 255 * 3
    weight = (1 - (at - torch.arange(4, device=image.device).view(1, 4, 1, 1)).abs()).clamp(min=0)  # of each stop
    return torch.einsum("nshw,nsc->nchw", weight, stops)


def _negative(image: torch.Tensor, dice: Dice) -> torch.Tensor:
    return 255.0 - image


DRAW = (_cartoon, _painting, _pencil, _ink, _print, _toned, _negative)


def drawn(image: torch.Tensor, share: float, dice: Dice) -> torch.Tensor:
    """A `share` of the pictures in random styles, wholly or mixed with themselves. Pure black, as around crops, stays.

    A style that would leave an empty sheet gives the picture as it is. May change `image` in place.
    """
    count = len(image)
    style = torch.where(dice.chance(share, count), dice.pick(tuple(STYLES.values()), count), len(DRAW))
    for number, draw in enumerate(DRAW):
        rows = rows_of(style == number)
        if not len(rows):
            continue
        before = image[rows]
        mix = torch.where(dice.chance(0.6, len(rows)), 1.0, dice.uniform(0.4, 1.0, len(rows)))
        mix = torch.ones_like(mix) if draw is _negative else mix
        after = before + mix.view(-1, 1, 1, 1) * (draw(before, dice).clamp(0, 255) - before)
        lit = (before > 0).any(1, keepdim=True)
        weight = lit / lit.sum((2, 3), keepdim=True).clamp(min=1)
        mean = (after * weight).sum((1, 2, 3), keepdim=True) / 3
        spread = ((after - mean) ** 2 * weight).sum((1, 2, 3), keepdim=True).div(3).sqrt()
        image[rows] = torch.where(lit & (spread >= FAINTEST), after, before)
    return image
