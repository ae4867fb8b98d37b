"""Ids, gap filling and smoothing on synthetic walks whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dwpose_core.people import People
from dwpose_core.skeleton import NUM_KEYPOINTS
from dwpose_core.tracking import GapFiller, OneEuro, Steady, Tracker, fill_gaps, smooth, track

SIZE = (480, 1280)
FPS = 30.0


def figure(shape_seed: int) -> np.ndarray:
    """(K, 2) points in a box 80 wide and 240 high; each seed is another pose."""
    return np.random.default_rng(shape_seed).uniform((0, 0), (80, 240), (NUM_KEYPOINTS, 2)).astype(np.float32)


def people_at(offsets, shapes, score=0.9) -> People:
    xy = np.stack([shape + np.float32(offset) for shape, offset in zip(shapes, offsets, strict=True)])
    box = np.concatenate((xy.min(1), xy.max(1)), axis=1)
    count = len(xy)
    return People(
        xy, np.full((count, NUM_KEYPOINTS), score), box, np.full(count, 0.8), SIZE,
        visibility=np.full((count, NUM_KEYPOINTS), 0.7),
    )  # fmt: skip


NOBODY = People.empty(SIZE)


def test_crossing_people_keep_their_ids_and_rows_whatever_the_order_of_detection():
    shapes = [figure(1), figure(2)]
    rng = np.random.default_rng(0)
    frames, order = [], []
    for i in range(120):  # they meet at frame 60, in exactly the same place
        offsets = [(100 + 8 * i, 100), (1060 - 8 * i, 100)]
        order.append(rng.permutation(2))
        frames.append(people_at(offsets, shapes)[order[-1]])
    for found, people, who in zip(frames, track(frames), order, strict=True):
        assert people.id.tolist() == [0, 1]
        rows = [who.tolist().index(w) for w in order[0]]  # where they were found, in the order of the first frame
        np.testing.assert_array_equal(people.xy, found.xy[rows])
        np.testing.assert_array_equal(people.box, found.box[rows])


def test_a_hidden_person_comes_back_as_themselves():
    shapes = [figure(1), figure(2)]
    frames = []
    for i in range(90):
        both = people_at([(100 + 8 * i, 100), (820 - 8 * i, 100)], shapes)
        frames.append(both[[0]] if 40 <= i < 52 else both)  # the second is behind the first
    tracked = track(frames)
    assert tracked[-1].id.tolist() == [0, 1]
    assert all(people.id.tolist() == [0] for people in tracked[40:52])


@pytest.mark.parametrize(("missing", "same"), [(5, True), (6, False)])
def test_a_track_is_forgotten_after_max_age(missing, same):
    person = people_at([(100, 100)], [figure(1)])
    tracked = track([person, *[NOBODY] * missing, person], max_age=5)
    assert (tracked[-1].id[0] == 0) == same


def test_a_newcomer_elsewhere_gets_a_new_id_and_ids_are_never_used_twice():
    here, there = people_at([(100, 100)], [figure(1)]), people_at([(900, 100)], [figure(1)])
    tracked = track([here, there, here, there])
    assert [people.id.tolist() for people in tracked] == [[0], [1], [0], [1]]
    tracked = track([here, *[NOBODY] * 40, here])
    assert tracked[-1].id.tolist() == [1]


def test_tracking_changes_nothing_but_ids():
    before = people_at([(0, 0), (300, 50)], [figure(1), figure(2)])
    (after,) = track([before])
    for name in ("xy", "score", "box", "box_score", "visibility"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert track([NOBODY])[0].id is not None or len(track([NOBODY])[0]) == 0


def surer(people: People, *scores: float) -> People:
    return replace(people, box_score=np.float32(scores))


def test_max_people_follows_the_same_ones_whose_box_is_surest_at_first():
    shapes = [figure(1), figure(2), figure(3)]
    frames = []
    for i in range(24):  # which box is the surest changes from frame to frame, and so does the order
        all_three = people_at([(100 + 4 * i, 100), (500, 100), (900 - 4 * i, 100)], shapes)
        scores = (0.5, 0.9, 0.8) if i % 2 == 0 else (0.95, 0.6, 0.4)
        frames.append(surer(all_three, *scores)[np.argsort(scores)[::-1]])
    for count, kept in ((1, [500]), (2, [500, 900])):
        for i, people in enumerate(track(frames, max_people=count)):
            assert len(set(people.id.tolist())) == count
            lefts = [500 if left == 500 else 900 - 4 * i for left in kept]
            np.testing.assert_allclose(people.box[:, 0] - np.stack(shapes[1 : 1 + count]).min(1)[:, 0], lefts)


@pytest.mark.parametrize(("missing", "who"), [(10, 0), (11, 1)])
def test_a_place_is_free_when_its_owner_is_gone_for_long(missing, who):
    shapes = [figure(1), figure(2)]
    both = surer(people_at([(100, 100), (600, 100)], shapes), 0.9, 0.5)
    tracked = track([both, *[both[[1]]] * missing, both], max_people=1)
    assert [people.id.tolist() for people in tracked[1:11]] == [[]] * 10
    assert tracked[-1].id.tolist() == [who]


def test_max_people_below_one_is_refused():
    with pytest.raises(ValueError, match="max_people must be at least 1"):
        Tracker(max_people=0)


def test_people_put_back_have_the_row_of_their_id():
    shapes = [figure(1), figure(2)]
    both = people_at([(100, 100), (600, 100)], shapes)
    filled = fill_gaps(track([both, both[[1]], both]), max_gap=2)
    assert [people.id.tolist() for people in filled] == [[0, 1]] * 3


def walk(count: int, speed: float = 4.0) -> list[People]:
    return track([people_at([(100 + speed * i, 100)], [figure(1)]) for i in range(count)])


def test_a_missing_person_is_put_back_on_the_straight_line():
    truth = walk(20)
    broken = [replace(NOBODY, id=np.zeros(0)) if 7 <= i < 10 else people for i, people in enumerate(truth)]
    filled = fill_gaps(broken, max_gap=3)
    assert len(filled) == 20
    for got, want in zip(filled, truth, strict=True):
        assert got.id.tolist() == [0]
        np.testing.assert_allclose(got.xy, want.xy, atol=1e-3)
        np.testing.assert_allclose(got.score, want.score)
        np.testing.assert_allclose(got.visibility, want.visibility)
        np.testing.assert_allclose(got.box, want.box, atol=1e-3)


def test_a_gap_one_frame_too_long_stays_a_gap():
    broken = [replace(NOBODY, id=np.zeros(0)) if 7 <= i < 11 else people for i, people in enumerate(walk(20))]
    assert [len(people) for people in fill_gaps(broken, max_gap=3)] == [len(people) for people in broken]


def drop(people: People, k: int) -> People:
    score, xy = people.score.copy(), people.xy.copy()
    score[:, k], xy[:, k] = 0.05, -50
    return replace(people, score=score, xy=xy)


def test_a_flickering_point_is_filled_and_its_neighbours_are_left_alone():
    truth = walk(12)
    broken = [drop(people, 9) if 4 <= i < 6 else people for i, people in enumerate(truth)]
    for got, want in zip(fill_gaps(broken, max_gap=2), truth, strict=True):
        np.testing.assert_allclose(got.xy, want.xy, atol=1e-3)
        np.testing.assert_allclose(got.score, want.score)
    for got, want in zip(fill_gaps(broken, max_gap=1), broken, strict=True):
        np.testing.assert_array_equal(got.score, want.score)
        np.testing.assert_array_equal(got.xy, want.xy)


def test_nothing_is_invented():
    """Points never seen stay unseen; nothing appears before the first or after the last sighting, or for a stranger."""
    truth = [drop(people, 50) for people in walk(12)]
    frames = [replace(NOBODY, id=np.zeros(0)) if i < 2 or i >= 10 or i == 5 else p for i, p in enumerate(truth)]
    filled = fill_gaps(frames, max_gap=5)
    assert [len(people) for people in filled] == [0, 0, *[1] * 8, 0, 0]
    assert max(people.score[:, 50].max(initial=0) for people in filled) < 0.3
    stranger = [replace(p, id=p.id + 7) if i > 5 else p for i, p in enumerate(frames)]
    assert len(fill_gaps(stranger, max_gap=5)[5]) == 0


def test_a_filled_point_is_no_surer_than_its_ends():
    frames = [replace(p, score=np.full_like(p.score, s)) for p, s in zip(walk(3), (0.9, 0.0, 0.4), strict=True)]
    np.testing.assert_allclose(fill_gaps(frames, max_gap=1)[1].score, 0.4)


@pytest.mark.parametrize("count", [0, 1, 3, 6])
def test_the_filler_gives_every_frame_once_and_late_by_max_gap_plus_one(count):
    filler = GapFiller(max_gap=2)
    given = [len(filler.push(people)) for people in walk(count)]
    assert given == [int(i >= 3) for i in range(count)]
    assert sum(given) + len(filler.flush()) == count


def shake(frames: list[People], pixels: float) -> list[People]:
    rng = np.random.default_rng(3)
    return [replace(p, xy=p.xy + rng.normal(0, pixels, p.xy.shape).astype(np.float32)) for p in frames]


def jitter(frames: list[People]) -> float:
    """RMS of the second difference: zero for even motion."""
    return float(np.sqrt(np.square(np.diff(np.stack([p.xy for p in frames]), n=2, axis=0)).mean()))


def error(frames: list[People], truth: list[People]) -> np.ndarray:
    return np.linalg.norm(np.stack([a.xy - b.xy for a, b in zip(frames, truth, strict=True)]), axis=-1)


def test_jitter_falls_and_still_people_come_closer_to_the_truth():
    truth = walk(120, speed=0)
    noisy = shake(truth, 1.0)
    calm = smooth(noisy, FPS)
    assert jitter(calm) < 0.25 * jitter(noisy)
    assert error(calm, truth)[30:].mean() < 0.55 * error(noisy, truth)[30:].mean()


@pytest.mark.parametrize("speed", [2, 6, 15, 40])
def test_lag_at_constant_speed_stays_below_its_bound(speed):
    truth = walk(120, speed=speed)
    size = np.sqrt(np.prod(truth[0].box[0, 2:] - truth[0].box[0, :2]))
    lag = error(smooth(truth, FPS, beta=20), truth)[90:]  # once the speed is known
    assert lag.max() <= size / (2 * np.pi * 20) * 1.001
    assert lag.max() > 0.05  # it is a filter, not a copy


def test_smoothing_does_not_depend_on_resolution():
    noisy = shake(walk(40), 1.5)
    large = [replace(p, xy=p.xy * 3, box=p.box * 3) for p in noisy]
    for a, b in zip(smooth(noisy, FPS), smooth(large, FPS), strict=True):
        np.testing.assert_allclose(a.xy * 3, b.xy, rtol=1e-4)


def test_variable_frame_rate_is_respected():
    """Frames dropped from an even film: with true times the rest comes out nearly where it was, with wrong ones not."""
    truth = walk(90, speed=6)
    keep = [i for i in range(90) if i % 3 or i < 6]
    some = [truth[i] for i in keep]
    with_times = error(smooth(some, times=[i / FPS for i in keep]), some)[20:].mean()
    size = np.sqrt(np.prod(truth[0].box[0, 2:] - truth[0].box[0, :2]))
    assert with_times < size / (2 * np.pi * 20)
    with pytest.raises(ValueError, match="must rise"):
        smooth(some[:2], times=[1.0, 1.0])


def test_a_point_that_returns_starts_afresh():
    frames = walk(30, speed=0)
    frames = [drop(p, 9) if 10 <= i < 25 else p for i, p in enumerate(frames)]
    after = smooth(frames, FPS)[25]
    np.testing.assert_allclose(after.xy[0, 9], frames[25].xy[0, 9])


def test_points_above_a_lower_threshold_are_smoothed_too():
    """Shaking points of score 0.25 are left alone where 0.3 is asked for, and held still where 0.2 is."""
    frames = [replace(people, score=people.score * 0 + 0.25) for people in shake(walk(60, 0.0), 3.0)]
    before = jitter(frames)
    kept, calmed = (jitter(smooth(track(frames), 30, threshold=value)) for value in (0.3, 0.2))
    assert kept == pytest.approx(before, rel=1e-3) and calmed < 0.6 * before


def test_a_doubtful_outlier_pulls_less_than_a_sure_one():
    pulled = []
    for score in (0.9, 0.1):
        frames = walk(20, speed=0)
        xy, scores = frames[15].xy.copy(), frames[15].score.copy()
        xy[0, 9] += 40
        scores[0, 9] = score
        frames[15] = replace(frames[15], xy=xy, score=scores)
        pulled.append(np.abs(smooth(frames, FPS)[15].xy[0, 9] - frames[14].xy[0, 9]).max())
    assert pulled[1] < 0.4 * pulled[0]


def test_smoothing_keeps_people_apart_when_their_order_changes():
    shapes = [figure(1), figure(2)]
    frames = []
    for i in range(20):
        people = replace(people_at([(100, 100), (700, 100)], shapes), id=np.array([3, 8]))
        frames.append(people[[1, 0]] if i % 2 else people)
    for got, want in zip(smooth(frames, FPS), frames, strict=True):
        np.testing.assert_allclose(got.xy, want.xy, atol=1e-3)
        assert got.id.tolist() == want.id.tolist()


def test_streaming_equals_the_three_functions():
    frames = shake(walk(40), 1.0)
    frames = [NOBODY if i in (11, 12, 30) else replace(p, id=None) for i, p in enumerate(frames)]
    steady = Steady(Tracker(), GapFiller(5), OneEuro())
    streamed = [done for i, people in enumerate(frames) for done in steady.push(people, i / FPS)] + steady.flush()
    for got, want in zip(streamed, smooth(fill_gaps(track(frames), 5), FPS), strict=True):
        np.testing.assert_allclose(got.xy, want.xy, atol=1e-4)
        assert got.id.tolist() == want.id.tolist() == [0]


def test_memory_does_not_grow_with_the_number_of_tracks():
    steady = Steady(Tracker(max_age=3), GapFiller(2), OneEuro())
    for i in range(300):
        steady.push(people_at([((i * 200) % 1200, 100)], [figure(1)]), i / FPS)
    assert len(steady.tracker._tracks) < 12
    assert len(steady.euro._rows) < 12
    assert len(steady.filler._last) < 12


@pytest.mark.parametrize(
    "call",
    [
        lambda: smooth([NOBODY], fps=0),
        lambda: smooth([people_at([(0, 0)], [figure(1)])], FPS),
        lambda: fill_gaps([people_at([(0, 0)], [figure(1)])]),
        lambda: fill_gaps([], -1),
        lambda: track([], min_similarity=2),
        lambda: smooth([], FPS, min_cutoff=0),
        lambda: smooth([NOBODY], times=[]),
    ],
)
def test_what_makes_no_sense_is_refused(call):
    with pytest.raises(ValueError, match=r"^(?!zip)"):
        call()


def test_max_people_holds_when_long_gaps_are_filled():
    shapes = [figure(1), figure(2)]
    both = surer(people_at([(100, 100), (600, 100)], shapes), 0.9, 0.5)
    clip = [both, *[both[[1]]] * 14, both[[0]], both]
    steady = Steady(Tracker(max_people=1), GapFiller(40))
    done = [people for i, frame in enumerate(clip) for people in steady.push(frame, i / FPS)] + steady.flush()
    assert len(done) == len(clip)
    assert [len(people) for people in done] == [1] * len(clip)


@pytest.mark.parametrize("fps", [1, 3, 3.9, 25])
def test_slow_clips_are_smoothed_too(fps):
    noisy = shake(walk(60, speed=0), 1.0)
    assert jitter(smooth(noisy, fps)) < 0.9 * jitter(noisy)
