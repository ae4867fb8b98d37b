"""Drawings made from pictures: they change pixels, not places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")  # of the extra "synthetic"

from tests.synthetic_tools import generator
from training.synthetic import styles, torch_styles
from training.synthetic.styles import FAINTEST, STYLES, drawn
from training.synthetic.torch_photometric import Dice

EDGES = (30, 66)  # columns where the bright bar begins and ends


@pytest.fixture
def picture() -> np.ndarray:
    """A bright bar on dark ground, both with grain, and a black border at the top."""
    rng = np.random.default_rng(0)
    image = np.full((128, 96, 3), (60, 80, 90), float)
    image[:, EDGES[0] : EDGES[1]] = (220, 190, 150)
    image = np.clip(image + rng.normal(0, 6, image.shape), 1, 255).astype(np.uint8)
    image[:20] = 0
    return image


def only(style, monkeypatch) -> None:
    monkeypatch.setattr(styles, "STYLES", {style: 1.0})


@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.__name__)
def test_a_drawing_keeps_places_and_borders(style, picture, monkeypatch):
    only(style, monkeypatch)
    before = picture.copy()
    for seed in range(6):
        drawing = drawn(picture, np.random.default_rng(seed))
        assert drawing.dtype == np.uint8 and drawing.shape == picture.shape
        assert (drawing[:20] == 0).all() and np.array_equal(picture, before)
        assert np.array_equal(drawing, drawn(picture, np.random.default_rng(seed)))
        assert (np.abs(drawing[20:].astype(int) - picture[20:]) > 4).mean() > 0.05
        step = np.abs(np.diff(drawing[24:].mean((0, 2))))
        near = np.abs(np.arange(1, 96)[:, None] - EDGES).min(1) <= 4
        assert step[near].mean() > 2 * step[~near].mean()


def test_shares_add_up_and_every_style_is_drawn(picture):
    assert sum(STYLES.values()) == pytest.approx(1)
    rng = np.random.default_rng(1)
    assert len({drawn(picture, rng).tobytes() for _ in range(20)}) == 20


def test_no_empty_sheets(monkeypatch):
    """Outlines of a picture that has hardly any are white paper: the picture stays."""
    only(styles._pencil, monkeypatch)
    night = np.full((64, 48, 3), 3, np.uint8)
    night[:20] = 0
    night[30:32, 20:22] = 250
    assert drawn(np.zeros_like(night), np.random.default_rng(0)).max() == 0
    for seed in range(20):
        drawing = drawn(night, np.random.default_rng(seed))
        assert drawing[20:].std() >= FAINTEST or np.array_equal(drawing, night)


def batch_of(picture: np.ndarray, count: int) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).float().repeat(count, 1, 1, 1)


@pytest.mark.parametrize("number", range(len(STYLES)), ids=[s.__name__ for s in STYLES])
def test_drawings_on_the_device_are_those_of_the_cpu(number, picture, monkeypatch):
    """Places and borders stay, as above; how much a style changes a picture, and how bright it is, agree."""
    style = list(STYLES)[number]
    assert torch_styles.DRAW[number].__name__ == style.__name__
    only(style, monkeypatch)
    shares = {s: float(s is style) for s in STYLES}
    monkeypatch.setattr(torch_styles, "STYLES", shares)
    before = batch_of(picture, 40)
    made = torch_styles.drawn(before.clone(), 1.0, Dice(generator(5))).permute(0, 2, 3, 1).numpy()
    assert (made[:, :20] == 0).all() and made.min() >= 0 and made.max() <= 255
    theirs = np.stack([drawn(picture, np.random.default_rng(seed)) for seed in range(40)]).astype(float)
    change, brightness = (
        [f(x[:, 20:].astype(float)).mean() for x in (made, theirs)]
        for f in (lambda x: np.abs(x - picture[20:]), np.array)
    )
    assert change[0] == pytest.approx(change[1], abs=18) and brightness[0] == pytest.approx(brightness[1], abs=18)
    for drawing in made[:6]:
        step = np.abs(np.diff(drawing[24:].mean((0, 2))))
        near = np.abs(np.arange(1, 96)[:, None] - EDGES).min(1) <= 4
        assert step[near].mean() > 2 * step[~near].mean()


def test_a_share_of_the_pictures_is_drawn_on_the_device(picture):
    before = batch_of(picture, 200)
    made = torch_styles.drawn(before.clone(), 0.3, Dice(generator(1)))
    changed = (made - before).abs().amax((1, 2, 3)) > 0
    assert 40 < int(changed.sum()) < 80
    assert torch.equal(
        torch_styles.drawn(torch.zeros(9, 3, 32, 24), 1.0, Dice(generator(0))), torch.zeros(9, 3, 32, 24)
    )


@pytest.mark.parametrize("reach", [1, 2])
def test_medians_are_those_of_rows_and_columns(reach):
    image = torch.rand(2, 3, 9, 8, generator=generator(2))
    expected = image
    for axis in (3, 2):
        padding = (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach)
        windows = torch.nn.functional.pad(expected, padding, "reflect").unfold(axis, 2 * reach + 1, 1)
        expected = windows.median(-1).values
    torch.testing.assert_close(torch_styles.median(image, reach), expected)
