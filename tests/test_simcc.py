"""The codec against the original's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dwpose_core import simcc
from dwpose_core.skeleton import NUM_KEYPOINTS


@pytest.fixture(scope="module")
def golden(shared):
    return np.load(shared / "golden" / "codec_256x192.npz")


@pytest.fixture(scope="module")
def pair(fill):
    x = fill.seeded("codec/256x192/simcc_x", (3, 133, 384), 0.3)
    y = fill.seeded("codec/256x192/simcc_y", (3, 133, 512), 0.3)
    x[0, 0] = -abs(x[0, 0])
    y[0, 1] = -abs(y[0, 1])
    x[0, 2] = y[0, 3] = x[0, 4] = 0
    x[0, 4, [10, 20]] = 0.7
    return torch.from_numpy(x), torch.from_numpy(y)


def test_encode(golden):
    size = (256, 192)
    x, y, weight = simcc.encode(golden["keypoints"], golden["visible"], size, simcc.label_sigma(size))
    np.testing.assert_allclose(x, golden["x_labels"], atol=1e-6)
    np.testing.assert_allclose(y, golden["y_labels"], atol=1e-6)
    np.testing.assert_array_equal(weight, golden["weights"])


def test_decode(golden, pair):
    labels = torch.from_numpy(golden["x_labels"]), torch.from_numpy(golden["y_labels"])
    for tag, logits in (("decode", pair), ("roundtrip", labels)):
        xy, score = simcc.decode(*logits)
        np.testing.assert_array_equal(xy, golden[f"{tag}_keypoints"])
        np.testing.assert_array_equal(score, golden[f"{tag}_scores"])


def test_flip_average(golden, pair, fill):
    plain = (
        torch.from_numpy(fill.seeded("codec/256x192/simcc_x_b", (3, 133, 384), 0.3)),
        torch.from_numpy(fill.seeded("codec/256x192/simcc_y_b", (3, 133, 512), 0.3)),
    )
    average = simcc.flip_average(plain, pair)
    np.testing.assert_allclose(average[0].flatten()[golden["flip_probe_idx"]], golden["flip_probe_x"], atol=1e-6)
    xy, score = simcc.decode(*average)
    np.testing.assert_array_equal(xy, golden["flip_keypoints"])
    np.testing.assert_array_equal(score, golden["flip_scores"])


def test_corrected_flip_has_no_bias():
    """A point at pixel 40 of 96 sits at 55 in the mirrored crop; only the corrected average peaks at 40 alone."""
    rows = torch.zeros(1, NUM_KEYPOINTS, 192), torch.zeros(1, NUM_KEYPOINTS, 256)
    x, mirrored = rows[0].clone(), rows[0].clone()
    x[..., 2 * 40] = 1
    mirrored[..., 2 * 55] = 1
    average = simcc.flip_average((x, rows[1]), (mirrored, rows[1]), corrected=True)[0]
    assert average[0, 0].nonzero().flatten().tolist() == [80]
    biased = simcc.flip_average((x, rows[1]), (mirrored, rows[1]))[0]
    assert biased[0, 0].nonzero().flatten().tolist() == [80, 81]


def test_visibility_of_sure_and_unsure_rows():
    size = (256, 192)
    sigma = simcc.label_sigma(size)
    point = np.full((1, NUM_KEYPOINTS, 2), 100, np.float32)
    x, y, _ = simcc.encode(point, np.ones((1, NUM_KEYPOINTS)), size, sigma)
    sure = simcc.visibility(torch.from_numpy(x), torch.from_numpy(y), sigma)
    flat = simcc.visibility(torch.zeros(1, 1, 384), torch.from_numpy(y[:, :1]), sigma)
    assert sure.min() > 0.98
    assert flat.max() < 1e-6


def test_decode_gives_half_pixels():
    x, y = torch.zeros(1, 2, 96), torch.zeros(1, 2, 128)
    x[0, 0, 81] = y[0, 0, 2] = x[0, 1, 0] = y[0, 1, 127] = 1
    assert simcc.decode(x, y)[0].tolist() == [[[40.5, 1], [0, 63.5]]]


def test_visibility_is_the_mass_within_three_sigma():
    """Half of it at the peak, the rest 4 and 5 bins away: 4 are within 3 * 1.1, rounded up, and 5 are not."""
    unsure, sure = torch.full((1, 1, 40), -100.0), torch.full((1, 1, 40), -100.0)
    unsure[..., [20, 24, 25]] = torch.tensor([0.5, 0.25, 0.25]).log() / simcc.BETA
    sure[..., 20] = 0
    flat = 9 / 40
    for axes in ((unsure, sure, (1.1, 2)), (sure, unsure, (2, 1.1))):
        assert simcc.visibility(*axes).item() == pytest.approx((0.75 - flat) / (1 - flat))


def test_sigma_of_sizes_that_were_not_published():
    assert simcc.label_sigma((192, 144)) == pytest.approx((18**0.5, 24**0.5))  # x, y
