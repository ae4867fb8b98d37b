"""Triangles to pixels in plain torch: many meshes at once, on any device, the same result on every run.

1. Every triangle is projected; the box of pixels it may cover gives its candidates. Most triangles of a person cover
   one to four pixels, so candidates are one ragged list (`repeat_interleave`), not a padded grid per triangle.
2. A candidate whose centre lies in its triangle and that survives the cut (hems, holes in hair textures) is a fragment.
3. The nearest opaque fragment of a pixel is the minimum of (distance, triangle number) packed in one int64. A minimum
   does not depend on the order, so the result is reproducible on a GPU too. Equal distances: the first drawn wins.
4. Translucent fragments (hair, brows, lashes) in front of it are peeled off the same way, nearest first, PEELS times.
Shading comes after that, once per fragment that is seen (shading.py).

Raster coordinates: x right, y down, pixel i has its centre at i + 0.5. Distances are dm along the view axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .camera import FAR, NEAR

# Legend: B pictures, V vertices, T triangles, F fragments, all pictures together.

PEELS = 2  # translucent layers per pixel; strands of hair behind a third one do not show
BORDER = -1e-5  # barycentric coordinate that still counts as inside: no cracks between neighbours
EMPTY = torch.iinfo(torch.int64).max
HIGHEST = 0x7FFFFFFF  # bits of positive floats are ordered as the floats are


@dataclass(frozen=True)
class Triangles:
    """Triangles ready to be rasterised; one row each, those that touch no pixel are left out."""

    corner: torch.Tensor  # (T, 3) vertex numbers
    picture: torch.Tensor  # (T,) which of the B pictures
    low: torch.Tensor  # (T, 2) first pixel column and row of the box
    extent: torch.Tensor  # (T, 2) columns and rows of the box
    plane: torch.Tensor  # (T, 6) barycentric 0 and 1 as (per column, per row, at the centre of pixel `low`)
    inverse: torch.Tensor  # (T, 3) 1 / distance of the corners, which is linear on the screen
    front: torch.Tensor  # (T,) bool, seen from its front
    number: torch.Tensor  # (T,) row in what was given: the drawing order


@dataclass(frozen=True)
class Fragments:
    """Where triangles are seen: rows of `Triangles`, flat pixel numbers (b * H + y) * W + x, 1 / distance."""

    triangle: torch.Tensor
    pixel: torch.Tensor
    inverse: torch.Tensor


def set_up(
    xy: torch.Tensor, distance: torch.Tensor, corner: torch.Tensor, picture: torch.Tensor, size: tuple[int, int]
) -> Triangles:
    """Clip boxes and barycentric planes.

    Args:
        xy: (V, 2) raster coordinates.
        distance: (V,).
        corner: (T, 3) int64 vertex numbers.
        picture: (T,) int64.
        size: width and height of every picture.
    """
    points, depth = xy[corner], distance[corner]
    limit = xy.new_tensor(size)
    # A centre lies at i + 0.5. Boxes far outside would overflow integers, so they are clamped as floats.
    low = (points.amin(1) - 0.5).ceil().clamp(min=0).minimum(limit)
    high = (points.amax(1) - 0.5).floor().clamp(min=-1).minimum(limit - 1)
    ab, ac = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    # A triangle that reaches behind the near plane is dropped whole: cameras keep away from bodies.
    keep = (high >= low).all(1) & (area != 0) & (depth > NEAR).all(1) & (depth < FAR).all(1)
    number = keep.nonzero()[:, 0]
    points, depth, low, high, area = points[number], depth[number], low[number], high[number], area[number]
    first = low + 0.5
    rows = []
    for k in (0, 1):  # barycentric k is the area towards the edge that faces corner k
        start, end = points[:, (k + 1) % 3], points[:, (k + 2) % 3]
        edge = end - start
        slope_x, slope_y = -edge[:, 1] / area, edge[:, 0] / area
        rows += [slope_x, slope_y, (first[:, 0] - start[:, 0]) * slope_x + (first[:, 1] - start[:, 1]) * slope_y]
    return Triangles(
        corner=corner[number],
        picture=picture[number],
        low=low.long(),
        extent=(high - low).long() + 1,
        plane=torch.stack(rows, dim=1),
        inverse=1 / depth,
        front=area < 0,  # y points down, so counter-clockwise is negative
        number=number,
    )


def barycentric(triangles: Triangles, rows: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(F, 3) screen-space barycentric coordinates of pixel columns and rows `x`, `y` (F,) in triangles `rows`."""
    low, plane = triangles.low[rows], triangles.plane[rows]
    right, down = (x - low[:, 0]).to(plane.dtype), (y - low[:, 1]).to(plane.dtype)
    first = plane[:, 0] * right + plane[:, 1] * down + plane[:, 2]
    second = plane[:, 3] * right + plane[:, 4] * down + plane[:, 5]
    return torch.stack((first, second, 1 - first - second), dim=1)


