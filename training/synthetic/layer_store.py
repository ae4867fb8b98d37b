"""What training.synthetic.generate and training.synthetic.objects left on disk, read back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..pictures import imread


def read_rgba(path: Path) -> np.ndarray:
    """(h, w, 4) uint8 RGBA. WebP drops an alpha that is 255 everywhere, as in close-ups; it is put back."""
    picture = imread(path, cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3:
        raise ValueError(f"{path} is not a readable RGBA picture")
    return cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA if picture.shape[2] == 4 else cv2.COLOR_BGR2RGBA)


class LayerStore:
    """All layers of a folder with their labels; pictures are decoded on first use and kept."""

    def __init__(self, folder: Path):
        tables = [np.load(path) for path in sorted(folder.glob("labels_*.npz"))]
        if not tables:
            raise ValueError(f"{folder} holds no labels_*.npz; run training.synthetic.generate first")
        fields = ("names", "keypoints", "visible", "frame", "framing")
        columns = [np.concatenate([t[f] for t in tables]) for f in fields]
        names, self.keypoints, self.visible, self.frame, self.framing = columns
        self.paths = [folder / str(name) for name in names]
        self._decoded: list[np.ndarray | None] = [None] * len(names)

    def __len__(self) -> int:
        return len(self.paths)

    def rgba(self, index: int) -> np.ndarray:
        """(h, w, 4) uint8, straight alpha."""
        if self._decoded[index] is None:
            self._decoded[index] = read_rgba(self.paths[index])
        return self._decoded[index]


def read_objects(folder: Path) -> list[np.ndarray]:
    """All RGBA pictures written by training.synthetic.objects."""
    paths = sorted(folder.glob("*.webp"))
    if not paths:
        raise ValueError(f"{folder} holds no .webp pictures; run training.synthetic.objects first")
    return [read_rgba(path) for path in paths]
