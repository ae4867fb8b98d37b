"""People, films and a detector that knows them, for tests of what is made for animation pipelines."""

from __future__ import annotations

import numpy as np

from dwpose_core.people import People
from dwpose_core.pipeline import Options


def figure(center=(100.0, 80.0), size=(160, 200), scale=1.0) -> People:
    """One standing person of about 60 x 120 pixels. Face points on a circle of 10 pixels around the nose."""
    head, neck = (0, -50), (0, -35)
    points = np.tile(np.float32(neck), (133, 1))
    body = [
        head,
        (3, -53),
        (-3, -53),
        (6, -51),
        (-6, -51),
        (14, -35),
        (-14, -35),
        (20, -15),
        (-20, -15),
        (24, 5),
        (-24, 5),
    ]
    points[:11] = body
    points[11:17] = [(9, 5), (-9, 5), (10, 30), (-10, 30), (10, 55), (-10, 55)]
    points[17:23] = [(14, 60), (15, 58), (9, 58), (-14, 60), (-15, 58), (-9, 58)]
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points[23:91] = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 10 + head
    for start, wrist in ((91, (24, 5)), (112, (-24, 5))):
        points[start : start + 21] = np.float32(wrist) + np.stack([np.arange(21) % 5, np.arange(21) // 4], axis=1)
    xy = points * scale + np.float32(center)
    box = np.concatenate([xy.min(axis=0), xy.max(axis=0)])
    return People(xy[None], np.ones((1, 133)), box[None], np.ones(1), size)


class Watcher:
    """Stands for a DWposeDetector: knows who is in which picture by the number written into its first pixel."""

    def __init__(self, frames):
        self.frames, self.seen, self.options = frames, [], Options()

    def detect(self, images, batch_size=None, max_people=None):
        if isinstance(images, np.ndarray):
            return self.detect([images])[0]
        numbers = [int(image[0, 0, 0]) for image in images]
        self.seen += numbers
        return [self.frames[number] for number in numbers]


def film(count, size=(160, 200)):
    frames = [np.full((*size, 3), 90, np.uint8) for _ in range(count)]
    for number, frame in enumerate(frames):
        frame[0, 0] = number
    return frames


def walk(count, step=3.0, **options):
    return [figure(center=(60 + step * number, 80), **options) for number in range(count)]
