"""Boxes between the frames that the detector looks at."""

from __future__ import annotations

import numpy as np
import pytest

from dwpose_core import keyframes
from dwpose_core.keyframes import KeyframeDetector, SparseDetection
from dwpose_core.people import People
from dwpose_core.pipeline import Options


@pytest.fixture
def looked_at(monkeypatch):
    """A detector that finds somebody who walks 2 pixels a frame and is less sure from frame to frame, and somebody else
    in frame 4 only; the frames it looks at."""
    numbers = []

    def find_boxes(images, detector, options):
        found = []
        for number in (int(image[0, 0, 0]) for image in images):
            numbers.append(number)
            boxes = [[10 + 2 * number, 5, 40 + 2 * number, 80], [90, 10, 120, 90]][: 2 if number == 4 else 1]
            found.append((np.float32(boxes), np.float32([0.9 - 0.1 * number, 0.3][: len(boxes)])))
        return found

    monkeypatch.setattr(keyframes, "find_boxes", find_boxes)
    return numbers


def test_boxes_go_along_a_line_with_the_lower_score(looked_at):
    frames = [np.full((96, 128, 3), number, np.uint8) for number in range(7)]
    detector = KeyframeDetector(None, Options(), frames.__getitem__, 7, 4)
    found = [*detector.boxes(0, 3), *detector.boxes(3, 7)]
    assert looked_at == [0, 4, 6]
    for number, (boxes, _) in enumerate(found):
        np.testing.assert_allclose(boxes[0], [10 + 2 * number, 5, 40 + 2 * number, 80])
    # Who is seen in frame 4 alone is in the frames nearer to it; half way, the earlier of the two counts.
    expected = [[0.9], [0.5], [0.5], [0.5, 0.3], [0.5, 0.3], [0.3, 0.3], [0.3]]
    for (_, scores), wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(scores, wanted, rtol=1e-6)


class Walker:
    """Stands for a DWposeDetector: its people have the boxes that they are given, or those of `looked_at`."""

    detector, options = "somebody", Options()

    def detect(self, images, boxes, **changes):
        people = []
        for own in boxes:
            count = len(own)
            points, scores = np.zeros((count, 133, 2)), np.ones((count, 133))
            found = People(points, scores, own, np.ones(count), images[0].shape[:2], source="walker")
            people.append(found[: changes["max_people"]])
        return people


@pytest.mark.parametrize(
    ("every", "chunk", "keys"),
    [(3, 3, [0, 2, 5, 8, 9]), (3, 6, [0, 2, 5, 6, 9]), (3, 100, [0, 3, 6, 9]), (1, 4, [*range(10)]), (20, 100, [0, 9])],
)
def test_every_nth_frame_of_a_film_is_looked_at(looked_at, every, chunk, keys):
    frames = [np.full((96, 128, 3), number, np.uint8) for number in range(10)]
    detect = SparseDetection(Walker(), every)
    people = [p for start in range(0, 10, chunk) for p in detect(frames[start : start + chunk], max_people=1)]
    assert looked_at == keys
    for number, person in enumerate(people):
        np.testing.assert_allclose(person.box, [[10 + 2 * number, 5, 40 + 2 * number, 80]], atol=1e-4)
    surest = [0.9 - 0.1 * next(key for key in keys if key >= number) for number in range(10)]
    np.testing.assert_allclose([p.box_score[0] for p in people], surest, atol=1e-6)
    assert {p.source for p in people} == {"? + walker"}, "the detector, which has no description here, had its part"


def test_image_batch_is_how_many_frames_the_detector_gets(looked_at, monkeypatch):
    batches, find_boxes = [], keyframes.find_boxes

    def counted(images, detector, options):
        batches.append(len(images))
        return find_boxes(images, detector, options)

    monkeypatch.setattr(keyframes, "find_boxes", counted)
    frames = [np.full((96, 128, 3), number, np.uint8) for number in range(10)]
    KeyframeDetector(None, Options(image_batch=3), frames.__getitem__, 10, 2).boxes(0, 10)
    SparseDetection(Walker(), 2)(frames, image_batch=4, max_people=1)
    assert batches == [3, 3, 4, 2] and looked_at == [0, 2, 4, 6, 8, 9, 0, 1, 3, 5, 7, 9]


def test_no_frames_have_nobody(looked_at):
    from dwpose_core.preprocessor import DWposeDetector
    from tests.stand_ins import FigurePose, Nobody

    assert SparseDetection(DWposeDetector(FigurePose(), Nobody()), 3)([]) == [] and not looked_at


def test_so_many_frames_a_call_that_none_is_looked_at_for_the_call_alone():
    assert [SparseDetection(Walker(), 5).chunk(frames) for frames in (1, 5, 8)] == [5, 5, 10]


@pytest.mark.parametrize(("detector", "every"), [(None, 5), ("somebody", 0)])
def test_what_cannot_be_looked_at_every_nth_frame_is_refused(detector, every):
    walker = Walker()
    walker.detector = detector
    with pytest.raises(ValueError, match=r"every (Nth|1 or more) frame"):
        SparseDetection(walker, every)
