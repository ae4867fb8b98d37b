"""composite.composite for whole batches on the device: layers in, training crops out.

The same picture is built in the same order (background, things and people behind, the person, people, things and plain
shapes in front, the photograph's border, light and camera, mirroring) with the shares of the same `Disturbance`, and
the labels follow the same rules. Random numbers differ, so crops agree in distribution, not one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dwpose_core.skeleton import FLIP_INDICES

from .camera import MARGIN
from .composite import BOX_PADDING, CLOSE_BEHIND, CLOSE_IN_FRONT, PHOTO_ASPECTS, Disturbance
from .labels import HIDDEN, OUTSIDE, VISIBLE
from .layer_pool import EXTENT_ALPHA, Layers, Surroundings, boxes_of
from .partial import BORDER, COVER, ENDS, FEWEST, KINDS, LEAST, MOST, SMALLEST
from .torch_photometric import Dice, blur, photometric, rows_of

# Legend: N crops, n some of them, K keypoints, h and w of a layer, H and W of a crop, in pixels.


@dataclass(frozen=True)
class Crops:
    image: torch.Tensor  # (N, H, W, 3) uint8 RGB
    keypoints: torch.Tensor  # (N, K, 2) float32 px, whole numbers are pixel centres
    visible: torch.Tensor  # (N, K) uint8


def similarity(angle: torch.Tensor, scale: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(n, 2, 3) matrices that rotate by `angle` (n,), scale by `scale` (n,) and take `source` to `target` (n, 2)."""
    c, s = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack((torch.stack((c, -s), dim=1), torch.stack((s, c), dim=1)), dim=1)
    shift = target - (linear @ source[:, :, None])[:, :, 0]
    return torch.cat((linear, shift[:, :, None]), dim=2)


def scale_of(matrix: torch.Tensor) -> torch.Tensor:
    """(n,) factors by which (n, 2, 3) similarities scale."""
    return matrix[:, :, 0].norm(dim=1)


