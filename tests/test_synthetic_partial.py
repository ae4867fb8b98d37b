"""Boxes around a part of a person: where it is cut, what ends it there, and that labels say so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.synthetic_tools import CROP, PEOPLE, NamesItsDevice, generator, plain_surroundings
from tests.test_synthetic_gpu import Blue, Store
from training.synthetic import composite as reference
from training.synthetic import torch_composite as batched
from training.synthetic.camera import MARGIN, UNLIMITED
from training.synthetic.composite import PARTIAL
from training.synthetic.labels import HIDDEN, OUTSIDE, VISIBLE
from training.synthetic.partial import BORDER, COVER, ENDS, box_of, draw_limits, draw_part, tells_enough
from training.synthetic.torch_photometric import Dice

CALM = replace(PARTIAL, rotated=0.0, in_front=0.0, people=False, light=False, camera=False, jpeg=False)

CLEAR = np.zeros((20, 30, 4), np.uint8)  # a thing that is not seen


def test_one_or_two_sides_are_cut_and_most_of_the_person_may_go():
    box = np.array((10.0, 20.0, 50.0, 120.0))
    rng = np.random.default_rng(0)
    drawn = np.array([draw_limits(box, rng) for _ in range(2000)])
    cut = np.abs(drawn) < 1e5
    assert set(cut.sum(1)) == {1, 2}
    assert cut.mean(0) == pytest.approx([0.1, 0.55, 0.1, 0.4], abs=0.03)
    kept = np.where(cut, drawn, box)
    share = ((kept[:, 2:] - kept[:, :2]) / (40, 100)).prod(1)
    assert 0.2 < share.min() < 0.35 and 0.8 < share.max() < 0.9


def test_the_box_of_a_part_is_around_what_is_drawn_there():
    alpha = np.zeros((100, 80), np.uint8)
    alpha[10:90, 30:40] = 255
    alpha[60:65, 20:60] = 255  # arms, cut off
    assert box_of(alpha, UNLIMITED).tolist() == [20, 10, 59, 89]
    assert box_of(alpha, np.array((-1e6, -1e6, 1e6, 49.5))).tolist() == [30, 10, 39, 49]
    assert box_of(alpha, np.array((-1e6, 75, 1e6, 1e6))) is None, "too small"
    assert box_of(alpha, np.array((70, -1e6, 1e6, 1e6))) is None, "nothing there"
    points, visible = np.zeros((133, 2)), np.full(133, VISIBLE)
    points[3:] = 200
    assert tells_enough(points, visible, np.array((-5, -5, 5, 5)))
    visible[1] = HIDDEN
    assert not tells_enough(points, visible, np.array((-5, -5, 5, 5)))


def test_too_little_of_a_person_is_no_part():
    alpha, points = np.zeros((100, 80), np.uint8), np.full((133, 2), 50.0)
    rng = np.random.default_rng(0)
    assert draw_part(alpha, points, np.full(133, VISIBLE), UNLIMITED, rng) == (None, None)
    alpha[10:90, 20:60] = 255
    assert draw_part(alpha, points, np.full(133, HIDDEN), UNLIMITED, rng) == (None, None)
    limits, box = draw_part(alpha, np.full((133, 2), 40.0), np.full(133, VISIBLE), UNLIMITED, np.random.default_rng(4))
    assert (box[:2] >= limits[:2]).all() and (box[2:] <= limits[2:]).all() and (box != (20, 10, 59, 89)).any()


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_parts_on_the_device(layers, share):
    """Boxes lie between the limits, around what is drawn; without a part they are those that layers are framed for."""
    index = torch.arange(40 * PEOPLE) % PEOPLE
    many = layers[index]
    with NamesItsDevice():
        box, limits, end = batched.parts(many, share, Dice(generator(0)))
    whole = batched.whole_boxes(many)
    width = float(whole[0, 2] - whole[0, 0] + 1)
    assert width == pytest.approx(layers.rgba.shape[2] / MARGIN, abs=1e-3)
    assert torch.equal(box[end < 0], whole[end < 0])
    assert share - 0.1 < (end >= 0).float().mean() <= share + 0.03  # a few are too small
    if share:
        assert torch.bincount(end[end >= 0], minlength=3) / (end >= 0).sum() == pytest.approx(ENDS, abs=0.07)
    for row in (end >= 0).nonzero()[:60, 0]:
        alpha = many.rgba[row, ..., 3].numpy()
        assert box[row].tolist() == box_of(alpha, limits[row].numpy()).tolist()


@pytest.mark.parametrize("made_by", ["composite", "torch_composite"])
def test_beyond_the_cut_is_black_or_covered_and_labels_say_so(layers, made_by):
    """Red people before blue: what is black has points outside only, what is covered none that are seen."""
    if made_by == "composite":
        rng = np.random.default_rng(0)
        crops = [reference.composite(Store(layers), k % PEOPLE, Blue(), [CLEAR], CROP, rng, CALM) for k in range(240)]
        images, points, visible = (np.stack([getattr(c, f) for c in crops]) for f in ("image", "keypoints", "visible"))
    else:
        index = torch.arange(240) % PEOPLE
        made = batched.composite_batch(layers, index, plain_surroundings(), CROP, generator(0), CALM)
        images, points, visible = (getattr(made, f).numpy() for f in ("image", "keypoints", "visible"))
    x, y = points.round().astype(int).transpose(2, 0, 1)
    inside = (x >= 0) & (x < CROP[0]) & (y >= 0) & (y < CROP[1])
    assert (visible[~inside] == OUTSIDE).all()
    on = images[np.arange(240)[:, None], y.clip(0, CROP[1] - 1), x.clip(0, CROP[0] - 1)].astype(int)
    black, blue = on.max(2) == 0, (on[..., 2] > 150) & (on[..., 0] < 50)
    assert (visible[inside & black] == OUTSIDE).all() and (inside & black).sum() > 1000
    assert (visible[inside & blue] != VISIBLE).all() and (visible[inside & blue] == HIDDEN).sum() > 500
    seen = visible == VISIBLE
    assert (on[seen][:, 0] > 150).mean() > 0.99
    # The box is around the part: it is larger in the crop than a whole person would be.
    plain = reference.composite(Store(layers), 1, Blue(), [], CROP, np.random.default_rng(0), None).keypoints
    spread = np.linalg.norm(points.std(1), axis=1)
    assert np.median(spread) > 1.2 * np.linalg.norm(plain.std(0))


def test_a_cover_ends_at_the_cut_and_the_box_alone_ends_nothing(layers, monkeypatch):
    for end, colour in ((BORDER, 0), (COVER, 200), (2, None)):
        monkeypatch.setattr(batched, "ENDS", tuple(float(k == end) for k in range(3)))
        index = torch.arange(96) % PEOPLE
        made = batched.composite_batch(layers[1:2], index * 0, plain_surroundings(), CROP, generator(1), CALM)
        blue = made.image[..., 2].float()
        black = (made.image.amax(3) == 0).float().mean()
        assert (black > 0.1) == (colour == 0)
        hidden = (made.visible == HIDDEN).float().mean()
        assert (hidden > 0.3) == (colour == 200), (end, hidden)
        assert blue.max() <= 200


def test_without_things_nothing_covers(layers):
    """The lever of an ablation: as many parts, none of them behind something."""
    index = torch.arange(96) % PEOPLE
    bare = replace(CALM, things=False)
    made = batched.composite_batch(layers[1:2], index * 0, plain_surroundings(), CROP, generator(1), bare)
    rng = np.random.default_rng(0)
    theirs = [reference.composite(Store(layers), 1, Blue(), [], CROP, rng, bare).visible for _ in range(96)]
    before = float((layers.visible[1] == HIDDEN).float().mean())
    for visible in (made.visible.numpy(), np.stack(theirs)):
        assert (visible == HIDDEN).mean() <= before
