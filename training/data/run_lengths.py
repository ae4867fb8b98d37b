"""Masks as COCO json holds them: run lengths down the columns, as a list or as the compressed string.

Runs alternate, the first one is of zeros and may be 0 long. In the string every run after the third is the difference
to the run two before it; a number takes characters of five bits each, lowest first, two's complement, value + 48, and
32 more where another character follows. pycocotools writes and reads the same.
"""

from __future__ import annotations

import numpy as np

BITS, MORE, FIRST = 5, 32, 48


def encode(mask: np.ndarray) -> dict:
    """(h, w) bool -> {"size": [h, w], "counts": compressed string}."""
    flat = np.concatenate(([False], mask.astype(bool).ravel(order="F")))
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate(([0], ends, [mask.size])))
    numbers = np.concatenate((runs[:3], runs[3:] - runs[1:-2]))
    characters = []
    for number in numbers.tolist():
        while True:
            low, number = number & (MORE - 1), number >> BITS
            done = number == (-1 if low & (MORE >> 1) else 0)  # what follows would only repeat the sign
            characters.append(chr(low + FIRST + (0 if done else MORE)))
            if done:
                break
    return {"size": list(mask.shape), "counts": "".join(characters)}


def decode(segmentation: dict) -> np.ndarray:
    """What `encode` or pycocotools wrote, or the same with a list of runs -> (h, w) uint8 of 0 and 1."""
    height, width = segmentation["size"]
    runs = segmentation["counts"]
    runs = runs if isinstance(runs, list) else _read(runs)
    ones = np.arange(len(runs)) % 2
    return np.repeat(ones.astype(np.uint8), runs).reshape(height, width, order="F")


def _read(text: str) -> list[int]:
    runs: list[int] = []
    number = shift = 0
    for character in text:
        value = ord(character) - FIRST
        number |= (value & (MORE - 1)) << shift
        shift += BITS
        if not value & MORE:
            if value & (MORE >> 1):
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return runs
