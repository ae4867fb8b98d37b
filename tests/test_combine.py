"""Clips on another time."""

from __future__ import annotations

import numpy as np
import pytest

from dwpose_core.combine import resample
from dwpose_core.people import People


def person(x: float, score: float) -> People:
    return People(np.full((1, 133, 2), x), np.full((1, 133), score), np.full((1, 4), x), [1], (100, 100))


@pytest.mark.parametrize("time", [0.25, 0.75])
def test_a_point_between_two_frames_is_as_sure_as_the_less_sure_one(time):
    for scores in ((0.9, 0.5), (0.5, 0.9)):
        (between,) = resample([person(10, scores[0]), person(20, scores[1])], [time])
        np.testing.assert_allclose(between.xy, 10 + 10 * time)
        np.testing.assert_allclose(between.box, 10 + 10 * time)
        np.testing.assert_allclose(between.score, 0.5)


def test_a_point_seen_once_is_as_in_the_nearer_frame():
    clip = [person(10, 0.9), person(20, 0.1)]
    for time, x, score in ((0.25, 10, 0.9), (0.75, 20, 0.1)):
        (between,) = resample(clip, [time])
        np.testing.assert_allclose(between.xy, x)
        np.testing.assert_allclose(between.score, score)
