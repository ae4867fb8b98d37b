"""Photograph -> detector -> ControlNet pipeline -> picture, with the code of the examples in docs and tiny networks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dwpose_core.preprocessor import DWposeDetector
from tests.stand_ins import FigurePose

tiny_diffusers = pytest.importorskip(
    "tests.tiny_diffusers", reason='needs diffusers and transformers: pip install "dwpose-torch[diffusers]"'
)

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
FAMILIES = ("sd15", "sdxl", "flux", "qwen_image")


@pytest.fixture(scope="module", autouse=True)
def offline():
    """Nothing below may ask the network: everything is made here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """An example and the tiny pipeline that stands for the one it loads."""
    spec = importlib.util.spec_from_file_location(request.param, EXAMPLES / f"{request.param}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    pipe = getattr(tiny_diffusers, request.param)()
    pipe.set_progress_bar_config(disable=True)
    return example, pipe


def photo(height=60, width=90):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_examples_turn_a_photograph_into_a_picture(family):
    example, pipe = family
    detector = DWposeDetector(FigurePose())
    pose_map, picture = example.generate(pipe, detector, photo(), "a dancer", resolution=64, steps=2)
    assert pose_map.size == picture.size == (128, 64)  # 90 x 60: 96 x 64, and halves go to the even multiple of 64
    assert np.array(pose_map).any()
    assert np.array(picture).std() > 0
    _, again = example.generate(pipe, detector, photo(), "a dancer", resolution=64, steps=2)
    np.testing.assert_array_equal(np.array(again), np.array(picture))
    # The pose reaches the picture: someone else's gives another one.
    _, other = example.generate(pipe, DWposeDetector(FigurePose(0.5)), photo(), "a dancer", resolution=64, steps=2)
    assert (np.array(other) != np.array(picture)).any()


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_lists_of_maps_go_into_a_pipeline_as_they_come(family, output_type):
    """Two photographs, two prompts, two pictures: the list for PIL images, the stacked batch for a batch."""
    example, pipe = family
    detector = DWposeDetector(FigurePose())
    images = [photo(), photo()] if output_type == "pil" else torch.rand(2, 3, 60, 90)
    maps = detector(images, 64, 64, output_type=output_type)
    if output_type == "np":
        maps = maps.astype(np.float32) / 255
    name = "image" if example.__name__ in ("sd15", "sdxl") else "control_image"
    if example.__name__ == "qwen_image":
        maps = maps[:1]  # its pipeline takes one control image for all prompts
    pictures = pipe(
        ["a dancer"] * 2,
        **{name: maps},
        height=64,
        width=128,
        num_inference_steps=1,
        generator=torch.Generator().manual_seed(0),
    ).images
    assert [picture.size for picture in pictures] == [(128, 64)] * 2
