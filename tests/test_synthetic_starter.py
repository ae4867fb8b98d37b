"""The starter recipe's own parts: label tables, flat rows, mirroring of batches, score calibration, figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dwpose_core.models.rtmcc import create_model
from dwpose_core.skeleton import FLIP_INDICES, PARTS
from tests.synthetic_tools import noise_pool
from training import starter_batches, starter_score
from training.objectives import normalize
from training.small_simcc import (
    AWAY_SHARE,
    FACE,
    LABEL_MARGIN,
    heatmap_loss,
    label_table,
    loss_weights,
    simcc_loss,
    turned_away,
)
from training.starter_batches import draw_batch, resized
from training.starter_score import calibrate, predict
from training.starter_weights import build_network
from training.synthetic.generate import PersonGenerator
from training.synthetic.labels import HIDDEN, OUTSIDE, VISIBLE
from training.synthetic.pool import CropPool


@pytest.fixture
def pool() -> CropPool:
    return noise_pool()


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
    weight, absent = loss_weights(torch.zeros(3, 133, 2), visible, 0.15)
    assert (weight[0] == 0).all() and (absent[1:] == 0).all() and (absent[0] > 0).all()
    assert (weight[1] < weight[2]).all() and (weight[1] > 0).all()
    assert weight[2, PARTS["body"]].unique().tolist() == [2.0]


def test_a_face_seen_from_behind_keeps_its_place_and_loses_its_score():
    """The same face from the front, from behind (mirrored), from behind and upside down, in front of a mirror."""
    points, visible = torch.zeros(4, 133, 2), torch.full((4, 133), HIDDEN)
    points[:, 23 + 36], points[:, 23 + 45], points[:, 23 + 8] = (torch.tensor(xy) for xy in ((-3.0, 0), (3, 0), (0, 8)))
    points[1:3, :, 0] *= -1
    points[2] *= -1
    visible[3, 0] = VISIBLE  # who shows the nose shows the face
    points[3, :, 0] *= -1
    visible[:, 23] = VISIBLE  # a cheek
    away = turned_away(points, visible)
    assert away.any(1).tolist() == [False, True, True, False]
    assert away[1, :3].all() and away[1, 24:91].all()
    assert not away[1, 3:24].any() and not away[1, 91:].any()
    weight, absent = loss_weights(points, visible, 0.15)
    assert (absent[0] == 0).all() and (weight[0] == weight[1]).logical_or(away[1]).all()
    torch.testing.assert_close(weight[1, away[1]], AWAY_SHARE * weight[0, away[1]])
    torch.testing.assert_close(weight[1] + absent[1], weight[0])  # cross entropy against a mixture


@pytest.mark.parametrize("number", range(4))
def test_rendered_faces_are_no_mirror_images(assets, egl, number):
    layer = PersonGenerator(assets, (96, 128), supersample=1).person(seed=6, number=number, framing="face")
    points, hidden = torch.from_numpy(layer.keypoints)[None].float(), torch.full((1, 133), HIDDEN)
    assert not turned_away(points, hidden).any()
    assert turned_away(points * torch.tensor((-1.0, 1.0)), hidden)[0, FACE].all()


@pytest.fixture
def as_stored(monkeypatch) -> None:
    """Batches with nothing but mirroring."""
    for share in ("ZOOMED", "PATCHED", "DRAWN", "GREY", "GAINED", "SHIFTED"):
        monkeypatch.setattr(starter_batches, share, 0.0)


def drawn(pool: CropPool, count: int, size: tuple[int, int], seed: int) -> tuple[torch.Tensor, ...]:
    """A batch: pictures as a network takes them, points, flags."""
    crops = draw_batch(pool, count, size, np.random.default_rng(seed))
    return normalize(crops.image), crops.keypoints, crops.visible


def test_mirrored_batches_swap_sides(pool, as_stored):
    """Every crop of a batch is a crop of the pool, or its mirror image with mirrored keypoints."""
    images, points, visible = drawn(pool, 16, (64, 64), 3)
    originals = normalize(torch.from_numpy(pool.images))
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


@pytest.mark.parametrize("left_out", ["patches", "colours"])
def test_batches_without_a_kind_of_variation(pool, monkeypatch, left_out):
    """Where everything else is off and this one always on, leaving it out leaves crops as they are stored."""
    shares = {"patches": ("PATCHED",), "colours": ("GREY", "GAINED", "SHIFTED")}
    for share in ("ZOOMED", "DRAWN", *sum(shares.values(), ())):
        monkeypatch.setattr(starter_batches, share, float(share in shares[left_out]))
    without = starter_batches.Variation(**{left_out: False})
    stored = {image.tobytes() for image in pool.images} | {image[:, ::-1].tobytes() for image in pool.images}
    size = pool.images.shape[1:3]
    for variation, kept in ((without, True), (starter_batches.Variation(), False)):
        pictures = draw_batch(pool, 8, size, np.random.default_rng(1), variation).image.numpy()
        assert all((picture.tobytes() in stored) == kept for picture in pictures)


def dots(count: int = 64) -> CropPool:
    """Crops with one bright dot in the middle of grey, all 133 points on it."""
    images = np.full((count, 96, 72, 3), 40, np.uint8)
    images[:, 46:49, 34:37] = 250
    points = np.tile(np.array((35.0, 47.0), np.float32), (count, 133, 1))
    return CropPool(images, points, np.full((count, 133), VISIBLE, np.uint8))


def test_points_stay_on_what_they_mark(monkeypatch):
    """Windows, resizing and mirroring move picture and labels together."""
    for share in ("PATCHED", "DRAWN"):
        monkeypatch.setattr(starter_batches, share, 0.0)
    images, points, visible = drawn(dots(), 40, (192, 144), 1)
    places = np.stack(np.unravel_index(images.sum(1).flatten(1).argmax(1).numpy(), (192, 144))[::-1], 1)
    assert (np.abs(points[:, 0].numpy() - places) < 4).all()  # the dot is 6 to 8 pixels wide here
    assert len(np.unique(points[:, 0].numpy().round(1), axis=0)) > 10 and (visible == VISIBLE).all()


def test_patches_hide_what_they_cover(monkeypatch):
    for share in ("ZOOMED", "DRAWN", "GREY", "GAINED", "SHIFTED"):
        monkeypatch.setattr(starter_batches, share, 0.0)
    monkeypatch.setattr(starter_batches, "PATCHED", 1.0)
    images, points, visible = drawn(dots(), 60, (96, 72), 1)
    here = points[:, 0].round().long()
    bright = images[torch.arange(60), 0, here[:, 1], here[:, 0]] > 1
    hidden = visible[:, 0] == HIDDEN
    assert 3 < hidden.sum() < 40
    assert bright[~hidden].all() and not bright[hidden].any()


def test_borders_stay_black():
    crops = dots()
    crops.images[:, :20] = 0
    images, _, _ = drawn(crops, 40, (96, 72), 1)
    black = normalize(torch.zeros((1, 1, 1, 3), dtype=torch.uint8))[0, :, 0, 0]
    top = images[:, :, 0]
    assert (top == black[None, :, None]).all(1).float().mean() > 0.6  # zooming and patches take some away


@pytest.mark.parametrize("size", [(64, 64), (32, 48)])
def test_resized_keeps_pixel_centres(pool, size):
    """The centre of the picture stays the centre: (n - 1) / 2 in either size."""
    centre = np.full((1, 133, 2), 31.5, np.float32)
    images, points = resized(pool.images[:1], centre, size)
    assert images.shape == (1, *size, 3)
    np.testing.assert_allclose(points[0, 0], ((size[1] - 1) / 2, (size[0] - 1) / 2))


def test_figures_are_of_what_the_crops_show(pool, monkeypatch):
    """Predictions off by (3, 4) px everywhere; crops of a left hand alone say nothing of bodies and faces."""
    score = np.where(pool.visible == VISIBLE, 0.9, 0.1)
    monkeypatch.setattr(
        starter_score, "predict", lambda net, pool: (np.add(pool.keypoints, (3, 4)), pool.keypoints, score)
    )
    net = create_model("debug")
    all_of_it = starter_score.measure(net, pool)
    assert all_of_it["body_pck"] > 0 and all_of_it["score_auc"] == 1.0
    hand = PARTS["left_hand"]
    alone = np.full_like(pool.visible, OUTSIDE)
    alone[:, hand] = VISIBLE
    figures = starter_score.measure(net, replace(pool, visible=alone))
    extents = np.ptp(pool.keypoints[:, hand], axis=1).max(1)
    assert figures["hand_nme"] == pytest.approx(np.median(5 / extents), rel=1e-5)
    assert figures["body_pck"] is figures["cut_body_pck"] is figures["face_nme"] is figures["score_auc"] is None


@pytest.mark.parametrize(("off", "share"), [((1.8, 2.4), 1.0), ((2.0, 2.5), 0.0)])  # 3 and 3.2 px; 0.06 * 64 / 1.25
def test_people_without_a_torso_are_counted_for_themselves(pool, monkeypatch, off, share):
    legs = np.full_like(pool.visible, OUTSIDE)
    legs[:, 13:17] = VISIBLE
    found = np.add(pool.keypoints, off)
    monkeypatch.setattr(starter_score, "predict", lambda net, pool: (found, pool.keypoints, legs))
    figures = starter_score.measure(create_model("debug"), replace(pool, visible=legs))
    assert figures["body_pck"] is None and figures["cut_body_pck"] == share


def test_calibration_balances_at_the_usual_threshold(pool):
    torch.manual_seed(0)
    net = create_model("debug").eval()
    torch.nn.init.normal_(net.head.cls_x.weight, std=0.3)
    torch.nn.init.normal_(net.head.cls_y.weight, std=0.3)
    before = predict(net, pool)
    factor = calibrate(net, pool)
    after = predict(net, pool)
    np.testing.assert_array_equal(before[0], after[0])  # keypoints do not move
    np.testing.assert_allclose(before[2] * factor, after[2], rtol=1e-4)
    seen, outside = (after[2][:, :17][pool.visible[:, :17] == kind] for kind in (VISIBLE, OUTSIDE))
    assert (seen < 0.3).mean() == pytest.approx((outside >= 0.3).mean(), abs=0.02)


def test_scores_without_a_balance_stay_as_they_are(pool):
    """Crops in which nothing is seen, or nothing outside; a network whose scores are 0."""
    net = build_network("debug", (64, 64)).eval()
    before = net.head.cls_x.weight.clone()
    for kind in (OUTSIDE, VISIBLE):
        assert calibrate(net, replace(pool, visible=np.full_like(pool.visible, kind))) == 1.0
    assert torch.equal(net.head.cls_x.weight, before)
    torch.nn.init.zeros_(net.head.cls_x.weight)
    torch.nn.init.zeros_(net.head.cls_y.weight)
    assert calibrate(net, pool) == 1.0
