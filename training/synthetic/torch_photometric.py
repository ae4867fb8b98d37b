"""Batched picture disturbances on the device: what composite.photometric does to one crop with OpenCV.

Pictures are (N, 3, H, W) float32 RGB, 0..255. Every function decides per picture, from a torch.Generator.
"""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F

from .composite import Disturbance

# Legend: N pictures, n those that a step applies to, H and W in pixels.

# Annex K of ITU-T T.81, the tables of every common JPEG encoder.
LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99, *(99,) * 32),
)
LUMA = (0.299, 0.587, 0.114)  # BT.601
LOW_RESOLUTIONS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


class Dice:
    """Random numbers of one generator, on its device."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator
        self.device = generator.device

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator, device=self.device)

    def normal(self, mean: float, spread: float, *shape: int) -> torch.Tensor:
        return mean + spread * torch.randn(shape, generator=self.generator, device=self.device)

    def below(self, limit: int, *shape: int) -> torch.Tensor:
        return torch.randint(limit, shape, generator=self.generator, device=self.device)

    def chance(self, share: float, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device) < share

    def sign(self, *shape: int) -> torch.Tensor:
        return self.below(2, *shape) * 2.0 - 1.0

    def pick(self, shares: tuple[float, ...], count: int) -> torch.Tensor:
        """(count,) numbers 0 .. len(shares) - 1, drawn with these shares."""
        edges = torch.tensor(shares, device=self.device).cumsum(0)[:-1]
        return torch.bucketize(self.uniform(0, 1, count), edges, right=True)


def rows_of(mask: torch.Tensor) -> torch.Tensor:
    return mask.nonzero()[:, 0]


def grey_of(image: torch.Tensor) -> torch.Tensor:
    """(N, 1, H, W)."""
    return (image * torch.tensor(LUMA, device=image.device).view(3, 1, 1)).sum(1, keepdim=True)


def blur(image: torch.Tensor, sigma: torch.Tensor, largest: float) -> torch.Tensor:
    """Gaussian blur with a `sigma` (n,) per picture, none above `largest`, mirrored at the borders."""
    count, channels, height, width = image.shape
    if not count:
        return image
    reach = min(int(3 * largest + 0.999), height - 1, width - 1)
    x = torch.arange(-reach, reach + 1, device=image.device)
    kernel = torch.exp(-(x**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    planes = image.reshape(1, count * channels, height, width)
    for shape, padding in (((1, -1), (reach, reach, 0, 0)), ((-1, 1), (0, 0, reach, reach))):
        weight = kernel.view(count * channels, 1, *shape)
        planes = F.conv2d(F.pad(planes, padding, "reflect"), weight, groups=count * channels)
    return planes.view(image.shape)


def _shadow(count: int, size: tuple[int, int], dice: Dice) -> torch.Tensor:
    """(n, 1, H, W) factors: soft-edged convex polygons of shade or of light."""
    step = 4  # shadows are soft: a quarter of the resolution is enough
    width, height = -(-size[0] // step), -(-size[1] // step)
    # The hull of five points is the union of their triangles. Repeating a corner makes hulls of three and four.
    corners = dice.uniform(-0.2, 1.2, count, 5, 2) * torch.tensor((width, height), device=dice.device)
    sides = 3 + dice.below(3, count, 1)
    number = torch.arange(5, device=dice.device).minimum(sides - 1)
    corners = corners.gather(1, number[..., None].expand(-1, -1, 2))
    y, x = torch.meshgrid(
        torch.arange(height, device=dice.device), torch.arange(width, device=dice.device), indexing="ij"
    )
    mask = torch.zeros((count, height, width), dtype=torch.bool, device=dice.device)
    for triple in combinations(range(5), 3):
        turns = []
        for k in range(3):
            a, b = corners[:, triple[k], :, None, None], corners[:, triple[(k + 1) % 3], :, None, None]
            turns.append((b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (b[:, 1] - a[:, 1]) * (x - a[:, 0]))
        turned = torch.stack(turns)
        mask |= (turned > 0).all(0) | (turned < 0).all(0)
    soft = blur(mask[:, None].float(), dice.uniform(0.7, 8.0, count) / step, 8.0 / step)
    soft = F.interpolate(soft, size=size[::-1], mode="bilinear", align_corners=False)
    dark = dice.chance(0.75, count)
    change = torch.where(dark, dice.uniform(0.35, 0.8, count) - 1, dice.uniform(0.1, 0.5, count))
    return 1 + soft * change[:, None, None, None]


def _random_convolution(image: torch.Tensor, dice: Dice) -> torch.Tensor:
    """Other colours and textures, same shapes (Xu et al., arXiv 2007.13003): a random filter, mixed with the image."""
    count = len(image)
    if not count:
        return image
    kernel = 2 * dice.below(3, count) + 1  # 1, 3 or 5, in the middle of 5
    offset = (torch.arange(5, device=image.device) - 2).abs()
    used = torch.maximum(offset[:, None], offset)[None] <= (kernel // 2)[:, None, None]
    weights = dice.normal(0, 1, count, 3, 3, 5, 5) * used[:, None, None] / (3**0.5 * kernel.view(-1, 1, 1, 1, 1))
    centred = image - image.mean((2, 3), keepdim=True)
    # A product with unfolded patches: cuDNN would look for its fastest way anew for every number of pictures.
    patches = F.unfold(F.pad(centred, (2, 2, 2, 2), "reflect"), 5)
    mixed = (weights.view(count, 3, 75) @ patches).view(image.shape)
    scale = centred.flatten(1).std(1) / (mixed.flatten(1).std(1) + 1e-3)
    mixed = mixed * scale.view(-1, 1, 1, 1) + image.mean((1, 2, 3), keepdim=True)
    share = dice.uniform(0.2, 0.9, count, 1, 1, 1)
    return image * (1 - share) + mixed * share


def _light(image: torch.Tensor, disturb: Disturbance, dice: Dice) -> torch.Tensor:
    count, strength = len(image), disturb.photometric
    size = (image.shape[3], image.shape[2])
    rows = rows_of(dice.chance(0.3, count))
    image[rows] = image[rows] * _shadow(len(rows), size, dice)
    rows = rows_of(dice.chance(disturb.convolved, count))
    image[rows] = _random_convolution(image[rows], dice)

    def some(share: float, values: torch.Tensor, neutral: float) -> torch.Tensor:
        """Values (N, channels or 1) for a share of the pictures, the neutral one for the others."""
        chosen = dice.chance(share, count, 1)
        return torch.where(chosen, values, torch.full_like(values, neutral))[:, :, None, None]

    chosen = dice.chance(0.8, count, 1, 1, 1)
    contrast = 1 + strength * (dice.uniform(0.6, 1.3, count, 1, 1, 1) - 1)
    image = torch.where(chosen, (image - 128) * contrast + 128 + strength * dice.normal(0, 18, count, 1, 1, 1), image)
    image = image * some(0.6, 1 + strength * dice.normal(0, 0.1, count, 3), 1.0)
    chosen = dice.chance(0.4, count, 1, 1, 1)
    gamma = torch.exp(strength * dice.normal(0, 0.3, count, 1, 1, 1))
    image = torch.where(chosen, 255 * (image.clamp(0, 255) / 255) ** gamma, image)
    grey = image.mean(1, keepdim=True)
    saturation = some(0.5, 1 + strength * (dice.uniform(0.3, 1.5, count, 1) - 1), 1.0)
    saturation = torch.where(dice.chance(0.12 * strength, count, 1, 1, 1), 0 * saturation, saturation)
    return grey + (image - grey) * saturation


def _motion(count: int, dice: Dice) -> torch.Tensor:
    """(n, 9, 9) kernels of straight motion over 3 to 8 pixels."""
    angle, half = dice.uniform(0, torch.pi, count, 1, 1), (dice.below(6, count, 1, 1) + 2) / 2
    offset = torch.arange(-4, 5, device=dice.device)
    along = offset * angle.cos() + offset[:, None] * angle.sin()
    across = offset * angle.sin() - offset[:, None] * angle.cos()
    kernel = (1 - across.abs()).clamp(min=0) * (half + 0.5 - along.abs()).clamp(0, 1)
    return kernel / kernel.sum((1, 2), keepdim=True)


def _camera(image: torch.Tensor, dice: Dice) -> torch.Tensor:
    count = len(image)
    kind = dice.uniform(0, 1, count)
    factor = torch.where(kind < 0.12, dice.below(len(LOW_RESOLUTIONS), count), -1)
    size = image.shape[2:]
    for number, share in enumerate(LOW_RESOLUTIONS):
        rows = rows_of(factor == number)
        if len(rows):
            small = F.interpolate(image[rows], size=[round(side * share) for side in size], mode="area")
            image[rows] = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
    rows = rows_of((kind >= 0.12) & (kind < 0.35))
    image[rows] = blur(image[rows], dice.uniform(0.3, 1.8, len(rows)), 1.8)
    rows = rows_of((kind >= 0.35) & (kind < 0.42))
    if len(rows):
        kernel = _motion(len(rows), dice).repeat_interleave(3, 0)[:, None]
        planes = F.pad(image[rows].reshape(1, len(rows) * 3, *size), (4, 4, 4, 4), "reflect")
        image[rows] = F.conv2d(planes, kernel, groups=len(rows) * 3).view(len(rows), 3, *size)
    rows = rows_of(dice.chance(0.4, count))
    image[rows] = image[rows] + dice.normal(0, 1, len(rows), *image.shape[1:]) * dice.uniform(1, 12, len(rows), 1, 1, 1)
    return image


def jpeg(image: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Through JPEG's losses: colour at half the resolution, DCT of 8 x 8 blocks quantised for `quality` (n,) 1..100."""
    height, width = image.shape[2:]
    image = F.pad(image.clamp(0, 255).round(), (0, -width % 16, 0, -height % 16), "replicate")
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None]
    k = torch.arange(8, device=image.device)
    cosine = torch.cos((2 * k + 1) * k[:, None] * torch.pi / 16) / 2
    cosine[0] /= 2**0.5
    red, _, blue = image.unbind(1)
    luma = grey_of(image)[:, 0]
    chroma = torch.stack(((blue - luma) / 1.772, (red - luma) / 1.402), dim=1)
    planes = []
    for plane, table in ((luma[:, None] - 128, LUMINANCE), (F.avg_pool2d(chroma, 2), CHROMINANCE)):
        steps = (
            ((torch.tensor(table, device=image.device) * scale + 50) / 100)
            .floor()
            .clamp(1, 255)
            .view(-1, 1, 1, 1, 8, 8)
        )
        blocks = plane.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (n, c, rows, columns, 8, 8)
        blocks = cosine.T @ ((cosine @ blocks @ cosine.T / steps).round() * steps) @ cosine
        planes.append(blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3))
    luma = planes[0][:, 0] + 128
    blue, red = F.interpolate(planes[1], scale_factor=2, mode="bilinear", align_corners=False).unbind(1)
    rgb = (luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue)
    return torch.stack(rgb, dim=1).clamp(0, 255)[:, :, :height, :width]


def photometric(image: torch.Tensor, disturb: Disturbance, dice: Dice) -> torch.Tensor:
    """Light, camera and JPEG as far as `disturb` asks for them. May change `image` in place."""
    if disturb.light:
        image = _light(image, disturb, dice)
    image = image.clamp(0, 255)
    if disturb.camera:
        image = _camera(image, dice)
    if disturb.jpeg:
        rows = rows_of(dice.chance(0.35, len(image)))
        image[rows] = jpeg(image[rows], 20.0 + dice.below(65, len(rows)))
    return image
