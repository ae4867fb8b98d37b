"""Everything that synthetic_run does on a device names it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dwpose_core.models.rtmcc import create_model
from tests.synthetic_tools import NamesItsDevice, generator
from training.label_objective import as_batch
from training.synthetic import torch_composite as batched
from training.synthetic.composite import MILD
from training.synthetic.items import Item, Material
from training.synthetic.light import Light
from training.synthetic.meshes import Mesh, View, light_row
from training.synthetic.torch_render import TorchRenderer, seen
from training.synthetic_stage import build_objective


def test_the_device_check_finds_what_it_should():
    with pytest.raises(AssertionError, match="arange"), NamesItsDevice():
        torch.arange(3)
    with NamesItsDevice(), torch.device("cpu"):
        torch.arange(3)


@pytest.mark.parametrize("kind", ["labels", "stage1", "stage2"])
def test_every_tensor_names_its_device(layers, around, kind):
    torch.manual_seed(0)
    teacher = None if kind == "labels" else create_model("debug")
    objective = build_objective(kind, create_model("debug"), teacher)
    index = torch.arange(12)
    with NamesItsDevice():
        made = batched.composite_batch(layers, index, around, (64, 64), generator(0), MILD)
        loss = objective(as_batch(made))["loss"]
        loss.backward()
    assert torch.isfinite(loss)


def test_the_rasteriser_names_its_device():
    """One person-like job: folds, a pattern, a veil, a hem; drawn twice to two views."""
    points = np.array([(-9, -9, 0), (9, -9, 0), (0, 9, 0)], float)
    cloth = Material(folds=(0.1, 10.0), weave=4)
    veil = Material(translucent=True, opacity=0.5)
    items = [
        Item(
            points + np.array((0, 0, z)),
            np.tile((0.0, 0.0, 1.0), (3, 1)),
            points[:, :2],
            np.array(((0, 1, 2),)),
            m,
            inside,
        )
        for z, m, inside in ((0, cloth, None), (1, veil, None), (2, cloth, np.array((1.0, -1.0, -1.0))))
    ]
    light = light_row(Light(np.ones((9, 3)) * 0.1, np.array((0.0, 0.0, 1.0)), np.ones(3)))
    views = [View(np.eye(3), np.array((0.0, 0.0, -z)), (-0.3, 0.3, -0.4, 0.4), light) for z in (20.0, 30.0)]
    renderer = TorchRenderer((24, 32), [], "cpu")
    labels = torch.zeros(2, 133, 2), torch.ones(2, 133), torch.zeros(2, 4)
    with NamesItsDevice():
        drawn = renderer.draw([(Mesh.of(items, {}), views)])
        flags = seen(labels[0], labels[1], drawn.distance, (24, 32), labels[2])
    assert drawn.rgba.shape == (2, 32, 24, 4) and flags.shape == (2, 133)
    near, far = (int((picture[..., 3] > 128).sum()) for picture in drawn.rgba)
    assert near > far > 50
