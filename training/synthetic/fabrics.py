"""Materials of cloth: colours, patterns, prints."""

from __future__ import annotations

import colorsys
from dataclasses import replace
from pathlib import Path

import numpy as np

from .garments import Fabric
from .items import Item, Material


def random_color(rng: np.random.Generator) -> np.ndarray:
    """Linear RGB of cloth: a third nearly black, greys often, washed-out hues more often than pure ones."""
    kind = rng.random()
    if kind < 0.3:  # black, navy, charcoal, dark brown: an arm before the chest hardly shows
        shade = np.exp(rng.uniform(np.log(0.006), np.log(0.06)))
        return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.6), 1.0)) * shade
    if kind < 0.55:
        return np.clip(rng.uniform(0.01, 0.85) ** 1.4 * rng.uniform(0.92, 1.08, 3), 0, 1)
    saturation = rng.random() ** (0.8 if kind < 0.8 else 0.35)
    return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.1, 1.0))) ** 1.8


def random_cloth(rng: np.random.Generator) -> Material:
    """Plain or patterned fabric, most of it with folds."""
    weave = int(rng.choice(7, p=(0.5, 0.09, 0.08, 0.1, 0.12, 0.05, 0.06)))
    return Material(
        plain=tuple(random_color(rng)),
        shine=rng.uniform(0, 0.08),
        weave=weave,
        weave_color=tuple(random_color(rng)),
        weave_form=(rng.uniform(4, 18 if weave == 4 else 45), rng.random(), rng.uniform(0.3, 1.0)),
        folds=(rng.uniform(0.02, 0.14) * (rng.random() < 0.8), rng.uniform(6, 22)),
    )


def muted(items: list[Item], rng: np.random.Generator) -> list[Item]:
    """The items in less pure colours, all by the same random share: people dress more quietly than dice do."""
    keep = rng.beta(1.2, 1.4)

    def grey(color: tuple[float, ...]) -> tuple[float, ...]:
        mean = sum(color) / 3
        return tuple(mean + (c - mean) * keep for c in color)

    return [
        replace(item, material=replace(m, plain=grey(m.plain), weave_color=grey(m.weave_color)))
        for item in items
        for m in (item.material,)
    ]


def printed(material: Material, picture: Path, rng: np.random.Generator) -> Fabric:
    """Cloth printed all over with a photograph, which is between 15 cm and 2 m wide: as it is, washed out, or in one
    colour."""
    width = np.exp(rng.uniform(np.log(0.15), np.log(2.0)))
    angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.5 else rng.normal(0, 0.05)
    turned = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
    scale = turned / (width, width * rng.uniform(0.5, 1.0))
    # Folds are counted per unit of the texture's coordinates.
    folds = (material.folds[0], material.folds[1] * width)
    material = replace(material, texture=picture, weave=0, folds=folds, alpha_min=0.0)
    kind = rng.random()
    if kind < 0.35:
        material = replace(material, tint=(rng.uniform(0.5, 1.0),) * 3)
    elif kind < 0.65:  # a band that is as wide as the cloth mixes its colour into the picture
        material = replace(material, weave=6, weave_form=(1.0, 0.0, rng.uniform(0.3, 0.8)))
    else:
        material = replace(material, recolor=True)
    return Fabric(material, scale, tuple(rng.random(2)))