def back(matrix: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(n, H, W, 2) where the pixels of a crop of `size` (W, H) come from, in pixels of the layer."""
    unscaled = matrix[:, :, :2] / scale_of(matrix)[:, None, None] ** 2  # its transpose is the inverse
    x, y = torch.arange(size[0], device=matrix.device), torch.arange(size[1], device=matrix.device)
    place = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).to(matrix.dtype)
    return (place - matrix[:, None, None, :, 2]) @ unscaled[:, None]


def warp(layer: torch.Tensor, matrix: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Layers (n, C, h, w) under layer-to-crop matrices (n, 2, 3) -> (n, C, H, W), 0 outside.

    Layers that shrink below 0.6 are averaged over 2 x 2 or 4 x 4 pixels first; their corners stay where they are.
    """
    source = back(matrix, size)
    limit = source.new_tensor(layer.shape[:1:-1])
    grid = (2 * source + 1) / limit - 1
    scale = scale_of(matrix)
    out = layer.new_zeros((len(layer), layer.shape[1], size[1], size[0]))
    level = (scale < 0.6).long() + (scale < 0.3)
    for shrink in range(3):
        rows = rows_of(level == shrink)
        if len(rows):
            small = F.avg_pool2d(layer[rows], 2**shrink) if shrink else layer[rows]
            out[rows] = F.grid_sample(small, grid[rows], "bilinear", "zeros", align_corners=False)
    return out


def lay_over(
    image: torch.Tensor, rows: torch.Tensor, rgba: torch.Tensor, matrix: torch.Tensor, gain: torch.Tensor | None = None
) -> torch.Tensor:
    """Warp straight-alpha layers (n, h, w, 4) over pictures `rows` (n,) of `image` (N, 3, H, W), in place.

    `gain` (n, 3) multiplies the layers' colours. Returns their alpha in the crop, (n, H, W) in 0..1.
    """
    layer = rgba.permute(0, 3, 1, 2).float()
    alpha = layer[:, 3:] / 255
    color = layer[:, :3] if gain is None else (layer[:, :3] * gain[:, :, None, None]).clamp(0, 255)
    warped = warp(torch.cat((color * alpha, alpha), dim=1), matrix, (image.shape[3], image.shape[2]))
    image[rows] = image[rows] * (1 - warped[:, 3:]) + warped[:, :3]
    return warped[:, 3]


def whole_boxes(layers: Layers) -> torch.Tensor:
    """(n, 4) left, top, right, bottom that layers are framed for, in their pixels."""
    sides = torch.tensor(layers.rgba.shape[2:0:-1], dtype=torch.float32, device=layers.rgba.device)
    half = sides / MARGIN / 2
    return torch.cat(((sides - 1) / 2 - half + 0.5, (sides - 1) / 2 + half - 0.5)).expand(len(layers), 4)


def parts(layers: Layers, share: float, dice: Dice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A part of a `share` of the people, as partial.py has it.

    Returns boxes (n, 4), of the others the whole ones; where people are cut, the photograph's border included, (n, 4);
    and what ends them, (n,): an index of ENDS, or -1 for the whole person.
    """
    count, device = len(layers), layers.rgba.device
    frame = layers.frame
    low, high = layers.box[:, :2].maximum(frame[:, :2]), layers.box[:, 2:].minimum(frame[:, 2:])
    kind = dice.pick(KINDS, count)
    least, most = (torch.as_tensor(table, dtype=torch.float32, device=device)[kind] for table in (LEAST, MOST))
    top, bottom, side = (least + (most - least) * dice.uniform(0, 1, count, 3)).unbind(1)
    left = dice.chance(0.5, count)
    first, last = torch.stack((side * left, top), dim=1), torch.stack((side * ~left, bottom), dim=1)
    limits = torch.cat(
        (
            torch.where(first > 0, low + first * (high - low), frame[:, :2]),
            torch.where(last > 0, high - last * (high - low), frame[:, 2:]),
        ),
        dim=1,
    )
    inside = (layers.keypoints >= limits[:, None, :2]) & (layers.keypoints <= limits[:, None, 2:])
    seen = (inside.all(2) & (layers.visible == VISIBLE))[:, :17].sum(1)
    chosen = rows_of(dice.chance(share, count) & (seen >= FEWEST))
    x, y = (torch.arange(layers.rgba.shape[k], device=device) for k in (2, 1))
    across, down = ((n >= limits[chosen, k, None]) & (n <= limits[chosen, k + 2, None]) for k, n in enumerate((x, y)))
    kept = layers.rgba[chosen] * (down[:, :, None] & across[:, None])[..., None]
    box, end = whole_boxes(layers).clone(), torch.full((count,), -1, device=device)
    part = boxes_of(kept, EXTENT_ALPHA)
    large = rows_of((part[:, 2:] - part[:, :2]).amax(1).ge(SMALLEST) & (kept[..., 3] > EXTENT_ALPHA).flatten(1).any(1))
    box[chosen[large]] = part[large]
    end[chosen[large]] = dice.pick(ENDS, len(large))
    return box, limits, end


def tight(
    box: torch.Tensor, size: tuple[int, int], disturb: Disturbance | None, dice: Dice | None = None
) -> torch.Tensor:
    """(n, 2, 3): crops around boxes (n, 4) of layers; undisturbed, they are centred and upright."""
    count, device = len(box), box.device
    source = (box[:, :2] + box[:, 2:]) / 2
    whole = torch.tensor(size, dtype=torch.float32, device=device)
    target = ((whole - 1) / 2).expand(count, 2)
    scale = (whole / (BOX_PADDING * (box[:, 2:] - box[:, :2] + 1))).amin(1)
    if disturb is None:
        return similarity(torch.zeros_like(scale), scale, source, target)
    angle = torch.deg2rad(dice.normal(0, 20, count).clamp(-60, 60)) * dice.chance(disturb.rotated, count)
    scale = scale * dice.normal(-0.03, 0.18, count).clamp(-0.5, 0.4).exp()
    turned = dice.chance(disturb.turned * disturb.rotated, count)
    angle = torch.where(turned, dice.uniform(-math.pi, math.pi, count), angle)
    scale = torch.where(turned, scale * fit_turned(angle, size), scale)
    return similarity(angle, scale, source, target + dice.normal(0, 0.06, count, 2) * whole)


def fit_turned(angle: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(n,): `composite.fit_turned`."""
    c, s = angle.cos().abs(), angle.sin().abs()
    width, height = size
    return (width / (width * c + height * s)).minimum(height / (width * s + height * c))


def loose(layers: Layers, size: tuple[int, int], dice: Dice) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole photograph as the box: matrices (n, 2, 3), and the photographs (n, 4) left, top, right, bottom."""
    count, frame = len(layers), layers.frame
    device = frame.device
    aspect = torch.tensor(PHOTO_ASPECTS, device=device)[dice.below(len(PHOTO_ASPECTS), count)]
    whole = torch.tensor(size, dtype=torch.float32, device=device)
    inner = whole / BOX_PADDING
    photo = torch.stack((inner[0].minimum(inner[1] * aspect), inner[1].minimum(inner[0] / aspect)), dim=1)
    low = (whole - 1) / 2 - photo / 2
    high = low + photo
    first, last = layers.box[:, :2].maximum(frame[:, :2]), layers.box[:, 2:].minimum(frame[:, 2:])
    extent = (last - first).clamp(min=4)
    room = photo * torch.stack((dice.uniform(0.8, 1.1, count), dice.uniform(0.4, 1.05, count)), dim=1)
    both = (frame[:, :2] > -1e3) & (frame[:, 2:] < 1e4)
    span = torch.where(both, photo / extent, 0).amax(1)  # cut on opposite sides, it spans the photograph
    scale = (room / extent).amin(1).maximum(span)
    covered = extent * scale[:, None]
    stray = dice.uniform(-0.5, 0.5, count, 2) * (photo - covered).clamp(min=0)
    target = low + photo / 2 + stray * torch.tensor((1.0, 0.7), device=device)
    # Where the photograph cuts the person, its border is the border of the crop's photograph too.
    target = torch.where((frame[:, 2:] < 1e4) & ~both, high - covered / 2, target)
    target = torch.where((frame[:, :2] > -1e3) & ~both, low + covered / 2, target)
    matrix = similarity(dice.normal(0, 0.04, count), scale, (first + last) / 2, target)
    return matrix, torch.cat((low, high), dim=1)


def mirrored(
    image: torch.Tensor, points: torch.Tensor, visible: torch.Tensor, flip: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, H, W) and labels with left and right exchanged where `flip` (N,)."""
    swap = torch.as_tensor(FLIP_INDICES, device=image.device)
    image = torch.where(flip.view(-1, 1, 1, 1), image.flip(3), image)
    other = points * points.new_tensor((-1, 1)) + points.new_tensor((image.shape[3] - 1, 0))
    points = torch.where(flip[:, None, None], other[:, swap], points)
    return image, points, torch.where(flip[:, None], visible[:, swap], visible)


def mirrored_in_part(rgba: torch.Tensor, dice: Dice) -> tuple[torch.Tensor, torch.Tensor]:
    """Half of the layers mirrored, and which."""
    flip = dice.chance(0.5, len(rgba))
    return torch.where(flip.view(-1, 1, 1, 1), rgba.flip(2), rgba), flip


def somebody(
    image: torch.Tensor, rows: torch.Tensor, layers: Layers, scale: torch.Tensor, closest: float, dice: Dice
) -> torch.Tensor:
    """Another person beside each subject, at least `closest` crop widths from the middle. Returns the alpha."""
    count = len(rows)
    rgba, _ = mirrored_in_part(layers.rgba[dice.below(len(layers), count)], dice)
    size = image.new_tensor((image.shape[3], image.shape[2]))
    across = 0.5 + dice.sign(count) * dice.uniform(closest, 0.85, count)
    place = size * torch.stack((across, dice.normal(0.5, 0.15, count)), dim=1)
    centre = image.new_tensor((rgba.shape[2], rgba.shape[1])) / 2
    matrix = similarity(
        dice.normal(0, 0.1, count), scale[rows] * dice.normal(-0.1, 0.35, count).exp(), centre.expand(count, 2), place
    )
    return lay_over(image, rows, rgba, matrix)


def something(
    image: torch.Tensor, rows: torch.Tensor, around: Surroundings, share: tuple[float, float], dice: Dice
) -> torch.Tensor:
    """A rendered thing anywhere, its longer side a share of the crop's height. Returns the alpha."""
    count = len(rows)
    which = dice.below(len(around.things), count)
    rgba, flip = mirrored_in_part(around.things[which], dice)
    box = around.thing_box[which]
    extent = box[:, 2:] - box[:, :2] + 1
    centre = (box[:, :2] + box[:, 2:]) / 2
    centre[:, 0] = torch.where(flip, rgba.shape[2] - 1 - centre[:, 0], centre[:, 0])
    scale = image.shape[2] * dice.uniform(*share, count) / extent.amax(1)
    angle = torch.where(dice.chance(0.7, count), dice.normal(0, 0.15, count), dice.uniform(-torch.pi, torch.pi, count))
    place = dice.uniform(0, 1, count, 2) * image.new_tensor((image.shape[3], image.shape[2]))
    return lay_over(image, rows, rgba, similarity(angle, scale, centre, place))


def occluder(count: int, size: tuple[int, int], dice: Dice) -> torch.Tensor:
    """(n, H, W) bool: an ellipse, a box, a beam, or a table across the bottom."""
    whole = torch.tensor(size, dtype=torch.float32, device=dice.device)
    kind = dice.uniform(0, 1, count)
    extent = dice.uniform(0.05, 0.35, count, 2) * whole
    beam = torch.stack((dice.uniform(0.02, 0.08, count) * size[0], torch.full_like(kind, 2.0 * size[1])), dim=1)
    extent = torch.where((kind < 0.4)[:, None], beam, extent)
    matrix = similarity(
        torch.deg2rad(dice.normal(0, 25, count)),
        torch.ones_like(kind),
        torch.zeros_like(extent),
        dice.uniform(0, 1, count, 2) * whole,
    )
    place = (back(matrix, size) / (extent / 2)[:, None, None]).abs()
    round_one = ((kind >= 0.4) & (kind < 0.6)).view(-1, 1, 1)
    mask = torch.where(round_one, place.norm(dim=-1) <= 1, place.amax(-1) <= 1)
    top = (size[1] * dice.uniform(0.55, 0.95, count)).floor()
    table = torch.arange(size[1], device=dice.device)[:, None] >= top.view(-1, 1, 1)
    return torch.where((kind < 0.2).view(-1, 1, 1), table, mask)


def beyond(matrix: torch.Tensor, frame: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(n, H, W) bool: crop pixels outside the layer's photograph border."""
    place = back(matrix, size)
    low, high = frame[:, None, None, :2], frame[:, None, None, 2:]
    return ((place < low) | (place > high)).any(-1)


def backdrop(count: int, around: Surroundings, size: tuple[int, int], dice: Dice) -> torch.Tensor:
    """(N, 3, H, W) float backgrounds, half of them mirrored, zoomed up to 1.5 times."""
    chosen = around.backgrounds[dice.below(len(around.backgrounds), count)]
    pictures = mirrored_in_part(chosen, dice)[0].permute(0, 3, 1, 2).float()
    zoom = dice.uniform(0.67, 1.0, count, 1)
    shift = dice.uniform(-1, 1, count, 2) * (1 - zoom)
    theta = torch.cat((torch.diag_embed(zoom.expand(count, 2)), shift[:, :, None]), dim=2)
    grid = F.affine_grid(theta, [count, 3, size[1], size[0]], align_corners=False)
    return F.grid_sample(pictures, grid, "bilinear", "border", align_corners=False)


@torch.no_grad()
def composite_batch(
    pool: Layers,
    index: torch.Tensor,
    around: Surroundings,
    size: tuple[int, int],
    generator: torch.Generator,
    disturb: Disturbance | None,
) -> Crops:
    """Crops of `size` (width, height) with layers `index` (N,) of the pool. Undisturbed: centred, upright, unspoilt."""
    dice, count = Dice(generator), len(index)
    layers = pool[index]
    image = backdrop(count, around, size, dice)
    device = image.device
    everyone = torch.arange(count, device=device)
    over = torch.zeros((count, size[1], size[0]), device=device)
    visible, frame = layers.visible.clone(), layers.frame
    outside = torch.zeros_like(over, dtype=torch.bool)
    if disturb is None:
        matrix = tight(whole_boxes(layers), size, None)
        lay_over(image, everyone, layers.rgba, matrix)
    else:
        kind = dice.uniform(0, 1, count)
        wide = kind < disturb.loose
        whole, photo = loose(layers, size, dice)
        box, limits, end = parts(layers, disturb.partial, dice)
        end = torch.where(wide | ((end == COVER) & (not disturb.things)), -1, end)  # then the box alone ends
        frame = torch.where((end == BORDER)[:, None], limits, frame)
        matrix = torch.where(wide[:, None, None], whole, tight(box, size, disturb, dice))
        scale = scale_of(matrix)
        rows = rows_of(dice.chance(0.5, count))
        image[rows] = blur(image[rows], dice.uniform(0.3, 3.0, len(rows)), 3.0)
        things = dice.pick((0.4, 0.25, 0.15, 0.12, 0.08), count) * disturb.things
        for k in range(4):
            something(image, rows_of(things > k), around, (0.15, 1.0), dice)
        crowded = dice.chance(disturb.crowded, count)
        people = dice.pick((0.6, 0.28, 0.12), count).maximum(crowded.long()) * disturb.people
        for k in range(2):
            for close, least in ((crowded, CLOSE_BEHIND), (~crowded, 0.25)):
                somebody(image, rows_of((people > k) & close), pool, scale, least, dice)
        empty = (kind < disturb.loose_empty) | ((kind >= disturb.loose) & (kind < disturb.loose + disturb.empty))
        visible[empty] = OUTSIDE
        rows = rows_of(~empty)
        gain = dice.uniform(0.75, 1.25, count, 1) * (1 + dice.normal(0, 0.05, count, 3))
        lay_over(image, rows, layers.rgba[rows], matrix[rows], gain[rows])
        for close, share, least in ((crowded, 0.5, CLOSE_IN_FRONT), (~crowded, 0.14 * disturb.in_front, 0.4)):
            rows = rows_of(dice.chance(share * disturb.people, count) & close)
            over[rows] = somebody(image, rows, pool, scale, least, dice)
        rows = rows_of(dice.chance(0.22 * disturb.in_front * disturb.things, count))
        over[rows] = over[rows].maximum(something(image, rows, around, (0.1, 0.5), dice))
        rows = rows_of(dice.chance(0.2 * disturb.in_front * disturb.things, count) | (end == COVER))
        ended = (end[rows] == COVER).view(-1, 1, 1)
        mask = torch.where(ended, beyond(matrix[rows], limits[rows], size), occluder(len(rows), size, dice))
        surface = around.textures[dice.below(len(around.textures), len(rows))].permute(0, 3, 1, 2).float()
        surface = F.interpolate(surface, size=size[::-1], mode="bilinear", align_corners=False)
        image[rows] = torch.where(mask[:, None], surface, image[rows])
        over[rows] = over[rows].maximum(mask.float())
        x, y = torch.arange(size[0], device=device), torch.arange(size[1], device=device)[:, None]
        left, top, right, bottom = photo[:, :, None, None].unbind(1)
        outside = wide[:, None, None] & ((x < left) | (x > right) | (y < top) | (y > bottom))
        image = photometric(image, disturb, dice)
    outside = outside | beyond(matrix, frame, size)
    image = torch.where(outside[:, None], 0, image)  # exactly black, as beyond a photograph's border
    points = layers.keypoints @ matrix[:, :, :2].transpose(1, 2) + matrix[:, None, :, 2]
    visible = relabel(points, visible, outside, over)
    if disturb is not None:
        image, points, visible = mirrored(image, points, visible, dice.chance(0.5, count))
    return Crops(image.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous(), points, visible)


def relabel(points: torch.Tensor, visible: torch.Tensor, outside: torch.Tensor, over: torch.Tensor) -> torch.Tensor:
    """Visibility (N, K) after compositing: beyond the crop or the photograph is OUTSIDE, below something is HIDDEN.

    Args:
        points: (N, K, 2) px of the crop.
        outside: (N, H, W) bool.
        over: (N, H, W) 0..1, how much is covered.
    """
    height, width = over.shape[1:]
    limit = torch.tensor((width, height), device=points.device)
    cell = points.round()
    inside = ((cell >= 0) & (cell < limit)).all(2)
    x, y = cell.minimum(limit - 1).clamp(min=0).long().unbind(2)
    at = y * width + x
    visible = torch.where(~inside | outside.flatten(1).gather(1, at), OUTSIDE, visible)
    covered = (over.flatten(1).gather(1, at) > 0.5) & (visible == VISIBLE)
    return torch.where(covered, HIDDEN, visible).to(torch.uint8)
