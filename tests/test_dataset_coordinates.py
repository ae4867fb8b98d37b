"""Stored places are those in the file, whatever size the networks looked at."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dwpose_core.dataset.decode import Task, decode
from dwpose_core.dataset.extract import _settle
from dwpose_core.people import People


@pytest.mark.parametrize(("kind", "side"), [("PNG", 160), ("PNG", 61), ("JPEG", 80), ("JPEG", 61)])
def test_places_found_in_a_shrunk_picture_are_those_of_the_original(kind, side):
    """A bright square, 60 x 20 pixels around (229.5, 119.5), by its centre of mass in what the networks get to see."""
    picture = np.zeros((320, 400, 3), np.uint8)
    picture[110:130, 200:260] = 255
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    seen = decode(Task({"key": "square"}, data=file.getvalue(), short_side=side))
    assert min(seen.image.shape[:2]) == side
    light = seen.image[..., 0] / seen.image[..., 0].sum(dtype=float)
    place = (light.sum(0) @ np.arange(light.shape[1]), light.sum(1) @ np.arange(light.shape[0]))
    box = np.concatenate([np.subtract(place, 10), np.add(place, 10)])
    found = People(np.tile(place, (1, 133, 1)), np.ones((1, 133)), box[None], [1], light.shape)
    people = _settle(found, seen.size, "")
    assert people.image_size == (320, 400)
    np.testing.assert_allclose(people.xy[0, 0], (229.5, 119.5), atol=0.2)
    np.testing.assert_allclose(people.box.reshape(2, 2).mean(axis=0), (229.5, 119.5), atol=0.2)
