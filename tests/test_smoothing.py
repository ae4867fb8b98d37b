"""Corrections over whole clips, clips put together, and clips on another time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dwpose_core.combine import one_after_another, resample, together
from dwpose_core.people import People
from dwpose_core.skeleton import NUM_KEYPOINTS
from dwpose_core.smoothing import drop_outliers, savitzky_golay
from dwpose_core.tracking import fill_gaps

SIZE = (400, 600)


def people_at(*offsets: float, ids: list[int] | None = None, score: float = 0.9, size=SIZE) -> People:
    xy = np.random.default_rng(0).uniform((0, 0), (80, 240), (NUM_KEYPOINTS, 2))
    xy = np.stack([xy + np.array([offset, 50]) for offset in offsets])
    box = np.concatenate((xy.min(1), xy.max(1)), axis=1)
    count = len(offsets)
    ids = list(range(count)) if ids is None else ids
    return People(xy, np.full((count, NUM_KEYPOINTS), score), box, np.ones(count), size, id=ids)


NOBODY = replace(People.empty(SIZE), id=np.zeros(0, np.int64))


@pytest.mark.parametrize(("window", "order"), [(5, 2), (9, 2), (11, 3)])
def test_savitzky_golay_is_scipys_where_everything_is_seen(window, order):
    signal = pytest.importorskip("scipy.signal")
    noise = np.random.default_rng(1).normal(0, 3, (40, NUM_KEYPOINTS, 2))
    frames = [replace(people_at(5 * t), xy=people_at(5 * t).xy + noise[t]) for t in range(40)]
    got = np.stack([people.xy[0] for people in savitzky_golay(frames, window, order)])
    expected = signal.savgol_filter(np.stack([people.xy[0] for people in frames]), window, order, axis=0)
    inner = slice(window // 2, -(window // 2))  # the ends are scipy's last polynomial, and ours a shorter window
    np.testing.assert_allclose(got[inner], expected[inner], atol=1e-3)


def test_savitzky_golay_keeps_parabolas_through_gaps_and_swapped_rows():
    frames = []
    for t in range(30):
        pair = people_at(100 + 0.2 * t * t, 400 - 5 * t)
        frames.append(pair[[1, 0]] if t % 2 else pair)  # the order flips, the ids do not
    frames[10], frames[11] = NOBODY, frames[11][frames[11].id == 1]
    for before, after in zip(frames, savitzky_golay(frames, 9), strict=True):
        np.testing.assert_allclose(after.xy, before.xy, atol=1e-2)


def test_savitzky_golay_leaves_what_is_not_seen_and_trusts_it_less():
    frames = [people_at(100 + (3 if t == 10 else 0)) for t in range(20)]
    full = savitzky_golay(frames)[9].xy[0, 0, 0]
    frames[10].score[:] = 0.3
    weak = savitzky_golay(frames)[9].xy[0, 0, 0]
    frames[10].score[:] = 0.1
    blind = savitzky_golay(frames)
    still = people_at(100).xy[0, 0, 0]
    assert full > weak > blind[9].xy[0, 0, 0] == pytest.approx(still)
    np.testing.assert_array_equal(blind[10].xy, frames[10].xy)


def test_a_wrist_thrown_away_is_dropped_and_filled():
    frames = [people_at(100 + 2 * t) for t in range(30)]
    shape = people_at(0).xy[0]
    shape[[5, 7, 9, 10]] = (0, 50), (0, 80), (0, 110), (50, 110)
    frames = [replace(people, xy=(shape + np.array([100 + 2 * t, 0]))[None]) for t, people in enumerate(frames)]
    frames[12].xy[0, 9] += 400
    frames[20].xy[0, 7] += 400  # an elbow: the wrist beyond it is right
    done = drop_outliers(frames)
    assert [(t, k) for t, people in enumerate(done) for k in np.flatnonzero(people.score[0] == 0)] == [(12, 9), (20, 7)]
    filled = fill_gaps(done)
    np.testing.assert_allclose(filled[12].xy[0, 9], shape[9] + (124, 0), atol=1e-3)
    np.testing.assert_allclose(filled[20].xy[0, 7], shape[7] + (140, 0), atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frames: savitzky_golay(frames, 8), "odd"),
        (lambda frames: savitzky_golay(frames, 3, 3), "order"),
        (lambda frames: drop_outliers(frames, 1.0), "factor"),
        (lambda frames: savitzky_golay([replace(frames[0], id=None)]), "ids"),
    ],
)
def test_bad_corrections_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        change([people_at(100)])


def test_two_clips_together():
    first = [people_at(100), people_at(110)]
    second = [people_at(20, 30, ids=[0, 4], size=(200, 300))]
    result = together(first, second)
    assert [people.id.tolist() for people in result] == [[0, 1, 5], [0, 1, 5]]
    np.testing.assert_allclose(result[1].xy[1], second[0].xy[0] * 2)
    np.testing.assert_allclose(result[1].box[2], second[0].box[1] * 2)
    assert result[0].image_size == SIZE
    assert together([replace(first[0], id=None)], second)[0].id is None
    assert [len(people) for people in together([NOBODY, NOBODY], second)] == [2, 2]


def test_two_clips_one_after_another():
    result = one_after_another([people_at(100)], [people_at(20, size=(200, 300))] * 2)
    assert [people.image_size for people in result] == [SIZE] * 3
    np.testing.assert_allclose(result[2].xy[0], people_at(20).xy[0] * 2)
    with pytest.raises(ValueError, match="frame"):
        one_after_another([], [people_at(1)])


def test_a_clip_on_another_time():
    frames = [people_at(100, 300), people_at(320, 110, ids=[1, 0]), people_at(120, ids=[0])]
    result = resample(frames, [0, 0.25, 0.5, 0.75, 1, 1.25, 1.75, 2])
    where = [dict(zip(people.id.tolist(), (people.box[:, 0]).tolist(), strict=True)) for people in result]
    base = people_at(0).box[0, 0]
    expected = [
        {0: 100, 1: 300}, {0: 102.5, 1: 305}, {0: 105, 1: 310}, {0: 107.5, 1: 315}, {0: 110, 1: 320},
        {0: 112.5, 1: 320}, {0: 117.5}, {0: 120},
    ]  # fmt: skip
    for got, want in zip(where, expected, strict=True):
        assert {id: x - base for id, x in got.items()} == pytest.approx(want, abs=1e-3)
    assert resample(frames[:1], [0, 0])[1].id.tolist() == [0, 1]
    with pytest.raises(ValueError, match="times"):
        resample(frames, [2.5])


def test_a_point_seen_in_one_of_two_frames_belongs_to_the_nearer():
    frames = [people_at(100), people_at(110)]
    frames[1].score[0, 5] = 0.1
    early, late = resample(frames, [0.4, 0.6])
    assert early.score[0, 5] == pytest.approx(0.9) and early.xy[0, 5, 0] == frames[0].xy[0, 5, 0]
    assert late.score[0, 5] == pytest.approx(0.1)
    assert early.xy[0, 6, 0] == pytest.approx(frames[0].xy[0, 6, 0] + 4)
