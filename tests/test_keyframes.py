"""Boxes between the frames that the detector looks at."""

from __future__ import annotations

import numpy as np
import pytest

from dwpose_core import keyframes
from dwpose_core.keyframes import KeyframeDetector
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