def perspective(triangles: Triangles, rows: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(F, 3) weights of the corners that interpolate attributes linearly in space, also beyond the triangle."""
    share = barycentric(triangles, rows, x, y) * triangles.inverse[rows]
    return share / share.sum(1, keepdim=True)


def _chunks(triangles: Triangles, most: int) -> list[tuple[int, int]]:
    """Ranges of triangles with at most `most` candidates each (or one triangle)."""
    total = triangles.extent.prod(1).cumsum(0).cpu()
    ranges, start, done = [], 0, 0
    while start < len(total):
        end = max(int(torch.searchsorted(total, done + most, right=True)), start + 1)
        ranges.append((start, end))
        start, done = end, int(total[end - 1])
    return ranges


def _candidates(triangles: Triangles, start: int, end: int, size: tuple[int, int]) -> Fragments:
    """Pixels whose centres lie in triangles start .. end."""
    extent = triangles.extent[start:end]
    count = extent.prod(1)
    device = count.device
    rows = torch.repeat_interleave(torch.arange(start, end, device=device), count)
    before = torch.repeat_interleave(count.cumsum(0) - count, count)
    within = torch.arange(len(rows), device=device) - before
    columns = triangles.extent[rows, 0]
    x = triangles.low[rows, 0] + within % columns
    y = triangles.low[rows, 1] + torch.div(within, columns, rounding_mode="floor")
    weights = barycentric(triangles, rows, x, y)
    keep = (weights.amin(1) >= BORDER).nonzero()[:, 0]
    rows, weights = rows[keep], weights[keep]
    pixel = (triangles.picture[rows] * size[1] + y[keep]) * size[0] + x[keep]
    return Fragments(rows, pixel, (weights * triangles.inverse[rows]).sum(1))


def _select(fragments: Fragments, keep: torch.Tensor) -> Fragments:
    return Fragments(fragments.triangle[keep], fragments.pixel[keep], fragments.inverse[keep])


def _join(parts: list[Fragments]) -> Fragments:
    columns = ([getattr(part, name) for part in parts] for name in ("triangle", "pixel", "inverse"))
    return Fragments(*(torch.cat(column) for column in columns))


def _keys(fragments: Fragments) -> torch.Tensor:
    """(F,) int64, smaller is nearer, then drawn first. Rows of `Triangles` keep the drawing order."""
    bits = fragments.inverse.contiguous().view(torch.int32).long()
    return ((HIGHEST - bits) << 32) | fragments.triangle


def _unpack(nearest: torch.Tensor) -> Fragments:
    """The fragments that won, from the keys of all pixels."""
    pixel = (nearest != EMPTY).nonzero()[:, 0]
    key = nearest[pixel]
    inverse = (HIGHEST - (key >> 32)).int().view(torch.float32)
    return Fragments(key & 0xFFFFFFFF, pixel, inverse)


def rasterize(
    triangles: Triangles,
    pictures: int,
    size: tuple[int, int],
    translucent: torch.Tensor,
    cut: Callable[[Fragments], torch.Tensor],
    chunk: int = 1 << 23,
) -> list[Fragments]:
    """What is seen, from back to front: the opaque surface, then up to PEELS translucent layers.

    Args:
        triangles: from `set_up`.
        pictures, size: B and (width, height).
        translucent: (T,) bool per row of `triangles`.
        cut: fragments -> (F,) bool, those that are really there (hems, holes in textures).
        chunk: candidates handled at once; bounds the memory (about 200 bytes each).
    """
    device = triangles.plane.device
    pixels = pictures * size[0] * size[1]
    nearest = torch.full((pixels,), EMPTY, device=device)
    waiting = []
    for start, end in _chunks(triangles, chunk):
        found = _candidates(triangles, start, end, size)
        found = _select(found, cut(found).nonzero()[:, 0])
        through = translucent[found.triangle]
        waiting.append(_select(found, through.nonzero()[:, 0]))
        solid = _select(found, (~through).nonzero()[:, 0])
        nearest.scatter_reduce_(0, solid.pixel, _keys(solid), "amin")
    layers = [_unpack(nearest)]
    if not waiting:
        return layers
    rest = _join(waiting)
    keys = _keys(rest)
    ahead = (keys < nearest[rest.pixel]).nonzero()[:, 0]
    pixel, keys = rest.pixel[ahead], keys[ahead]
    peeled = []
    for _ in range(PEELS):
        nearest = torch.full((pixels,), EMPTY, device=device)
        nearest.scatter_reduce_(0, pixel, keys, "amin")
        peeled.append(_unpack(nearest))
        behind = (keys != nearest[pixel]).nonzero()[:, 0]
        pixel, keys = pixel[behind], keys[behind]
    return layers + peeled[::-1]
