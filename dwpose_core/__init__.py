"""DWPose whole-body pose estimation in plain PyTorch: 133 keypoints per person, drawn as OpenPose-style control maps.

from dwpose_core import DWposeDetector

detector = DWposeDetector.from_pretrained()
detector("photo.jpg").save("pose.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .formats import from_openpose, to_openpose
    from .models import create_detector, create_model
    from .people import People
    from .pipeline import Options
    from .preprocessor import DWposeDetector

# Loaded on first use, so that `import dwpose_core` costs nothing by itself. `render` is a module of that name and so
# cannot be a function here: from dwpose_core.render import render.
_HOME = {
    "DWposeDetector": "preprocessor",
    "Options": "pipeline",
    "People": "people",
    "create_detector": "models",
    "create_model": "models",
    "from_openpose": "formats",
    "to_openpose": "formats",
}

__all__ = [
    "DWposeDetector",
    "Options",
    "People",
    "create_detector",
    "create_model",
    "from_openpose",
    "to_openpose",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
