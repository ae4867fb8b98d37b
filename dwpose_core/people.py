"""People: the value type that crosses every boundary of the package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .skeleton import NUM_KEYPOINTS, PARTS

# Letters used in shapes here and elsewhere: P people, K = 133 keypoints.

SEEN = 0.3  # score from which a point counts as seen; the original DWPose draws from here


@dataclass(frozen=True, eq=False)
class People:
    """All people of one image, P >= 0, in numpy arrays on the CPU.

    Attributes:
        xy: (P, 133, 2) float32, pixels of the original image, x right and y down; whole numbers are pixel centres.
            Points may lie outside the image. A point the network rejected (score <= 0) still has coordinates.
        score: (P, 133) float32, the raw SimCC score: the smaller of the two axis maxima (RTMPose). Not a probability:
            it can exceed 1. The original DWPose draws what reaches 0.3.
        box: (P, 4) float32, xyxy in pixels of the original image: the box the keypoints were estimated from.
        box_score: (P,) float32, detector confidence in 0..1; 1 for boxes that were given, not detected.
        image_size: (H, W) of the original image in pixels.
        id: (P,) int64 track ids, or None before tracking.
        visibility: (P, 133) float32 in 0..1, calibrated next to `score` (see `simcc.visibility`), or None where the
            keypoints did not come from a network.
        source: which weights on which device produced this, for people to read; "" when unknown.

    Arrays that have these types already are kept, not copied: who changes them later changes the people.

    Raises:
        ValueError: when an array has the wrong shape.
    """

    xy: np.ndarray
    score: np.ndarray
    box: np.ndarray
    box_score: np.ndarray
    image_size: tuple[int, int]
    id: np.ndarray | None = None
    visibility: np.ndarray | None = None
    source: str = ""

    def __post_init__(self) -> None:
        count = len(self.xy)
        shapes = {
            "xy": (count, NUM_KEYPOINTS, 2),
            "score": (count, NUM_KEYPOINTS),
            "box": (count, 4),
            "box_score": (count,),
            "visibility": (count, NUM_KEYPOINTS),
            "id": (count,),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None and name in ("id", "visibility"):
                continue
            array = np.asarray(value, dtype=np.int64 if name == "id" else np.float32)
            if array.shape != shape:
                raise ValueError(f"People.{name} must have shape {shape} (P={count} from xy), got {array.shape}")
            object.__setattr__(self, name, array)
        height, width = (int(side) for side in self.image_size)
        if height < 1 or width < 1:
            raise ValueError(f"People.image_size must be (H, W) with both >= 1, got {self.image_size}")
        object.__setattr__(self, "image_size", (height, width))

    @classmethod
    def empty(cls, image_size: tuple[int, int], source: str = "") -> People:
        """Nobody found in an image of size (H, W)."""
        return cls(
            xy=np.zeros((0, NUM_KEYPOINTS, 2), np.float32),
            score=np.zeros((0, NUM_KEYPOINTS), np.float32),
            box=np.zeros((0, 4), np.float32),
            box_score=np.zeros(0, np.float32),
            image_size=image_size,
            visibility=np.zeros((0, NUM_KEYPOINTS), np.float32),
            source=source,
        )

    def __repr__(self) -> str:
        """One line: how many, how sure, where from; the arrays of one person fill a screen."""
        shown = [f"box_score={[round(float(score), 2) for score in self.box_score]}", f"image_size={self.image_size}"]
        shown += [f"id={self.id.tolist()}"] if self.id is not None else []
        shown += [f"source={self.source!r}"] if self.source else []
        return f"People({len(self)}, {', '.join(shown)})"

    def __len__(self) -> int:
        return len(self.xy)

    def __getitem__(self, index) -> People:
        """Select people by int, slice, index list or boolean mask (P,); always returns People."""
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"person {index} of {len(self)}")
            index = [int(index)]
        if not isinstance(index, slice):
            index = np.asarray(index)
            index = index.astype(np.int64) if index.size == 0 else index  # numpy takes an empty list for floats
        pick = np.arange(len(self))[index]
        return People(
            xy=self.xy[pick],
            score=self.score[pick],
            box=self.box[pick],
            box_score=self.box_score[pick],
            image_size=self.image_size,
            id=None if self.id is None else self.id[pick],
            visibility=None if self.visibility is None else self.visibility[pick],
            source=self.source,
        )

    def __iter__(self) -> Iterator[People]:
        """One People of length 1 per person."""
        return (self[i] for i in range(len(self)))

    def part(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """xy (P, n, 2) and score (P, n) of "body", "foot", "face", "left_hand" or "right_hand" (views)."""
        if name not in PARTS:
            raise ValueError(f"unknown part {name!r}; choose one of {', '.join(PARTS)}")
        return self.xy[:, PARTS[name]], self.score[:, PARTS[name]]
