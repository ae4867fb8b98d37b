"""Picture files for OpenCV. Its own `imread` and `imwrite` know no names outside of Windows' code page, such as a home
folder in another script; Python opens any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np


def imread(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """`cv2.imread`: None where there is no picture."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError:
        return None
    return cv2.imdecode(data, flags) if len(data) else None


def imwrite(path: Path, picture: np.ndarray, options: Sequence[int] = ()) -> bool:
    """`cv2.imwrite`: False where the disk refuses."""
    done, code = cv2.imencode(path.suffix, picture, options)
    if not done:
        return False
    try:
        path.write_bytes(code)
    except OSError:
        return False
    return True
