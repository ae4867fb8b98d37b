"""Finished crops on the training device, varied anew each time they are drawn: starter_batches for whole batches.

A scene rendered as a whole takes a core 0.3 to 0.4 s, so its crops are seen several times: zoomed, covered, recoloured
and mirrored differently each time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dwpose_core.skeleton import NUM_KEYPOINTS

from .labels import HIDDEN, OUTSIDE, VISIBLE
from .ring import Ring
from .torch_composite import Crops, mirrored
from .torch_photometric import Dice, grey_of

# Shares of all crops; the starter's batches have them too.
ZOOMED, PATCHED, GREY, GAINED, SHIFTED = 0.5, 0.2, 0.08, 0.6, 0.5


class CropBank(Ring[Crops]):
    """A ring of at most `capacity` crops of `size` (W, H) on one device."""

    def __init__(self, capacity: int, size: tuple[int, int], device: torch.device | str):
        whole = Crops(
            image=torch.zeros((capacity, size[1], size[0], 3), dtype=torch.uint8, device=device),
            keypoints=torch.zeros((capacity, NUM_KEYPOINTS, 2), device=device),
            visible=torch.zeros((capacity, NUM_KEYPOINTS), dtype=torch.uint8, device=device),
        )
        super().__init__(whole)

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Crops:
        """`count` random crops, varied, at `size` (W, H)."""
        dice = Dice(generator)
        index, others = dice.below(len(self), count), dice.below(len(self), count)
        return vary(self.rows(index), self.whole.image[others], size, dice)


def vary(crops: Crops, others: torch.Tensor, size: tuple[int, int], dice: Dice) -> Crops:
    """A piece of `others` (N, H, W, 3) in front, another window, other colours, mirrored half of the time."""
    image, others = (x.permute(0, 3, 1, 2).float() for x in (crops.image, others))
    image, visible = patched(image, others, crops.keypoints, crops.visible, dice)
    image, points, visible = zoomed(image, crops.keypoints, visible, size, dice)
    image = recoloured(image, dice)
    image, points, visible = mirrored(image, points, visible, dice.chance(0.5, len(image)))
    return Crops(image.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous(), points, visible)


def zoomed(
    image: torch.Tensor, points: torch.Tensor, visible: torch.Tensor, size: tuple[int, int], dice: Dice
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A window of 0.78 to 1 of the sides of half of the pictures (N, 3, h, w), at `size` (W, H).

    What lies beyond the window is outside.
    """
    count = len(image)
    before, after = image.new_tensor(image.shape[:1:-1]), image.new_tensor(size)
    zoom = torch.where(dice.chance(ZOOMED, count), dice.uniform(0.78, 1.0, count), 1.0)[:, None]
    shift = dice.uniform(-1, 1, count, 2) * (1 - zoom)  # of the middle, in half sides
    theta = torch.cat((torch.diag_embed(zoom.expand(count, 2)), shift[:, :, None]), dim=2)
    grid = F.affine_grid(theta, [count, 3, size[1], size[0]], align_corners=False)
    image = F.grid_sample(image, grid, "bilinear", "border", align_corners=False)
    inner = (points + 0.5 - before / 2 * (1 + shift - zoom)[:, None]) / (zoom[:, None] * before)  # 0..1
    beyond = ((inner < 0) | (inner > 1)).any(2)
    return image, inner * after - 0.5, torch.where(beyond, OUTSIDE, visible).to(torch.uint8)


def patched(
    image: torch.Tensor, others: torch.Tensor, points: torch.Tensor, visible: torch.Tensor, dice: Dice
) -> tuple[torch.Tensor, torch.Tensor]:
    """A rectangle of a fifth of the pictures (N, 3, H, W) shows what the other picture has there."""
    count = len(image)
    size = image.new_tensor((image.shape[3], image.shape[2]))
    extent = dice.uniform(0, 1, count, 2) * image.new_tensor((0.4, 0.27)) + image.new_tensor((0.1, 0.08))
    low = dice.uniform(0, 1, count, 2) * (1 - extent) * size
    high = low + extent * size * dice.chance(PATCHED, count)[:, None]
    x, y = (torch.arange(image.shape[k], device=image.device) for k in (3, 2))
    across = (x >= low[:, :1]) & (x < high[:, :1])
    down = (y >= low[:, 1:]) & (y < high[:, 1:])
    image = torch.where((down[:, :, None] & across[:, None])[:, None], others.float(), image)
    covered = ((points >= low[:, None]) & (points < high[:, None])).all(2) & (visible == VISIBLE)
    return image, torch.where(covered, HIDDEN, visible).to(torch.uint8)


def recoloured(image: torch.Tensor, dice: Dice) -> torch.Tensor:
    """Grey pictures, contrast, colour and brightness; black borders stay black."""
    count = len(image)
    border = image.amax(1, keepdim=True) == 0
    image = torch.where(dice.chance(GREY, count, 1, 1, 1), grey_of(image), image)
    gain = dice.uniform(0.75, 1.3, count, 1, 1, 1) * (1 + dice.normal(0, 0.08, count, 3, 1, 1))
    gain = torch.where(dice.chance(GAINED, count, 1, 1, 1), gain, 1.0)
    shift = dice.normal(0, 14, count, 1, 1, 1) * dice.chance(SHIFTED, count, 1, 1, 1)
    return ((image - 128) * gain + 128 + shift).masked_fill(border, 0)
