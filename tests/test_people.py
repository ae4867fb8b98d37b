"""People: what it refuses, how it is picked from, how it prints."""

from __future__ import annotations

import numpy as np
import pytest

from dwpose_core.people import People
from dwpose_core.skeleton import PARTS

SIZE = (48, 64)


@pytest.fixture
def three() -> People:
    xy = np.arange(3 * 133 * 2, dtype=np.float64).reshape(3, 133, 2)
    boxes, visibility = np.arange(12).reshape(3, 4), np.full((3, 133), 0.5)
    return People(xy, xy[..., 0] / 1e3, boxes, [0.934, 0.5, 0.25], SIZE, [7, 8, 9], visibility, "debug on cpu")


def test_arrays_have_one_type(three):
    assert three.xy.dtype == three.score.dtype == three.box.dtype == three.box_score.dtype == np.float32
    assert three.id.dtype == np.int64 and three.visibility.dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": np.zeros((2, 133))}, r"People\.score must have shape \(3, 133\) \(P=3 from xy\), got \(2, 133\)"),
        ({"xy": np.zeros((3, 17, 2))}, r"People\.xy must have shape \(3, 133, 2\)"),
        ({"box": np.zeros((3, 5))}, r"People\.box "),
        ({"box_score": np.zeros((3, 1))}, r"People\.box_score "),
        ({"id": [1]}, r"People\.id "),
        ({"visibility": np.zeros(3)}, r"People\.visibility "),
        ({"image_size": (0, 64)}, r"both >= 1, got \(0, 64\)"),
        ({"image_size": (48, 0)}, r"both >= 1"),
    ],
)
def test_what_does_not_fit_is_refused(three, changes, message):
    with pytest.raises(ValueError, match=message):
        People(**{**vars(three), **changes})


@pytest.mark.parametrize(
    ("index", "ids"),
    [
        (1, [8]),
        (-1, [9]),
        (np.int64(0), [7]),
        (slice(1, None), [8, 9]),
        ([2, 0], [9, 7]),
        ([], []),
        (np.array([True, False, True]), [7, 9]),
    ],
)
def test_picking_takes_everything_of_somebody(three, index, ids):
    picked = three[index]
    assert picked.id.tolist() == ids and picked.image_size == SIZE and picked.source == three.source
    rows = [list(three.id).index(number) for number in ids]
    for name in ("xy", "score", "box", "box_score", "visibility"):
        np.testing.assert_array_equal(getattr(picked, name), getattr(three, name)[rows])


def test_nobody_is_beyond_the_end(three):
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"person {index} of 3"):
            three[index]
    assert [len(person) for person in three] == [1, 1, 1]
    assert [int(person.id[0]) for person in three] == [7, 8, 9]


def test_parts_are_views(three):
    xy, score = three.part("left_hand")
    assert xy.shape == (3, 21, 2) and score.shape == (3, 21)
    assert np.shares_memory(xy, three.xy) and np.shares_memory(score, three.score)
    np.testing.assert_array_equal(xy, three.xy[:, PARTS["left_hand"]])
    with pytest.raises(ValueError, match="unknown part 'tail'; choose one of body"):
        three.part("tail")


def test_it_prints_in_a_line(three):
    text = "People(3, box_score=[0.93, 0.5, 0.25], image_size=(48, 64), id=[7, 8, 9], source='debug on cpu')"
    assert repr(three) == str(three) == text
    assert repr(People.empty(SIZE)) == "People(0, box_score=[], image_size=(48, 64))"
