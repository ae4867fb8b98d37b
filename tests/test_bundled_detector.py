"""The person detector in the box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dwpose_core
from dwpose_core.backends import TorchRunner
from dwpose_core.models import catalogue
from dwpose_core.models.weights import load_detector
from dwpose_core.pipeline import Options, find_boxes
from tests.detection_toys import FAR
from training.detection.evaluate import hits, photographs, recall_precision
from training.detection.scenes import box_of, cut_layer
from training.synthetic.composite import lay_over, similarity


@pytest.fixture(scope="module")
def rendered(assets, egl) -> np.ndarray:
    """A rendered person on a grey wall, (240, 320, 3), 80 pixels from the left, 200 high."""
    from training.synthetic.generate import PersonGenerator

    layer = PersonGenerator(assets, (192, 256), supersample=1).person(seed=5, number=2, framing="full")
    return layer.rgba


def test_bundled_detector_works_offline_and_finds_a_person(rendered, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    entry = catalogue.find("yolox-cspnext-s", "detector")
    net = load_detector("yolox-cspnext-s", local_files_only=True)
    assert net.config.input_size == entry.input_size and net.config.num_classes == 1
    assert 0 < Path(net.source).stat().st_size < 20e6
    assert {t.dtype for t in load_file(net.source).values() if t.is_floating_point()} == {torch.float16}
    cut = cut_layer(rendered, FAR)
    scale = 200 / (cut.extent[3] - cut.extent[1])
    matrix = similarity(0.0, scale, cut.extent[:2] - 0.5, np.array((100.0, 20.0)))
    wall = np.linspace(90, 160, 320)[None, :, None] * np.ones((240, 320, 3), np.float32)
    image, alpha = lay_over(wall.astype(np.float32), rendered, matrix)
    runner = TorchRunner(net, "cpu")
    pictures = [np.clip(image, 0, 255).astype(np.uint8), wall.astype(np.uint8)]
    (boxes, _), (nobody, _) = find_boxes(pictures, runner, Options())
    assert hits(box_of(alpha, 1)[None], boxes).sum() == 1
    assert len(nobody) == 0


def test_bundled_detector_finds_people_in_photographs(shared):
    """The figures of its card, with room for rounding: one of the 14 people is 0.07."""
    folder = shared / "realbench_dev"
    images, boxes, _ = zip(*photographs(folder / "realbench_dev.json", folder / "images"), strict=True)
    net = load_detector("yolox-cspnext-s", local_files_only=True)
    found = find_boxes(list(images), TorchRunner(net, "cpu"), Options())
    rates = recall_precision(boxes, found, Options.detector_threshold, least_height=64)
    assert rates["people"] == 14 and rates["recall"] >= 0.78 and rates["precision"] >= 0.68


def test_bundled_detector_card():
    text = (Path(dwpose_core.__file__).parent / "bundled" / "yolox-cspnext-s.md").read_text()
    for word in ("CC0", "python -m training.bundled yolox-cspnext-s", "recall", "precision", "cannot", "320"):
        assert word in text
