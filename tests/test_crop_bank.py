"""Stored crops on the device: a ring, and variations that keep every label on what it marks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")  # of the extra "synthetic"

from dwpose_core.skeleton import FLIP_INDICES
from tests.synthetic_tools import CROP, generator
from training.synthetic import crop_bank
from training.synthetic.crop_bank import CropBank, patched, recoloured, vary, zoomed
from training.synthetic.labels import HIDDEN, OUTSIDE, VISIBLE
from training.synthetic.torch_composite import Crops
from training.synthetic.torch_photometric import Dice

COUNT = 60


@pytest.fixture
def crops() -> Crops:
    """A red square of 5 pixels around the left wrist (9) and a blue one around the right (10), on grey."""
    rng = np.random.default_rng(0)
    image = torch.full((COUNT, CROP[1], CROP[0], 3), 90, dtype=torch.uint8)
    points = torch.full((COUNT, 133, 2), 36.0)
    for k in range(COUNT):
        for joint, colour in ((9, (250, 0, 0)), (10, (0, 0, 250))):
            x, y = int(rng.integers(5, 30) + 35 * (joint == 10)), int(rng.integers(10, 85))
            points[k, joint] = torch.tensor((x, y))
            image[k, y - 2 : y + 3, x - 2 : x + 3] = torch.tensor(colour, dtype=torch.uint8)
    return Crops(image, points, torch.full((COUNT, 133), VISIBLE, dtype=torch.uint8))


def test_a_full_ring_replaces_the_oldest(crops):
    bank = CropBank(100, CROP, "cpu")
    bank.add(crops)
    assert len(bank) == COUNT
    bank.add(crops)
    assert len(bank) == 100 and bank.added == 2 * COUNT
    torch.testing.assert_close(bank.whole.keypoints[:20], crops.keypoints[40:])
    drawn = bank.draw(16, (36, 48), generator(0))
    assert drawn.image.shape == (16, 48, 36, 3) and drawn.image.dtype == torch.uint8


def test_more_rows_than_a_ring_holds(crops, monkeypatch):
    """Each place is written once: of several rows for one a GPU may keep the picture of this and the points of that."""
    written, assign = [], torch.Tensor.__setitem__
    monkeypatch.setattr(torch.Tensor, "__setitem__", lambda *args: written.append(args[1]) or assign(*args))
    bank = CropBank(7, CROP, "cpu")
    bank.add(crops)
    assert all(len(place.unique()) == len(place) == 7 for place in written) and bank.added == COUNT
    order = torch.arange(COUNT - 7, COUNT)
    torch.testing.assert_close(bank.whole.keypoints[order % 7], crops.keypoints[order])


@pytest.mark.parametrize("size", [CROP, (96, 128), (48, 64)])
def test_labels_stay_on_what_they_mark(crops, size):
    made = vary(crops, torch.full_like(crops.image, 90), size, Dice(generator(1)))
    mirrored = []
    for k in range(COUNT):
        sides = []
        for joint, channel in ((9, 0), (10, 2)):
            x, y = made.keypoints[k, joint].round().long().clamp(min=0).tolist()
            colour = made.image[k, min(y, size[1] - 1), min(x, size[0] - 1)].float()
            if made.visible[k, joint] == VISIBLE and colour.std() > 3:  # neither covered nor made grey
                assert colour[channel] != colour[2 - channel]
                sides.append(bool(colour[channel] < colour[2 - channel]))
        assert len(set(sides)) <= 1 and made.keypoints[k, 9, 0] < made.keypoints[k, 10, 0]
        mirrored += sides
    assert len(mirrored) > COUNT and 0.2 < np.mean(mirrored) < 0.8


def test_a_window_leaves_out_what_is_beyond_it(crops, monkeypatch):
    monkeypatch.setattr(crop_bank, "ZOOMED", 1.0)
    points = crops.keypoints.clone()
    points[:, 0] = torch.tensor((0.0, 0.0))
    points[:, 1] = torch.tensor((CROP[0] - 1.0, CROP[1] - 1.0))
    image = crops.image.permute(0, 3, 1, 2).float()
    _, moved, visible = zoomed(image, points, crops.visible, CROP, Dice(generator(2)))
    apart = (moved[:, 1] - moved[:, 0]) / (points[:, 1] - points[:, 0])
    torch.testing.assert_close(apart[:, 0], apart[:, 1])
    assert 1.0 <= apart.min() < 1.05 and 1.2 < apart.max() <= 1 / 0.78 + 1e-5
    inside = ((moved >= -0.5) & (moved <= torch.tensor(CROP) - 0.5)).all(2)
    assert torch.equal(visible == OUTSIDE, ~inside) and 0 < int((visible[:, :2] == VISIBLE).sum()) < 2 * COUNT


def test_what_a_patch_covers_is_hidden(crops, monkeypatch):
    monkeypatch.setattr(crop_bank, "PATCHED", 1.0)
    image = crops.image.permute(0, 3, 1, 2).float()
    visible = crops.visible.clone()
    visible[:, 20] = OUTSIDE
    after, flags = patched(image, torch.zeros_like(image), crops.keypoints, visible, Dice(generator(3)))
    covered = (after == 0).all(1)
    share = covered.float().mean((1, 2))
    assert 0.005 < share.min() and share.max() < 0.5 * 0.35 + 0.02
    x, y = crops.keypoints.long().unbind(2)
    under = covered[torch.arange(COUNT)[:, None], y, x]
    assert torch.equal(flags == HIDDEN, under & (visible == VISIBLE)) and bool((flags == HIDDEN).any())
    assert (flags[:, 20] == OUTSIDE).all()


def test_colours_change_and_borders_stay_black():
    image = torch.full((400, 3, 8, 6), 120.0)
    image[:, 0] = 180
    image[:, :, :2] = 0
    made = recoloured(image.clone(), Dice(generator(4)))
    assert (made[:, :, :2] == 0).all()
    same = ((made - image).abs().amax((1, 2, 3)) == 0).float().mean()
    grey = (made[:, :, 4].std(1).amax(1) < 1e-3).float().mean()
    assert 0.1 < same < 0.3 and 0.005 < grey < 0.12


def test_mirroring_swaps_sides(crops):
    plain = Crops(crops.image, crops.keypoints, crops.visible)
    flipped = crop_bank.mirrored(
        plain.image.permute(0, 3, 1, 2), plain.keypoints, plain.visible, torch.ones(COUNT, dtype=torch.bool)
    )
    torch.testing.assert_close(flipped[1][:, FLIP_INDICES][:, :, 0], CROP[0] - 1 - plain.keypoints[:, :, 0])
    assert torch.equal(flipped[0].permute(0, 2, 3, 1), plain.image.flip(2))
