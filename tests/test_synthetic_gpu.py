"""Compositing and picture disturbances on the device: labels, agreement with composite.py and OpenCV, randomness."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from dwpose_core.skeleton import FLIP_INDICES
from tests.synthetic_tools import CROP, LAYER, PEOPLE, generator
from training.synthetic import composite as reference
from training.synthetic import torch_composite as batched
from training.synthetic.composite import CROWDED, PARTIAL, QUIET, STRONG, Disturbance
from training.synthetic.labels import HIDDEN, OUTSIDE, VISIBLE
from training.synthetic.layer_pool import LayerPool, Layers, Surroundings, usable
from training.synthetic.torch_photometric import CHROMINANCE, LUMINANCE, Dice, blur, jpeg, photometric


def crops(layers: Layers, around: Surroundings, count: int, seed: int, disturb: Disturbance | None) -> batched.Crops:
    index = torch.arange(count) % len(layers)
    return batched.composite_batch(layers, index, around, CROP, generator(seed), disturb)


class Store:
    """The layers as composite.composite takes them."""

    def __init__(self, layers: Layers):
        self.layers = layers
        self.keypoints, self.visible, self.frame = (x.numpy() for x in (layers.keypoints, layers.visible, layers.frame))

    def __len__(self) -> int:
        return len(self.layers)

    def rgba(self, index: int) -> np.ndarray:
        return self.layers.rgba[index].numpy()


class Blue:
    def sample(self, size, rng):
        return np.full((size[1], size[0], 3), (0, 0, 200), np.uint8)

    texture = sample


def test_boxes_hold_what_is_drawn(layers):
    for rgba, box in zip(layers.rgba, layers.box, strict=True):
        rows, columns = np.nonzero(rgba[..., 3].numpy() > 60)
        assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]


def test_a_full_pool_replaces_the_oldest(layers):
    pool = LayerPool(10, LAYER, "cpu")
    pool.add(layers[:6])
    assert len(pool.layers) == 6
    pool.add(layers[6:13])
    assert len(pool.layers) == 10
    torch.testing.assert_close(pool.layers.keypoints[:3], layers.keypoints[10:13])
    torch.testing.assert_close(pool.layers.keypoints[3:], layers.keypoints[3:10])


@pytest.mark.parametrize(
    ("framing", "body", "hand", "share", "expected"),
    [
        ("full", 4, 0, 0.1, True),
        ("full", 3, 21, 0.1, False),  # too little of the body
        ("full", 17, 21, 0.01, False),  # too small
        ("hand", 0, 9, 0.1, True),  # a close-up needs its part only
        ("hand", 17, 8, 0.1, False),
    ],
)
def test_usable_table(framing, body, hand, share, expected):
    visible = np.zeros(133, np.uint8)
    visible[:body], visible[91 : 91 + hand] = HIDDEN, VISIBLE
    assert usable(framing, visible, share) is expected


@pytest.mark.parametrize("scale", [1.3, 0.9, 0.45, 0.25])
def test_lay_over_is_the_opencv_one(layers, scale):
    matrix = reference.similarity(0.4, scale, np.array((47.5, 63.5)), np.array((30.0, 50.0)))
    expected, alpha = reference.lay_over(np.full((96, 72, 3), 90, np.float32), layers.rgba[1].numpy(), matrix)
    image = torch.full((1, 3, 96, 72), 90.0)
    placed = torch.tensor(matrix, dtype=torch.float32)[None]
    mine = batched.lay_over(image, torch.tensor([0]), layers.rgba[1:2], placed)
    assert np.abs(mine[0].numpy() - alpha).mean() < 0.004  # area filters differ at the rim of what shrinks
    assert np.abs(image[0].permute(1, 2, 0).numpy() - expected).mean() < 0.6
    beyond = batched.beyond(placed, layers.frame[:1], CROP)[0].numpy()
    difference = beyond ^ reference._beyond(matrix, layers.frame[0].numpy(), CROP)
    assert difference.mean() < 1e-3


def test_undisturbed_crops_are_those_of_composite(layers, around):
    mine = crops(layers, around, PEOPLE, 0, None)
    for k in range(PEOPLE):
        rng = np.random.default_rng(0)
        expected = reference.composite(Store(layers), k, Blue(), [], CROP, rng, None)
        np.testing.assert_allclose(mine.keypoints[k].numpy(), expected.keypoints, atol=1e-3)
        np.testing.assert_array_equal(mine.visible[k].numpy(), expected.visible)
        assert np.abs(mine.image[k].numpy().astype(int) - expected.image).mean() < 0.5


@pytest.mark.parametrize("disturb", [STRONG, QUIET, CROWDED, PARTIAL])
def test_labels_come_in_the_shares_of_composite(layers, around, disturb):
    """The same rules and the same dice: as many outside, hidden and seen points, equally far from the middle."""
    mine = crops(layers, around, 600, 1, disturb)
    things = [thing[5:35, 10:30].numpy() for thing in around.things]
    rng = np.random.default_rng(1)
    theirs = [reference.composite(Store(layers), k % PEOPLE, Blue(), things, CROP, rng, disturb) for k in range(600)]
    for kind in (OUTSIDE, HIDDEN, VISIBLE):
        share = np.mean([crop.visible == kind for crop in theirs])
        assert float((mine.visible == kind).float().mean()) == pytest.approx(share, abs=0.045)
    empty = np.mean([(crop.visible == OUTSIDE).all() for crop in theirs])
    assert float((mine.visible == OUTSIDE).all(1).float().mean()) == pytest.approx(empty, abs=0.05)
    spread = np.std([crop.keypoints.mean(0) for crop in theirs], axis=0)
    np.testing.assert_allclose(mine.keypoints.mean(1).std(0).numpy(), spread, rtol=0.15)


def test_seen_points_lie_on_the_person(layers, around):
    """Nobody else and unspoilt colours: every seen point is on red, points below the photograph are on black."""
    alone = replace(STRONG, people=False, light=False, camera=False, jpeg=False)
    made = crops(layers, around, 200, 2, alone)
    x, y = made.keypoints.round().long().unbind(2)
    on = made.image[torch.arange(200)[:, None], y.clamp(0, CROP[1] - 1), x.clamp(0, CROP[0] - 1)].int()
    seen = made.visible == VISIBLE
    assert seen.sum() > 5000
    assert (on[seen][:, 0] > 100).float().mean() > 0.995 and (on[seen][:, 2] < 90).float().mean() > 0.995
    inside = (x >= 0) & (x < CROP[0]) & (y >= 0) & (y < CROP[1])
    assert (made.visible[~inside] == OUTSIDE).all()
    # The ellipses are never behind a thing unless it hides them.
    hidden = (made.visible == HIDDEN) & (on[..., 1] > 150)
    assert hidden.sum() > 20


def test_relabel_table():
    points = torch.tensor([[[2.0, 3.0], [-1.0, 3.0], [2.4, 0.6], [5.0, 5.0], [1.0, 1.0]]])
    visible = torch.tensor([[VISIBLE, VISIBLE, VISIBLE, VISIBLE, HIDDEN]], dtype=torch.uint8)
    outside, over = torch.zeros(1, 8, 8, dtype=torch.bool), torch.zeros(1, 8, 8)
    outside[0, 5, 5] = True
    over[0, 1, 2] = 0.9
    expected = [VISIBLE, OUTSIDE, HIDDEN, OUTSIDE, HIDDEN]
    assert batched.relabel(points, visible, outside, over)[0].tolist() == expected


def test_mirrored_crops_swap_sides(layers, around):
    """Upright and unspoilt, a crop's points are the layer's, or their mirror image with left and right exchanged."""
    upright = Disturbance(
        loose=0, empty=0, rotated=0, in_front=0, people=False, things=False, light=False, camera=False, jpeg=False
    )
    made = crops(layers, around, PEOPLE, 3, upright)
    kinds = set()
    for k in range(PEOPLE):
        layer, points = layers.keypoints[k], made.keypoints[k]
        straight = points - points.mean(0), layer - layer.mean(0)
        mirrored = straight[0][FLIP_INDICES] * torch.tensor((-1, 1)), straight[1]
        errors = []
        for mine, theirs in (straight, mirrored):
            scale = (mine * theirs).sum() / theirs.square().sum()
            errors.append(float((mine - scale * theirs).abs().max()))
        assert min(errors) < 1e-3 < max(errors)
        kinds.add(errors.index(min(errors)))
    assert kinds == {0, 1}


def test_the_generator_decides_everything(layers, around):
    one, two, other = (crops(layers, around, 16, seed, STRONG) for seed in (4, 4, 5))
    for name in ("image", "keypoints", "visible"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert not torch.equal(one.image, other.image)


@pytest.mark.parametrize("seed", range(12))
def test_batches_of_one(layers, around, seed):
    """Steps that apply to none of the pictures do nothing."""
    made = crops(layers, around, 1, seed, STRONG)
    assert made.image.shape == (1, CROP[1], CROP[0], 3) and torch.isfinite(made.keypoints).all()


@pytest.mark.parametrize("sigma", [0.4, 1.3, 2.9])
def test_blur_is_gaussian(sigma):
    image = torch.rand((2, 3, 40, 48), generator=generator(0)) * 255
    mine = blur(image, torch.tensor((sigma, 1.0)), 3.0)
    for picture, spread, out in zip(image, (sigma, 1.0), mine, strict=True):
        planes = picture.permute(1, 2, 0).numpy()
        expected = cv2.GaussianBlur(planes, (19, 19), spread, borderType=cv2.BORDER_REFLECT_101)
        np.testing.assert_allclose(out.permute(1, 2, 0).numpy(), expected, atol=0.05)


@pytest.mark.parametrize("quality", [20, 50, 84])
def test_jpeg_loses_what_jpeg_loses(quality):
    """The decoded picture is that of a real encoder to within rounding, on smooth and on noisy content."""
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.uniform(0, 255, (64, 48, 3)), (0, 0), 3).astype(np.float32)
    picture = np.clip((picture - 128) * 6 + 128 + rng.normal(0, 6, picture.shape), 0, 255).round().astype(np.uint8)
    code = cv2.imencode(".jpg", picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    expected = cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    mine = jpeg(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), torch.tensor((float(quality),)))
    difference = np.abs(mine[0].permute(1, 2, 0).numpy() - expected)
    assert difference.mean() < 0.25 * np.abs(picture - expected).mean()
    assert len(LUMINANCE) == len(CHROMINANCE) == 64


@pytest.mark.parametrize("lever", ["light", "camera", "jpeg"])
def test_levers_leave_their_step_out(lever):
    image = torch.rand((24, 3, 48, 48), generator=generator(0)) * 255
    everything = {"light": False, "camera": False, "jpeg": False}
    still = photometric(image.clone(), replace(STRONG, **everything), Dice(generator(1)))
    assert torch.equal(still, image)
    changed = photometric(image.clone(), replace(STRONG, **{**everything, lever: True}), Dice(generator(1)))
    assert 0.1 < ((changed - image).abs().flatten(1).amax(1) > 1).float().mean() <= 1


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.0, -2.7])
def test_a_crop_turned_by_any_angle_keeps_all_of_its_box(angle):
    size = (144, 192)
    factor = reference.fit_turned(angle, size)
    turn = reference.similarity(angle, factor, np.zeros(2), np.zeros(2))[:, :2]
    corners = (np.array(((0, 0), (0, 1), (1, 0), (1, 1))) - 0.5) * size @ turn.T
    assert (np.abs(corners).max(0) / size).max() == pytest.approx(0.5)
    assert batched.fit_turned(torch.tensor([angle]), size).item() == pytest.approx(factor)


def test_both_compositors_turn_as_many_crops():
    rng, count = np.random.default_rng(0), 4000
    mine = np.array([reference.draw_jitter(CROP, 1.0, 0.4, rng)[0] for _ in range(count)])
    blank = torch.zeros((count, LAYER[1], LAYER[0], 4), dtype=torch.uint8)
    many = Layers(
        blank, torch.zeros(count, 133, 2), torch.zeros(count, 133), torch.zeros(count, 4), torch.zeros(count, 4)
    )
    matrix = batched.tight(
        batched.whole_boxes(many), CROP, reference.Disturbance(rotated=1.0, turned=0.4), Dice(generator(0))
    )
    theirs = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).numpy()
    for angles in (mine, theirs):
        assert (np.abs(angles) > np.pi / 2).mean() == pytest.approx(0.2, abs=0.02)
        assert np.median(np.abs(angles)) < 0.4
