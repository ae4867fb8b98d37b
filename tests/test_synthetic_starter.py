"""The starter recipe's own parts: label tables, flat rows, mirroring of batches, score calibration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dwpose_core.models.rtmcc import create_model
from dwpose_core.skeleton import FLIP_INDICES, PARTS
from training import starter
from training.small_simcc import LABEL_MARGIN, heatmap_loss, label_table, loss_weights, simcc_loss
from training.synthetic.labels import HIDDEN, OUTSIDE, VISIBLE
from training.synthetic.pool import CropPool


@pytest.fixture
def pool() -> CropPool:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    points = rng.uniform(0, 63, (40, 133, 2)).astype(np.float32)
    return CropPool(images, points, rng.choice((OUTSIDE, HIDDEN, VISIBLE), (40, 133)).astype(np.uint8))


@pytest.mark.parametrize("centre", [0, 17, 63, -5, 70])  # inside, at the borders, and outside on both sides
def test_label_rows_are_dwpose_targets(centre):
    row = label_table(64, 3.0)[centre + LABEL_MARGIN]
    expected = torch.softmax(10 * torch.exp(-((torch.arange(64) - centre) ** 2) / 18.0), -1)
    torch.testing.assert_close(row, expected)


def test_simcc_loss_is_lowest_at_the_truth():
    tables = (label_table(96, 3.0), label_table(128, 3.5))
    points = torch.tensor([[[20.0, 31.5]]]).expand(1, 133, 2)
    weight, absent = torch.ones(1, 133), torch.zeros(1, 133)

    def loss_of(x: int, y: int) -> float:
        logits = [
            t[c + LABEL_MARGIN].log()[None, None].expand(1, 133, -1) / 10 for t, c in zip(tables, (x, y), strict=True)
        ]
        return simcc_loss(tuple(logits), tables, points, weight, absent).item()

    truth = loss_of(40, 63)  # bins of half a pixel
    entropy = sum(
        -(t[c + LABEL_MARGIN] * t[c + LABEL_MARGIN].log()).sum() for t, c in zip(tables, (40, 63), strict=True)
    )
    assert truth == pytest.approx(float(entropy), rel=1e-5)
    assert truth < min(loss_of(41, 63), loss_of(40, 62), loss_of(0, 0))


def test_absent_points_want_flat_rows():
    tables = (label_table(96, 3.0), label_table(128, 3.5))
    points, weight = torch.full((1, 133, 2), 10.0), torch.zeros(1, 133)
    weight[0, 0] = 1.0  # the divisor counts present points only
    absent = torch.ones(1, 133) - weight
    flat = tuple(torch.zeros(1, 133, t.shape[1]) for t in tables)
    peaked = tuple(
        torch.cat((f[:, :1], torch.nn.functional.one_hot(torch.zeros(1, 132).long(), f.shape[2])), 1) for f in flat
    )
    assert simcc_loss(flat, tables, points, weight, absent) < simcc_loss(peaked, tables, points, weight, absent)


def test_heatmap_loss_is_lowest_at_the_truth():
    points = torch.tensor([[[28.0, 52.0]]]).expand(1, 133, 2)
    losses = {}
    for cell in ((6, 3), (6, 4), (2, 3)):  # (row, column) of stride 8
        maps = torch.full((1, 133, 16, 12), -4.0)
        maps[:, :, cell[0], cell[1]] = 4.0
        losses[cell] = heatmap_loss(maps, points, torch.ones(1, 133)).item()
    assert min(losses, key=losses.get) == (6, 3)


def test_weights_by_visibility():
    visible = torch.tensor([[OUTSIDE] * 133, [HIDDEN] * 133, [VISIBLE] * 133])
    weight, absent = loss_weights(visible, 0.15)
    assert (weight[0] == 0).all() and (absent[1:] == 0).all() and (absent[0] > 0).all()
    assert (weight[1] < weight[2]).all() and (weight[1] > 0).all()
    assert weight[2, PARTS["body"]].unique().tolist() == [2.0]


def test_mirrored_batches_swap_sides(pool):
    """Every crop of a batch is a crop of the pool, or its mirror image with mirrored keypoints."""
    images, points, visible = starter.draw_batch(pool, 16, (64, 64), np.random.default_rng(3))
    originals = starter.normalize(torch.from_numpy(pool.images))
    flipped = 0
    for image, xy, flags in zip(images, points.numpy(), visible.numpy(), strict=True):
        k = int((originals - image).abs().flatten(1).sum(1).argmin())
        if torch.equal(originals[k], image):
            np.testing.assert_allclose(xy, pool.keypoints[k])
            np.testing.assert_array_equal(flags, pool.visible[k])
            continue
        flipped += 1
        k = int((originals - image.flip(2)).abs().flatten(1).sum(1).argmin())
        assert torch.equal(originals[k].flip(2), image)
        np.testing.assert_allclose(xy[FLIP_INDICES] * (-1, 1) + (63, 0), pool.keypoints[k], atol=1e-4)
        np.testing.assert_array_equal(flags[FLIP_INDICES], pool.visible[k])
    assert 0 < flipped < len(images)


@pytest.mark.parametrize("size", [(64, 64), (32, 48)])
def test_resized_keeps_pixel_centres(pool, size):
    """The centre of the picture stays the centre: (n - 1) / 2 in either size."""
    centre = np.full((1, 133, 2), 31.5, np.float32)
    images, points = starter.resized(pool.images[:1], centre, size)
    assert images.shape == (1, *size, 3)
    np.testing.assert_allclose(points[0, 0], ((size[1] - 1) / 2, (size[0] - 1) / 2))


def test_calibration_balances_at_the_usual_threshold(pool):
    torch.manual_seed(0)
    net = create_model("debug").eval()
    torch.nn.init.normal_(net.head.cls_x.weight, std=0.3)
    torch.nn.init.normal_(net.head.cls_y.weight, std=0.3)
    before = starter.predict(net, pool)
    factor = starter.calibrate(net, pool)
    after = starter.predict(net, pool)
    np.testing.assert_array_equal(before[0], after[0])  # keypoints do not move
    np.testing.assert_allclose(before[2] * factor, after[2], rtol=1e-4)
    seen, outside = (after[2][:, :17][pool.visible[:, :17] == kind] for kind in (VISIBLE, OUTSIDE))
    assert (seen < 0.3).mean() == pytest.approx((outside >= 0.3).mean(), abs=0.02)
