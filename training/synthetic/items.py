"""What renderers draw: meshes with materials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Material:
    """Colours are linear RGB. A texture with `recolor` lends only its brightness to `plain`."""

    texture: Path | None = None
    occlusion: Path | None = None
    recolor: bool = False
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    plain: tuple[float, float, float] = (0.5, 0.5, 0.5)
    shine: float = 0.03
    weave: int = 0  # 0 none, 1 and 2 stripes, 3 checks, 4 blotches, 5 dots, 6 one broad band
    weave_color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    weave_form: tuple[float, float, float] = (10.0, 0.5, 0.8)
    folds: tuple[float, float] = (0.0, 10.0)
    translucent: bool = False
    alpha_min: float = 0.08
    opacity: float = 1.0  # of translucent materials
    catcher: bool = False  # invisible but for the shadows that fall on it


@dataclass(frozen=True)
class Item:
    """One drawing call. Arrays are per drawn vertex; `inside` (dm to the hem, negative is cut away) may be None."""

    positions: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    index: np.ndarray
    material: Material
    inside: np.ndarray | None = None
